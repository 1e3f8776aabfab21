#include "executor/executor.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

namespace octavo {

namespace {

// Rows of activations that stay in a core's cache while the panels of a piece pass over them.
constexpr int64_t kRowBlock = 64;
constexpr int64_t kPanelsInPiece = 4;
constexpr int64_t kLeastPanels = 2;
constexpr int64_t kGroupsInPiece = 8;

}  // namespace

void Executor::check(const Step& step) const {
    const auto require = [](bool ok, const char* what) {
        if (!ok) throw std::invalid_argument(what);
    };
    const int64_t tokens = step.tokens(), sequences = step.sequences();
    require(tokens > 0 && tokens <= limits_.max_rows[static_cast<int>(Rows::Tokens)],
            "the step's token count is outside the limits");
    require(step.outputs() <= limits_.max_rows[static_cast<int>(Rows::Outputs)],
            "the step wants more output rows than the limits allow");
    require(static_cast<int64_t>(step.positions.size()) == tokens, "positions is not [T]");
    require(static_cast<int64_t>(step.query_starts.size()) == sequences + 1, "query_starts is not [S + 1]");
    require(step.query_starts[0] == 0 && step.query_starts[sequences] == tokens,
            "query_starts does not cover the tokens");
    for (int32_t id : step.token_ids)
        require(id >= 0 && id < limits_.vocab_size, "a token id is outside the vocabulary");
    for (int32_t row : step.output_rows)
        require(row >= 0 && row < tokens, "an output row is outside the step");
    require(step.groups == groups_, "block_tables does not have a table for each group of layers");
    for (int64_t s = 0; s < sequences; ++s) {
        const int64_t count = step.query_starts[s + 1] - step.query_starts[s], context = step.context_lens[s];
        require(count > 0 && context >= count, "a sequence's tokens exceed its context");
        require(context <= limits_.max_position, "a context is longer than the model's positions");
        require((context + 15) / 16 <= step.table_width, "a block table is too short for its context");
        for (int64_t i = 0; i < count; ++i)
            require(step.positions[step.query_starts[s] + i] == context - count + i,
                    "positions are not a sequence's newest tokens");
        for (int64_t group = 0; group < groups_; ++group)
            for (const int32_t block : std::span(step.table(group, s), (context + 15) / 16))
                require(block >= 0 && block < blocks_, "a block id is outside the KV cache");
    }
}

const float* Executor::run(const Step& step) {
    check(step);
    attention_plan_.make(step, full_groups_);
    for (size_t i = 0; i < 3 * instructions_.size(); ++i)
        counters_[i].next.store(0, std::memory_order_relaxed);
    pool_.run([&](int thread) {
        for (size_t i = 0; i < instructions_.size(); ++i) {
            execute(i, step, thread);
            pool_.barrier();
        }
    });
    return at(result_);
}

void Executor::execute(size_t index, const Step& step, int thread) {
    using Op = Instruction::Op;
    const Instruction& each = instructions_[index];
    const int64_t count = rows(each.output, step);
    const auto row_of = [&](View view, int64_t row) { return at(view) + row * stride(view); };
    switch (each.op) {
        case Op::Embedding:
            share(3 * index, count, 4, [&](int64_t row) {
                const size_t bytes = row_bytes(each.table.encoding, each.table.cols);
                decode_row(each.table.encoding, each.table.data + step.token_ids[row] * bytes,
                           each.table.cols, row_of(each.output, row));
            });
            return;
        case Op::RmsNorm:
            share(3 * index, count, 4, [&](int64_t row) {
                kernels_.rms_norm(row_of(each.inputs[0], row), each.weight, each.eps, each.output.cols,
                                  row_of(each.output, row));
            });
            return;
        case Op::HeadRmsNorm:
            share(3 * index, count, 4, [&](int64_t row) {
                float* head = row_of(each.output, row);
                for (int column = 0; column < each.output.cols; column += each.head_dim)
                    kernels_.rms_norm(head + column, each.weight, each.eps, each.head_dim, head + column);
            });
            return;
        case Op::Rope:
            share(3 * index, count, 4, [&](int64_t row) {
                const float* table = each.weight + int64_t{step.positions[row]} * each.rotary_dim;
                float* head = row_of(each.output, row);
                for (int column = 0; column < each.output.cols; column += each.head_dim)
                    kernels_.rope(head + column, table, each.rotary_dim);
            });
            return;
        case Op::SiluMul:
            share(3 * index, count, 4, [&](int64_t row) {
                kernels_.silu_mul(row_of(each.inputs[0], row), row_of(each.inputs[1], row), each.output.cols,
                                  row_of(each.output, row));
            });
            return;
        case Op::Add:
            share(3 * index, count, 4, [&](int64_t row) {
                kernels_.add(row_of(each.inputs[0], row), row_of(each.inputs[1], row), each.output.cols,
                             row_of(each.output, row));
            });
            return;
        case Op::GatherRows:
            share(3 * index, count, 4, [&](int64_t row) {
                std::memcpy(row_of(each.output, row), row_of(each.inputs[0], step.output_rows[row]),
                            each.output.cols * sizeof(float));
            });
            return;
        case Op::Linear:
            return linear(each, count, index, thread);
        case Op::Attention:
            return attention(each, step, index, thread);
    }
}

void Executor::linear(const Instruction& each, int64_t rows, size_t index, int) {
    const View x = each.inputs[0];
    if (each.integer) {
        // Whole tiles by whole cache lines: two threads never write the same one.
        const int64_t groups = x.cols / kGroup, height = kernels_.tile_rows;
        const int64_t tiles = (rows + height - 1) / height,
                      chunks = (groups + kGroupsInPiece - 1) / kGroupsInPiece;
        share(3 * index, tiles * chunks, 1, [&](int64_t item) {
            const int64_t row = item / chunks * height, group = item % chunks * kGroupsInPiece;
            kernels_.quantise_tile(at(x), stride(x), each.order, row, std::min(height, rows - row), x.cols,
                                   group, std::min(kGroupsInPiece, groups - group), quantised_);
        });
        pool_.barrier();
    }
    const LinearInput input{at(x), stride(x), quantised_};
    const bool add = each.inputs.size() > 1;
    // Panels [first, last), counted over all parts.
    const auto compute = [&](int64_t first, int64_t last, int64_t first_row, int64_t count) {
        for (const LinearPart& part : each.parts) {
            const int64_t panels = part.weight.panels(), end = std::min(last, panels);
            const LinearOutput output{at(each.output) + part.column, stride(each.output), part.bias,
                                      add ? at(each.inputs[1]) + part.column : nullptr,
                                      add ? stride(each.inputs[1]) : 0};
            if (first < end)
                kernels_.linear(part.weight, first, end - first, input, first_row, count, output);
            first = std::max<int64_t>(first - panels, 0);
            last -= panels;
            if (last <= 0) return;
        }
    };
    int64_t panels = 0;
    for (const LinearPart& part : each.parts) panels += part.weight.panels();
    if (rows <= kRowBlock)
        return share_shrinking(3 * index + 1, panels, kLeastPanels,
                               [&](int64_t first, int64_t last) { compute(first, last, 0, rows); });
    const int64_t row_blocks = (rows + kRowBlock - 1) / kRowBlock;
    const int64_t pieces = (panels + kPanelsInPiece - 1) / kPanelsInPiece;
    share(3 * index + 1, pieces * row_blocks, 1, [&](int64_t item) {
        const int64_t first = item % pieces * kPanelsInPiece, first_row = item / pieces * kRowBlock;
        compute(first, std::min(first + kPanelsInPiece, panels), first_row,
                std::min(kRowBlock, rows - first_row));
    });
}

void Executor::attention(const Instruction& each, const Step& step, size_t index, int thread) {
    const View q = each.inputs[0], k = each.inputs[1], v = each.inputs[2];
    const KVLayer& layer = layers_[each.layer].kv;
    const int kv_group = layers_[each.layer].group;
    const AttentionPlan& plan = attention_plan_;
    share(3 * index, static_cast<int64_t>(plan.kv_writes().size()), 1, [&](int64_t i) {
        const AttentionPlan::KVWrite& write = plan.kv_writes()[i];
        for (int64_t row = write.first_token; row < write.first_token + write.num_tokens; ++row) {
            const int position = step.positions[row];
            const int block = step.table(kv_group, write.sequence)[position / 16];
            for (int head = 0; head < layer.num_kv_heads; ++head)
                kernels_.write_kv(layer, block, position % 16, head,
                                  at(k) + row * stride(k) + head * layer.head_dim,
                                  at(v) + row * stride(v) + head * layer.head_dim);
        }
    });
    pool_.barrier();
    const auto tile_of = [&](int64_t i) {
        const AttentionPlan::Tile& tile = plan.tiles()[i];
        return AttentionTile{at(q) + tile.first_token * stride(q),
                             stride(q),
                             at(each.output) + tile.first_token * stride(each.output),
                             stride(each.output),
                             step.positions[tile.first_token],
                             tile.num_tokens,
                             tile.kv_head,
                             tile.first_head,
                             tile.num_heads,
                             step.table(kv_group, tile.sequence)};
    };
    const std::vector<AttentionPlan::Split>& splits = plan.splits();
    if (splits.empty()) {
        share(3 * index + 1, static_cast<int64_t>(plan.groups().size()), 1, [&](int64_t i) {
            const AttentionPlan::Group& group = plan.groups()[i];
            AttentionTile tiles[kQueryRows];
            for (int t = 0; t < group.num_tiles; ++t) tiles[t] = tile_of(group.first_tile + t);
            kernels_.attention(layer, each.shape, tiles, group.num_tiles,
                               each.shape.window ? 0 : group.shared, attention_scratch_[thread]);
        });
        return;
    }
    const int64_t part_floats = split_part_floats(layer.head_dim);
    const auto first_split = [&](int64_t i) {
        const int position = step.positions[plan.tiles()[i].first_token];
        return each.shape.window ? std::max(0, position + 1 - each.shape.window) / kSplit : 0;
    };
    float* parts = reinterpret_cast<float*>(parts_.data());
    // In runs: a split asks for the keys of the one after it.
    const int64_t count = static_cast<int64_t>(splits.size());
    share(3 * index + 1, count, std::max<int64_t>(1, count / (4 * pool_.size())), [&](int64_t i) {
        if (splits[i].start / kSplit < first_split(splits[i].tile)) return;
        kernels_.attention_split(layer, each.shape, tile_of(splits[i].tile), splits[i].start,
                                 attention_scratch_[thread], parts + i * part_floats);
    });
    pool_.barrier();
    share(3 * index + 2, static_cast<int64_t>(plan.tiles().size()), 1, [&](int64_t i) {
        // The splits of a tile lie beside each other, in order of tiles.
        const auto split = std::find_if(splits.begin(), splits.end(),
                                        [&](const AttentionPlan::Split& s) { return s.tile == i; });
        const int64_t skipped = first_split(i), start = split - splits.begin() + skipped;
        const int context = AttentionPlan::context_of(plan.tiles()[i], step);
        const int parts_of_tile = (context + kSplit - 1) / kSplit - static_cast<int>(skipped);
        kernels_.attention_merge(each.shape, tile_of(i), parts + start * part_floats, parts_of_tile,
                                 attention_scratch_[thread]);
    });
}

}  // namespace octavo
