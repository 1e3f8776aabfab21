// The Python binding of the executor: a program from its first buffer to its last step.
#include <nanobind/stl/map.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/variant.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <stdexcept>
#include <tuple>

#include "bindings/bindings.h"
#include "executor/pack.h"
#include "executor/program_builder.h"
#include "sampling/sampling.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace octavo {
namespace {

using Ints = Array<const int32_t>;
using Bytes = Array<const uint8_t>;
using ViewTuple = std::tuple<int, int, int>;

View view(const ViewTuple& v) { return {std::get<0>(v), std::get<1>(v), std::get<2>(v)}; }

void require(bool ok, const std::string& what) {
    if (!ok) throw std::invalid_argument(what);
}

ByRows by_rows(const std::vector<int64_t>& numbers) {
    require(numbers.size() == kRowKinds, "there are other kinds of rows");
    ByRows kinds;
    std::ranges::copy(numbers, kinds.begin());
    return kinds;
}

// The threads, a program that is built and then run on them, and the arrays whose memory it reads.
class BoundProgram {
  public:
    BoundProgram(int threads, const std::string& isa) : pool_(threads), kernels_(kernels_of(isa)) {}

    void add_buffer(int rows, int cols, int offset) {
        require(rows >= 0 && rows < static_cast<int>(kRowKinds), "there is no such kind of rows");
        builder_.add_buffer({static_cast<Rows>(rows), cols, offset});
    }

    void add_weight(const std::string& name, const std::string& encoding, int64_t rows, int64_t cols,
                    Bytes data) {
        const Encoding kind = encoding_of(encoding);
        require(data.shape(0) == rows * row_bytes(kind, cols),
                "weight " + name + " has the wrong number of bytes");
        builder_.weights().add(name, {kind, rows, cols, data.data()});
        kept_.push_back(data);
    }

    // `order` is empty, or where each column comes from.
    void add_packed(const std::string& name, const std::string& encoding, int64_t rows, int64_t cols,
                    Bytes data, Ints order) {
        const int32_t* columns = order.shape(0) ? order.data() : nullptr;
        const PackedWeight weight{encoding_of(encoding), rows, cols, data.data(), columns};
        require(data.shape(0) == weight.bytes(), "weight " + name + " has the wrong number of packed bytes");
        if (columns)
            require(is_integer(weight.form()) && static_cast<int64_t>(order.shape(0)) == cols &&
                        std::ranges::all_of(span(order), [&](int32_t c) { return c >= 0 && c < cols; }),
                    "weight " + name + " has an order that is none of its columns");
        builder_.weights().add_packed(name, weight);
        kept_.push_back(data);
        kept_orders_.push_back(order);
    }

    void pack(const std::string& encoding, int64_t rows, int64_t cols, Bytes raw, int64_t first_panel,
              Array<uint8_t> out) {
        const PackedWeight weight{encoding_of(encoding), rows, cols, nullptr};
        const int64_t count = static_cast<int64_t>(out.shape(0) / weight.panel_bytes());
        require(raw.shape(0) == rows * row_bytes(weight.encoding, cols) && first_panel >= 0 &&
                    first_panel + count <= weight.panels() && out.shape(0) % weight.panel_bytes() == 0,
                "raw is not the weight, or out is not whole panels of it");
        nb::gil_scoped_release released;
        pack_panels(pool_, weight, raw.data(), first_panel, count, out.data());
    }

    void add_instruction(const std::string& op, const std::vector<ViewTuple>& inputs, const ViewTuple& output,
                         const std::vector<std::string>& weights, const Instruction::Attributes& attributes) {
        Instruction each{op, {}, view(output), weights, attributes};
        for (const ViewTuple& input : inputs) each.inputs.push_back(view(input));
        builder_.add_instruction(std::move(each));
    }

    void finish(const std::vector<int64_t>& max_rows, const std::vector<int64_t>& arena_cols,
                int64_t max_position, int64_t vocab_size, const ViewTuple& result) {
        nb::gil_scoped_release released;
        executor_ = builder_.finish(pool_, kernels_, {by_rows(max_rows), max_position, vocab_size},
                                    by_rows(arena_cols), view(result));
    }

