// The input of one step: octavo/runtime/backend.py's Batch.
#pragma once

#include <cstdint>
#include <span>

namespace octavo {

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
    const int32_t* table(int64_t group, int64_t sequence) const {
        return block_tables + (group * sequences() + sequence) * table_width;
    }
};

}  // namespace octavo
