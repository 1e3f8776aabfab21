// Puts a Program together: its buffers, weights and instructions, and all the memory that its steps take.
#include <algorithm>
#include <cstring>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>

#include "executor/executor.h"

namespace octavo {

namespace {

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

Executor::Executor(int threads, const Kernels& kernels, Limits limits)
    : pool_(threads), kernels_(kernels), limits_(limits) {}

void Executor::add_buffer(Rows rows, int cols, int offset) { buffers_.push_back({rows, cols, offset}); }

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
            if (each.table.rows < limits_.vocab_size)
                throw std::invalid_argument(weights[0] + " has " + std::to_string(each.table.rows) +
                                            " rows, fewer than the " + std::to_string(limits_.vocab_size) +
                                            " tokens of the vocabulary");
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
            if (tensor(weights[0]).rows < limits_.max_position)
                throw std::invalid_argument(weights[0] + " has " + std::to_string(tensor(weights[0]).rows) +
                                            " rows, fewer than the " + std::to_string(limits_.max_position) +
                                            " positions of a sequence");
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
                column += static_cast<int>(n);
            }
            if (column != output.cols) throw std::invalid_argument("linear's parts do not fill its output");
            return add_linear(each);
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

// Parts that meet the columns of the input in the same order share the rows that are quantised for them.
void Executor::add_linear(const Instruction& each) {
    const auto same = [&](const int32_t* one, const int32_t* other) {
        return one == other || (one && other && std::equal(one, one + each.inputs[0].cols, other));
    };
    std::vector<Instruction> linears;
    for (const LinearPart& part : each.parts) {
        const int32_t* order = part.weight.order;
        auto found = std::find_if(linears.begin(), linears.end(),
                                  [&](const Instruction& other) { return same(other.order, order); });
        if (found == linears.end()) {
            found = linears.insert(linears.end(), each);
            found->parts.clear();
            found->order = order;
        }
        found->parts.push_back(part);
        found->integer |= is_integer(part.weight.form());
    }
    for (Instruction& linear : linears) instructions_.push_back(std::move(linear));
}

void Executor::finish(const std::array<int64_t, kRowKinds>& arena_cols, View result) {
    result_ = result;
    // Each instruction has a counter for each of its stages: attention has three.
    counters_ = std::make_unique<Counter[]>(3 * instructions_.size());
    std::array<int64_t, kRowKinds> starts{};
    int64_t floats = 0;
    for (size_t kind = 0; kind < kRowKinds; ++kind) {
        starts[kind] = floats;
        floats += arena_cols[kind] * limits_.max_rows[kind];
    }
    arena_ = Region(floats * sizeof(float));
    for (Buffer& each : buffers_) {
        const size_t kind = static_cast<size_t>(each.rows);
        each.data =
            reinterpret_cast<float*>(arena_.data()) + starts[kind] + each.offset * limits_.max_rows[kind];
    }

    int64_t widest = 0, head_dim = 1;
    for (const Instruction& each : instructions_) {
        head_dim = std::max<int64_t>(head_dim, each.shape.head_dim);
        if (each.integer) widest = std::max<int64_t>(widest, each.inputs[0].cols);
    }

    const int64_t rows = std::ranges::max(limits_.max_rows), groups = widest / kGroup;
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
            attention_plan_.reserve(each.shape, pool_.size(),
                                    limits_.max_rows[static_cast<int>(Rows::Tokens)], limits_.max_position);
            break;
        }
    parts_ =
        Region(attention_plan_.max_splits() * split_part_floats(static_cast<int>(head_dim)) * sizeof(float));
}

void Executor::allocate_kv_cache(const std::vector<std::vector<int>>& groups, int num_kv_heads, int head_dim,
                                 KVType type, int64_t blocks) {
    if (type == KVType::Int16 && head_dim % 2)  // its items lie, and are multiplied, in pairs
        throw std::invalid_argument("int16 KV cache of an odd head_dim " + std::to_string(head_dim));
    size_t planes = 0, layers = 0;
    for (const std::vector<int>& group : groups) {
        planes = std::max(planes, group.size());
        layers += group.size();
    }
    const KVLayer like{nullptr, nullptr, type, num_kv_heads, head_dim};
    const size_t items = like.item_bytes() * blocks, scales = like.scale_bytes() * blocks;
    kv_ = Region((items + scales) * planes);
    uint8_t* first_scales = kv_.data() + items * planes;
    planes_.clear();
    for (size_t plane = 0; plane < planes; ++plane)
        planes_.push_back({kv_.data() + plane * items,
                           reinterpret_cast<float*>(first_scales + plane * scales), type, num_kv_heads,
                           head_dim});
    layers_.assign(layers, {});
    for (size_t group = 0; group < groups.size(); ++group)
        for (size_t plane = 0; plane < groups[group].size(); ++plane)
            layers_.at(groups[group][plane]) = {planes_[plane], static_cast<int>(group)};
    std::set<int> full;
    for (const Instruction& each : instructions_)
        if (each.op == Instruction::Op::Attention && !each.shape.window)
            full.insert(layers_.at(each.layer).group);
    full_groups_.assign(full.begin(), full.end());
    groups_ = static_cast<int64_t>(groups.size());
    blocks_ = blocks;
}

}  // namespace octavo