    void allocate_kv_cache(const std::vector<std::tuple<int, int, int>>& layers,
                           const std::vector<std::vector<int>>& groups, const std::string& dtype,
                           int64_t blocks) {
        std::vector<KVShape> shapes;
        for (const auto& [num_kv_heads, key_dim, value_dim] : layers)
            shapes.push_back({num_kv_heads, key_dim, value_dim});
        executor().kv().allocate(shapes, groups, kv_type_of(dtype), blocks);
    }

    void copy_blocks(Ints sources, Ints destinations) {
        nb::gil_scoped_release released;
        executor().kv().copy_blocks(span(sources), span(destinations));
    }

    void read_blocks(Ints blocks, Array<uint8_t, 2> data) {
        check_blocks(blocks, data.shape(0), data.shape(1));
        nb::gil_scoped_release released;
        executor().kv().read_blocks(span(blocks), data.data());
    }

    void write_blocks(Ints blocks, Array<const uint8_t, 2> data) {
        check_blocks(blocks, data.shape(0), data.shape(1));
        nb::gil_scoped_release released;
        executor().kv().write_blocks(span(blocks), data.data());
    }

    nb::ndarray<nb::numpy, float, nb::ndim<2>> run(Ints token_ids, Ints positions, Ints query_starts,
                                                   Ints context_lens, Array<const int32_t, 3> block_tables,
                                                   Ints output_rows) {
        require(block_tables.shape(1) == context_lens.shape(0), "block_tables is not [groups, S, blocks]");
        const Step step{span(token_ids),
                        span(positions),
                        span(query_starts),
                        span(context_lens),
                        block_tables.data(),
                        static_cast<int64_t>(block_tables.shape(0)),
                        static_cast<int64_t>(block_tables.shape(2)),
                        span(output_rows)};
        const float* rows;
        {
            nb::gil_scoped_release released;
            rows = executor().run(step);
        }
        const Matrix& result = executor().result();
        const size_t shape[2] = {static_cast<size_t>(step.rows(result.rows)),
                                 static_cast<size_t>(result.cols)};
        const int64_t strides[2] = {result.stride, 1};
        return {const_cast<float*>(rows), 2, shape, nb::find(this), strides};
    }

    Sampler* sampler() { return new Sampler(pool_, kernels_); }
    size_t weight_bytes() { return executor().weights().packed_bytes(); }
    int threads() const { return pool_.size(); }
    std::string isa() const { return kernels_.isa; }

  private:
    Executor& executor() {
        if (!executor_) throw std::logic_error("the program is not finished");
        return *executor_;
    }

    void check_blocks(const Ints& blocks, size_t rows, size_t cols) {
        require(rows == blocks.shape(0) && cols == executor().kv().block_bytes(),
                "data is not [blocks, block_bytes]");
    }

    ThreadPool pool_;
    const Kernels& kernels_;
    ProgramBuilder builder_;
    std::unique_ptr<Executor> executor_;
    std::vector<Bytes> kept_;
    std::vector<Ints> kept_orders_;
};

}  // namespace

void bind_program(nb::module_& module) {
    nb::class_<BoundProgram>(module, "Program")
        .def(nb::init<int, const std::string&>(), "threads"_a, "isa"_a)
        .def("add_buffer", &BoundProgram::add_buffer, "rows"_a, "cols"_a, "offset"_a)
        .def("add_weight", &BoundProgram::add_weight)
        .def("add_packed", &BoundProgram::add_packed)
        .def("pack", &BoundProgram::pack)
        .def("add_instruction", &BoundProgram::add_instruction)
        .def("finish", &BoundProgram::finish, "max_rows"_a, "arena_cols"_a, "max_position"_a, "vocab_size"_a,
             "result"_a)
        .def("allocate_kv_cache", &BoundProgram::allocate_kv_cache, "layers"_a, "groups"_a, "dtype"_a,
             "blocks"_a)
        .def("copy_blocks", &BoundProgram::copy_blocks)
        .def("read_blocks", &BoundProgram::read_blocks)
        .def("write_blocks", &BoundProgram::write_blocks)
        .def("run", &BoundProgram::run)
        .def("sampler", &BoundProgram::sampler, nb::rv_policy::take_ownership, nb::keep_alive<0, 1>(),
             "Samples on the program's threads, so not while it runs.")
        .def_prop_ro("weight_bytes", &BoundProgram::weight_bytes)
        .def_prop_ro("threads", &BoundProgram::threads)
        .def_prop_ro("isa", &BoundProgram::isa);
}

}  // namespace octavo
