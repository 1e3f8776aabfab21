// The Python binding: octavo._native.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/variant.h>
#include <nanobind/stl/vector.h>

#include <algorithm>

#include "bindings/roofline.h"
#include "executor/executor.h"
#include "kernels/tables/isa.h"
#include "sampling/sampling.h"
#include "weights/rounding.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace octavo {
namespace {

using Ints = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Tables = nb::ndarray<const int32_t, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using BlockBytes = nb::ndarray<uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using ConstBlockBytes = nb::ndarray<const uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using ViewTuple = std::tuple<int, int, int>;

View view(const ViewTuple& v) { return {std::get<0>(v), std::get<1>(v), std::get<2>(v)}; }
std::span<const int32_t> span(const Ints& array) { return {array.data(), array.shape(0)}; }

Encoding encoding_of(const std::string& name) {
    static const std::map<std::string, Encoding> names = {
        {"F32", Encoding::F32},         {"F16", Encoding::F16},       {"BF16", Encoding::BF16},
        {"F8_E4M3", Encoding::F8_E4M3}, {"Q4_0", Encoding::Q4_0},     {"Q4_1", Encoding::Q4_1},
        {"Q5_0", Encoding::Q5_0},       {"Q5_1", Encoding::Q5_1},     {"Q8_0", Encoding::Q8_0},
        {"U8_1", Encoding::U8_1},       {"Q4_K", Encoding::Q4_K},     {"Q5_K", Encoding::Q5_K},
        {"Q6_K", Encoding::Q6_K},       {"IQ4_NL", Encoding::IQ4_NL}, {"IQ4_XS", Encoding::IQ4_XS},
        {"MXFP4", Encoding::MXFP4},     {"NF4", Encoding::NF4},       {"FP4", Encoding::FP4},
        {"Q2_K", Encoding::Q2_K}};
    auto found = names.find(name);
    if (found == names.end()) throw std::invalid_argument("the native backend has no encoding " + name);
    return found->second;
}

// A number for each kind of rows.
std::array<int64_t, kRowKinds> by_kind(const std::vector<int64_t>& numbers) {
    if (numbers.size() != kRowKinds) throw std::invalid_argument("there are other kinds of rows");
    std::array<int64_t, kRowKinds> kinds;
    std::copy(numbers.begin(), numbers.end(), kinds.begin());
    return kinds;
}

KVType kv_type_of(const std::string& dtype) {
    static const std::map<std::string, KVType> types = {{"float32", KVType::F32},   {"float16", KVType::F16},
                                                        {"bfloat16", KVType::BF16}, {"fp8", KVType::E4M3},
                                                        {"int8", KVType::Int8},     {"int16", KVType::Int16}};
    auto found = types.find(dtype);
    if (found == types.end()) throw std::invalid_argument("the native backend has no KV cache of " + dtype);
    return found->second;
}

// The executor and the arrays whose memory it reads.
struct Program {
    Program(int threads, const std::string& isa, const std::vector<int64_t>& max_rows, int64_t max_position,
            int64_t vocab_size)
        : executor(threads, kernels_of(isa), {by_kind(max_rows), max_position, vocab_size}) {}

    void add_weight(const std::string& name, const std::string& encoding, int64_t rows, int64_t cols,
                    Bytes data) {
        const Encoding kind = encoding_of(encoding);
        if (data.shape(0) != rows * row_bytes(kind, cols))
            throw std::invalid_argument("weight " + name + " has the wrong number of bytes");
        executor.add_weight(name, {kind, rows, cols, data.data()});
        kept.push_back(data);
    }

    // `order` is empty, or where each column comes from.
    void add_packed(const std::string& name, const std::string& encoding, int64_t rows, int64_t cols,
                    Bytes data, Ints order) {
        const int32_t* columns = order.shape(0) ? order.data() : nullptr;
        const PackedWeight weight{encoding_of(encoding), rows, cols, data.data(), columns};
        if (data.shape(0) != weight.bytes())
            throw std::invalid_argument("weight " + name + " has the wrong number of packed bytes");
        if (columns) check_order(name, weight, static_cast<int64_t>(order.shape(0)));
        kept_orders.push_back(order);
        executor.add_packed(name, weight);
        kept.push_back(data);
    }

    static void check_order(const std::string& name, const PackedWeight& weight, int64_t count) {
        const std::span order(weight.order, count);
        if (!is_integer(weight.form()) || count != weight.k ||
            std::any_of(order.begin(), order.end(), [&](int32_t c) { return c < 0 || c >= weight.k; }))
            throw std::invalid_argument("weight " + name + " has an order that is none of its columns");
    }

    void pack(const std::string& encoding, int64_t rows, int64_t cols, Bytes raw, int64_t first_panel,
              nb::ndarray<uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu> out) {
        const PackedWeight weight{encoding_of(encoding), rows, cols, nullptr};
        const int64_t count = static_cast<int64_t>(out.shape(0) / weight.panel_bytes());
        if (raw.shape(0) != rows * row_bytes(weight.encoding, cols) || first_panel < 0 ||
            first_panel + count > weight.panels() || out.shape(0) % weight.panel_bytes() != 0)
            throw std::invalid_argument("raw is not the weight, or out is not whole panels of it");
        nb::gil_scoped_release released;
        executor.pack(weight, raw.data(), first_panel, count, out.data());
    }

