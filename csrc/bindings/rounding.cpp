// The Python binding of rounding: functions of octavo._native.
#include "weights/rounding.h"

#include <nanobind/stl/string.h>

#include <algorithm>
#include <map>
#include <span>
#include <stdexcept>
#include <string>

#include "bindings/bindings.h"
#include "executor/region.h"
#include "kernels/tables/kernels.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace octavo {

namespace {

using Floats = Array<const float>;

template <typename Value>
Value named(const std::map<std::string, Value>& values, const std::string& name) {
    const auto found = values.find(name);
    if (found == values.end()) throw std::invalid_argument("rounding does not know " + name);
    return found->second;
}

Rounding rounding_of(const std::string& name) {
    return named<Rounding>({{"int8", Rounding::Int8},
                            {"int4", Rounding::Int4},
                            {"int4-zero-points", Rounding::Int4ZeroPoints},
                            {"int4-minimums", Rounding::Int4Minimums},
                            {"fp8", Rounding::Float8}},
                           name);
}

// The rows of `data`, checked, and how many there are. Arrays of no floats are none.
struct Rows {
    RowsToRound rows;
    int64_t count;

    Rows(const std::string& encoding, const Array<const uint8_t>& data, int64_t cols, int64_t size,
         const Floats& column_factors, const Floats& row_factors, const Floats& importance)
        : rows{named<Encoding>({{"F32", Encoding::F32}, {"F16", Encoding::F16}, {"BF16", Encoding::BF16}},
                               encoding),
               data.data(),
               cols,
               size,
               some(column_factors, cols),
               nullptr,
               some(importance, cols)} {
        if ((size != 32 && size != 64 && size != 128) || cols <= 0 || cols % size)
            throw std::invalid_argument("rows are not whole groups of 32, 64 or 128");
        const int64_t bytes = static_cast<int64_t>(row_bytes(rows.encoding, cols));
        count = static_cast<int64_t>(data.shape(0)) / bytes;
        if (count * bytes != static_cast<int64_t>(data.shape(0)))
            throw std::invalid_argument("data is not whole rows");
        rows.row_factors = some(row_factors, count);
    }

    static const float* some(const Floats& floats, int64_t length) {
        if (floats.shape(0) == 0) return nullptr;
        if (static_cast<int64_t>(floats.shape(0)) != length)
            throw std::invalid_argument("factors are not as many as rows or columns");
        return floats.data();
    }
};

void groups(const std::string& isa, const std::string& rounding, const std::string& encoding,
            Array<const uint8_t> data, int64_t cols, int64_t size, Floats column_factors, Floats row_factors,
            Floats importance, Array<uint8_t> codes, Array<float> scales, Array<float> offsets) {
    const Rows all(encoding, data, cols, size, column_factors, row_factors, importance);
    const Rounding kind = rounding_of(rounding);
    const bool has_offsets = kind == Rounding::Int4ZeroPoints || kind == Rounding::Int4Minimums;
    const size_t num_groups = all.count * cols / size;
    if (codes.shape(0) != num_groups * size || scales.shape(0) != num_groups ||
        offsets.shape(0) != (has_offsets ? num_groups : 0) || (kind == Rounding::Float8 && size != kGroup))
        throw std::invalid_argument("the arrays for the result do not fit it");
    nb::gil_scoped_release released;
    round_to_groups(kernels_of(isa), kind, all.rows, all.count,
                    {codes.data(), scales.data(), has_offsets ? offsets.data() : nullptr});
}

void panels(const std::string& isa, const std::string& rounding, const std::string& encoding,
            Array<const uint8_t> data, int64_t cols, Floats column_factors, Floats row_factors,
            Floats importance, Array<const int32_t> order, Array<uint8_t> out) {
    const Rows all(encoding, data, cols, kGroup, column_factors, row_factors, importance);
    const Rounding kind = rounding_of(rounding);
    const std::span places(order.data(), order.shape(0));
    if (out.shape(0) != panels_of(kind, all.count, cols).bytes() ||
        (!places.empty() && static_cast<int64_t>(places.size()) != all.count) ||
        std::any_of(places.begin(), places.end(), [&](int32_t row) { return row < 0 || row >= all.count; }))
        throw std::invalid_argument("out is not the rows' panels, or order is none of the rows");
    nb::gil_scoped_release released;
    fetch(data.data(), data.shape(0));
    round_to_panels(kernels_of(isa), kind, all.rows, all.count, places.empty() ? nullptr : places.data(),
                    out.data());
}

}  // namespace

void bind_rounding(nb::module_& module) {
    module.def("round_to_groups", &groups, "isa"_a, "rounding"_a, "encoding"_a, "data"_a, "cols"_a, "size"_a,
               "column_factors"_a, "row_factors"_a, "importance"_a, "codes"_a, "scales"_a, "offsets"_a,
               "Rounds the rows of `data` to codes and scales; see octavo/formats/rounding.py.");
    module.def("round_to_panels", &panels, "isa"_a, "rounding"_a, "encoding"_a, "data"_a, "cols"_a,
               "column_factors"_a, "row_factors"_a, "importance"_a, "order"_a, "out"_a,
               "Rounds the rows of `data`, perhaps of a mapped file, in `order` to packed panels.");
}

}  // namespace octavo
