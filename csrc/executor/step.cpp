#include "executor/step.h"

#include <stdexcept>

namespace octavo {

void check(const Step& step, const Limits& limits, int64_t groups, int64_t blocks) {
    const auto require = [](bool ok, const char* what) {
        if (!ok) throw std::invalid_argument(what);
    };
    const auto most = [&](Rows kind) { return limits.max_rows[static_cast<size_t>(kind)]; };
    const int64_t tokens = step.tokens(), sequences = step.sequences();
    require(tokens > 0 && tokens <= most(Rows::Tokens), "the step's token count is outside the limits");
    require(step.outputs() <= most(Rows::Outputs), "the step wants more output rows than the limits allow");
    require(static_cast<int64_t>(step.positions.size()) == tokens, "positions is not [T]");
    require(static_cast<int64_t>(step.query_starts.size()) == sequences + 1, "query_starts is not [S + 1]");
    require(step.query_starts[0] == 0 && step.query_starts[sequences] == tokens,
            "query_starts does not cover the tokens");
    for (int32_t id : step.token_ids)
        require(id >= 0 && id < limits.vocab_size, "a token id is outside the vocabulary");
    for (int32_t row : step.output_rows)
        require(row >= 0 && row < tokens, "an output row is outside the step");
    require(step.groups == groups, "block_tables does not have a table for each group of layers");
    for (int64_t s = 0; s < sequences; ++s) {
        const int64_t count = step.query_starts[s + 1] - step.query_starts[s], context = step.context_lens[s];
        require(count > 0 && context >= count, "a sequence's tokens exceed its context");
        require(context <= limits.max_position, "a context is longer than the model's positions");
        require((context + 15) / 16 <= step.table_width, "a block table is too short for its context");
        for (int64_t i = 0; i < count; ++i)
            require(step.positions[step.query_starts[s] + i] == context - count + i,
                    "positions are not a sequence's newest tokens");
        for (int64_t group = 0; group < groups; ++group)
            for (const int32_t block : std::span(step.table(group, s), (context + 15) / 16))
                require(block >= 0 && block < blocks, "a block id is outside the KV cache");
    }
}

}  // namespace octavo