    void add_instruction(const std::string& op, const std::vector<ViewTuple>& inputs, const ViewTuple& output,
                         const std::vector<std::string>& weights, const Executor::Attributes& attributes) {
        std::vector<View> views;
        for (const ViewTuple& each : inputs) views.push_back(view(each));
        executor.add_instruction(op, views, view(output), weights, attributes);
    }

    nb::ndarray<nb::numpy, float, nb::ndim<2>> run(Ints token_ids, Ints positions, Ints query_starts,
                                                   Ints context_lens, Tables block_tables, Ints output_rows) {
        if (block_tables.shape(1) != context_lens.shape(0))
            throw std::invalid_argument("block_tables is not [groups, S, blocks]");
        const Step step{span(token_ids),
                        span(positions),
                        span(query_starts),
                        span(context_lens),
                        block_tables.data(),
                        static_cast<int64_t>(block_tables.shape(0)),
                        static_cast<int64_t>(block_tables.shape(2)),
                        span(output_rows)};
        const float* result;
        {
            nb::gil_scoped_release released;
            result = executor.run(step);
        }
        const size_t shape[2] = {output_rows.shape(0), static_cast<size_t>(executor.result_cols())};
        return {const_cast<float*>(result), 2, shape, nb::find(this)};
    }

    void copy_blocks(Ints sources, Ints destinations) {
        nb::gil_scoped_release released;
        executor.copy_blocks(span(sources), span(destinations));
    }

    void read_blocks(Ints blocks, BlockBytes data) {
        check_shape(blocks, data.shape(0), data.shape(1));
        nb::gil_scoped_release released;
        executor.read_blocks(span(blocks), data.data());
    }

    void write_blocks(Ints blocks, ConstBlockBytes data) {
        check_shape(blocks, data.shape(0), data.shape(1));
        nb::gil_scoped_release released;
        executor.write_blocks(span(blocks), data.data());
    }

    void check_shape(const Ints& blocks, size_t rows, size_t cols) const {
        if (rows != blocks.shape(0) || cols != executor.block_bytes())
            throw std::invalid_argument("data is not [blocks, block_bytes]");
    }

    Executor executor;
    std::vector<Bytes> kept;
    std::vector<Ints> kept_orders;
};

}  // namespace
}  // namespace octavo

NB_MODULE(_native, module) {
    using octavo::Program;
    module.def("isas", &octavo::isas, "The ISA tiers that this processor has, plainest first.");
    module.def(
        "panel_bytes",
        [](const std::string& encoding, int64_t cols) {
            return octavo::PackedWeight{octavo::encoding_of(encoding), 0, cols, nullptr}.panel_bytes();
        },
        "encoding"_a, "cols"_a, "Bytes of a packed panel of 16 rows.");
    module.def(
        "fetch",
        [](octavo::Bytes data) {
            nb::gil_scoped_release released;
            octavo::fetch(data.data(), data.shape(0));
        },
        "data"_a,
        "Bring the pages of a mapped file that `data` views into memory, as fast as the disk goes.");
    octavo::bind_roofline(module);
    octavo::bind_rounding(module);
    octavo::bind_sampling(module);
    nb::class_<Program>(module, "Program")
        .def(nb::init<int, const std::string&, const std::vector<int64_t>&, int64_t, int64_t>(), "threads"_a,
             "isa"_a, "max_rows"_a, "max_position"_a, "vocab_size"_a)
        .def("add_buffer",
             [](Program& p, int rows, int cols, int offset) {
                 if (rows < 0 || rows >= static_cast<int>(octavo::kRowKinds))
                     throw std::invalid_argument("there is no such kind of rows");
                 p.executor.add_buffer(static_cast<octavo::Rows>(rows), cols, offset);
             })
        .def("add_weight", &Program::add_weight)
        .def("add_packed", &Program::add_packed)
        .def("pack", &Program::pack)
        .def("add_instruction", &Program::add_instruction)
        .def("finish",
             [](Program& p, const std::vector<int64_t>& arena_cols, const octavo::ViewTuple& result) {
                 nb::gil_scoped_release released;
                 p.executor.finish(octavo::by_kind(arena_cols), octavo::view(result));
             })
        .def("allocate_kv_cache",
             [](Program& p, const std::vector<std::vector<int>>& groups, int num_kv_heads, int head_dim,
                const std::string& dtype, int64_t blocks) {
                 p.executor.allocate_kv_cache(groups, num_kv_heads, head_dim, octavo::kv_type_of(dtype),
                                              blocks);
             })
        .def("copy_blocks", &Program::copy_blocks)
        .def("read_blocks", &Program::read_blocks)
        .def("write_blocks", &Program::write_blocks)
        .def("run", &Program::run)
        .def(
            "sampler",
            [](Program& p) { return new octavo::Sampler(p.executor.pool(), p.executor.kernels()); },
            nb::rv_policy::take_ownership, nb::keep_alive<0, 1>(),
            "Samples on the program's threads, so not while it runs.")
        .def_prop_ro("weight_bytes", [](Program& p) { return p.executor.weight_bytes(); })
        .def_prop_ro("threads", [](Program& p) { return p.executor.threads(); })
        .def_prop_ro("isa", [](Program& p) { return std::string(p.executor.isa()); });
}
