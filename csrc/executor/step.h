// The input of one step: octavo/runtime/backend.py's Batch.
#pragma once

#include <array>
#include <cstdint>
#include <span>

namespace octavo {

// What the rows of a buffer count; octavo/runtime/program.py has them in the same order.
enum class Rows { Tokens, Outputs };
constexpr size_t kRowKinds = 2;

// A number for each kind of rows.
using ByRows = std::array<int64_t, kRowKinds>;

struct Limits {
    ByRows max_rows;       // of a step
    int64_t max_position;  // most tokens of a sequence
    int64_t vocab_size;

    int64_t max_tokens() const { return max_rows[static_cast<size_t>(Rows::Tokens)]; }
};

struct Step {
    std::span<const int32_t> token_ids;
    std::span<const int32_t> positions;
    std::span<const int32_t> query_starts;
    std::span<const int32_t> context_lens;
    const int32_t* block_tables;  // [KV groups][sequences][table_width]
    int64_t groups;
    int64_t table_width;
    std::span<const int32_t> output_rows;

    int64_t tokens() const { return static_cast<int64_t>(token_ids.size()); }
    int64_t sequences() const { return static_cast<int64_t>(context_lens.size()); }
    int64_t outputs() const { return static_cast<int64_t>(output_rows.size()); }
    int64_t rows(Rows kind) const {
        switch (kind) {
            case Rows::Tokens:
                return tokens();
            case Rows::Outputs:
                return outputs();
        }
        return 0;
    }
    const int32_t* table(int64_t group, int64_t sequence) const {
        return block_tables + (group * sequences() + sequence) * table_width;
    }
};

// Throws std::invalid_argument for a step that does not fit the limits, or a KV cache of `groups` KV groups
// and `blocks` blocks.
void check(const Step& step, const Limits& limits, int64_t groups, int64_t blocks);

}  // namespace octavo
