#include "executor.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <utility>

namespace octavo {

namespace {

// Rows of activations that stay in a core's cache while the panels of a piece pass over them.
constexpr int64_t kRowBlock = 64;
constexpr int64_t kPanelsInPiece = 4;
constexpr int64_t kLeastPanels = 2;
constexpr int64_t kGroupsInPiece = 8;

int64_t integer(const Executor::Attributes& attributes, const char* name) {
    auto found = attributes.find(name);
    if (found == attributes.end() || !std::holds_alternative<int64_t>(found->second))
        throw std::invalid_argument(std::string("instruction lacks the integer attribute ") + name);
    return std::get<int64_t>(found->second);
}

float number(const Executor::Attributes& attributes, const char* name) {
    auto found = attributes.find(name);
    if (found == attributes.end() || std::holds_alternative<std::string>(found->second))
        throw std::invalid_argument(std::string("instruction lacks the number attribute ") + name);
    if (const double* value = std::get_if<double>(&found->second)) return static_cast<float>(*value);
    return static_cast<float>(std::get<int64_t>(found->second));
}

size_t aligned(size_t bytes) { return (bytes + 63) / 64 * 64; }

}  // namespace

Executor::Executor(int threads, const Kernels& kernels, ModelLimits limits)
    : pool_(threads), kernels_(kernels), limits_(limits) {}

void Executor::add_buffer(bool outputs, int cols, int offset) { buffers_.push_back({outputs, cols, offset}); }

void Executor::add_weight(const std::string& name, RawTensor tensor) { tensors_[name] = tensor; }

void Executor::add_packed(const std::string& name, PackedWeight weight) { packed_[name] = weight; }

void Executor::pack(const PackedWeight& weight, const uint8_t* raw, int64_t first, int64_t count,
                    uint8_t* out) {
    std::atomic<int64_t> next{0};
    pool_.run([&](int) {
        for (int64_t i = next.fetch_add(1); i < count; i = next.fetch_add(1))
            weight.pack_panel(first + i, raw, out + i * weight.panel_bytes());
    });
}

size_t Executor::weight_bytes() const {
    size_t bytes = 0;
    for (const auto& [name, weight] : packed_) bytes += weight.bytes();
    return bytes;
}

const PackedWeight& Executor::packed(const std::string& name) const {
    auto found = packed_.find(name);
    if (found == packed_.end()) throw std::invalid_argument("weight " + name + " is missing");
    return found->second;
}

const RawTensor& Executor::tensor(const std::string& name) const {
    auto found = tensors_.find(name);
    if (found == tensors_.end()) throw std::invalid_argument("weight " + name + " is missing");
    return found->second;
}

const float* Executor::floats(const std::string& name) {
    std::vector<float>& values = float_weights_[name];
    if (values.empty()) {
        const RawTensor& raw = tensor(name);
        values.resize(raw.rows * raw.cols);
        for (int64_t row = 0; row < raw.rows; ++row)
            decode_row(raw.encoding, raw.data + row * row_bytes(raw.encoding, raw.cols), raw.cols,
                       values.data() + row * raw.cols);
    }
    return values.data();
}

void Executor::add_instruction(const std::string& op, const std::vector<View>& inputs, View output,
                               const std::vector<std::string>& weights, const Attributes& attributes) {
    using Op = Instruction::Op;
    static const std::map<std::string, Op> ops = {
        {"embedding", Op::Embedding}, {"rms_norm", Op::RmsNorm}, {"head_rms_norm", Op::HeadRmsNorm},
        {"linear", Op::Linear},       {"rope", Op::Rope},        {"paged_attention", Op::Attention},
        {"silu_mul", Op::SiluMul},    {"add", Op::Add},          {"gather_rows", Op::GatherRows}};
    auto found = ops.find(op);
    if (found == ops.end()) throw std::invalid_argument("the native backend has no op " + op);
    Instruction each;
    each.op = found->second;
    each.inputs = inputs;
    each.output = output;
    switch (each.op) {
        case Op::Embedding:
            each.table = tensor(weights.at(0));
            if (each.table.cols != output.cols)
                throw std::invalid_argument(weights[0] + " has the wrong width");
            vocabulary_ = each.table.rows;
            break;
        case Op::RmsNorm:
        case Op::HeadRmsNorm:
            each.weight = floats(weights.at(0));
            each.eps = number(attributes, "eps");
            each.head_dim =
                each.op == Op::RmsNorm ? output.cols : static_cast<int>(integer(attributes, "head_dim"));
            if (tensor(weights[0]).cols != each.head_dim)
                throw std::invalid_argument(weights[0] + " has the wrong width");
            break;
        case Op::Rope:
            each.weight = floats(weights.at(0));
            each.head_dim = static_cast<int>(integer(attributes, "head_dim"));
            each.rotary_dim = static_cast<int>(integer(attributes, "rotary_dim"));
            if (tensor(weights[0]).cols != each.rotary_dim)
                throw std::invalid_argument(weights[0] + " has the wrong width");
            max_position_ = tensor(weights[0]).rows;
            break;
        case Op::Linear: {
            int column = 0;
            for (size_t i = 0; attributes.contains("out" + std::to_string(i)); ++i) {
                const int64_t n = integer(attributes, ("out" + std::to_string(i)).c_str());
                const PackedWeight& weight = packed(weights.at(i));
                if (weight.n != n || weight.k != inputs.at(0).cols)
                    throw std::invalid_argument(weights[i] + " is " + std::to_string(weight.n) + " x " +
                                                std::to_string(weight.k) + ", not " + std::to_string(n) +
                                                " x " + std::to_string(inputs[0].cols));
                const float* bias = nullptr;
                if (auto name = attributes.find("bias" + std::to_string(i)); name != attributes.end())
                    bias = floats(std::get<std::string>(name->second));
                each.parts.push_back({weight, bias, column});
                each.integer |= is_integer(weight.form());
                column += static_cast<int>(n);
            }
            if (column != output.cols) throw std::invalid_argument("linear's parts do not fill its output");
            break;
        }
        case Op::Attention:
            each.layer = static_cast<int>(integer(attributes, "layer"));
            each.shape = {static_cast<int>(integer(attributes, "num_heads")),
                          static_cast<int>(integer(attributes, "num_kv_heads")),
                          static_cast<int>(integer(attributes, "head_dim")), number(attributes, "scale"),
                          static_cast<int>(integer(attributes, "window"))};
            break;
        default:
            break;
    }
    instructions_.push_back(std::move(each));
}

void Executor::finish(int64_t token_cols, int64_t output_cols, View result) {
    result_ = result;
    // Each instruction has a counter for each of its stages: attention has three.
    counters_ = std::make_unique<Counter[]>(3 * instructions_.size());
    arena_ = Region((token_cols * limits_.max_tokens + output_cols * limits_.max_outputs) * sizeof(float));
    float* tokens = reinterpret_cast<float*>(arena_.data());
    float* outputs = tokens + token_cols * limits_.max_tokens;
    for (Buffer& each : buffers_)
        each.data = each.outputs ? outputs + each.offset * limits_.max_outputs
                                 : tokens + each.offset * limits_.max_tokens;

    int64_t widest = 0, head_dim = 1;
    for (const Instruction& each : instructions_) {
        head_dim = std::max<int64_t>(head_dim, each.shape.head_dim);
        if (each.integer) widest = std::max<int64_t>(widest, each.inputs[0].cols);
    }

    const int64_t rows = std::max(limits_.max_tokens, limits_.max_outputs), groups = widest / kGroup;
    const size_t scratch = aligned(attention_scratch_floats(static_cast<int>(head_dim)) * sizeof(float));
    scratch_ = Region(aligned(rows * widest) + 4 * aligned(rows * groups * 4) + pool_.size() * scratch);
    uint8_t* at = scratch_.data();
    quantised_.q = reinterpret_cast<int8_t*>(at);
    at += aligned(rows * widest);
    quantised_.scales = reinterpret_cast<float*>(at);
    at += aligned(rows * groups * 4);
    quantised_.biases = reinterpret_cast<int32_t*>(at);
    at += aligned(rows * groups * 4);
    quantised_.offsets = reinterpret_cast<float*>(at);
    at += aligned(rows * groups * 4);
    quantised_.first_sums = reinterpret_cast<int32_t*>(at);
    at += aligned(rows * groups * 4);
    for (int thread = 0; thread < pool_.size(); ++thread, at += scratch)
        attention_scratch_.push_back(reinterpret_cast<float*>(at));

    for (const Instruction& each : instructions_)
        if (each.op == Instruction::Op::Attention) {
            attention_plan_.reserve(each.shape, pool_.size(), limits_.max_tokens, max_position_);
            break;
        }
    parts_ =
        Region(attention_plan_.max_splits() * split_part_floats(static_cast<int>(head_dim)) * sizeof(float));
}

void Executor::allocate_kv_cache(int layers, int num_kv_heads, int head_dim, KVType type, int64_t blocks) {
    KVLayer first{nullptr, type, num_kv_heads, head_dim};
    const size_t layer_bytes = first.block_bytes() * blocks;
    kv_ = Region(layer_bytes * layers);
    layers_.clear();
    for (int layer = 0; layer < layers; ++layer)
        layers_.push_back({kv_.data() + layer * layer_bytes, type, num_kv_heads, head_dim});
    blocks_ = blocks;
}

void Executor::check(const Step& step) const {
    const auto require = [](bool ok, const char* what) {
        if (!ok) throw std::invalid_argument(what);
    };
    const int64_t tokens = step.tokens(), sequences = step.sequences();
    require(tokens > 0 && tokens <= limits_.max_tokens, "the step's token count is outside the limits");
    require(step.outputs() <= limits_.max_outputs, "the step wants more output rows than the limits allow");
    require(static_cast<int64_t>(step.positions.size()) == tokens, "positions is not [T]");
    require(static_cast<int64_t>(step.query_starts.size()) == sequences + 1, "query_starts is not [S + 1]");
    require(step.query_starts[0] == 0 && step.query_starts[sequences] == tokens,
            "query_starts does not cover the tokens");
    for (int32_t id : step.token_ids)
        require(id >= 0 && id < vocabulary_, "a token id is outside the vocabulary");
    for (int32_t row : step.output_rows)
        require(row >= 0 && row < tokens, "an output row is outside the step");
    for (int64_t s = 0; s < sequences; ++s) {
        const int64_t count = step.query_starts[s + 1] - step.query_starts[s], context = step.context_lens[s];
        require(count > 0 && context >= count, "a sequence's tokens exceed its context");
        require(context <= max_position_, "a context is longer than the model's positions");
        require((context + 15) / 16 <= step.table_width, "a block table is too short for its context");
        for (int64_t i = 0; i < count; ++i)
            require(step.positions[step.query_starts[s] + i] == context - count + i,
                    "positions are not a sequence's newest tokens");
        for (int64_t b = 0; b < (context + 15) / 16; ++b) {
            const int32_t block = step.block_tables[s * step.table_width + b];
            require(block >= 0 && block < blocks_, "a block id is outside the KV cache");
        }
    }
}

const float* Executor::run(const Step& step) {
    check(step);
    attention_plan_.make(step);
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
            kernels_.quantise_tile(at(x), stride(x), row, std::min(height, rows - row), x.cols, group,
                                   std::min(kGroupsInPiece, groups - group), quantised_);
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
    const KVLayer& layer = layers_[each.layer];
    const AttentionPlan& plan = attention_plan_;
    share(3 * index, static_cast<int64_t>(plan.kv_writes().size()), 1, [&](int64_t i) {
        const AttentionPlan::KVWrite& write = plan.kv_writes()[i];
        for (int64_t row = write.first_token; row < write.first_token + write.num_tokens; ++row) {
            const int position = step.positions[row];
            const int block = step.block_tables[write.sequence * step.table_width + position / 16];
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
                             step.block_tables + tile.sequence * step.table_width};
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

void Executor::argmax(const float* rows, int64_t count, int64_t cols, int64_t* out) {
    std::atomic<int64_t> next{0};
    pool_.run([&](int) {
        for (int64_t row = next.fetch_add(1); row < count; row = next.fetch_add(1))
            out[row] = kernels_.argmax(rows + row * cols, cols);
    });
}

}  // namespace octavo
