// The Python module octavo._native; octavo/_native.pyi has its types.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "bindings/bindings.h"
#include "executor/region.h"
#include "kernels/tables/kernels.h"
#include "ops/registry.h"
#include "weights/packed_weight.h"

namespace nb = nanobind;
using namespace nb::literals;

NB_MODULE(_native, module) {
    module.def("isas", &octavo::isas, "The ISA tiers that this processor has, plainest first.");
    module.def("op_names", &octavo::op_names, "The ops that a program may have, sorted.");
    module.def(
        "panel_bytes",
        [](const std::string& encoding, int64_t cols) {
            return octavo::PackedWeight{octavo::encoding_of(encoding), 0, cols, nullptr}.panel_bytes();
        },
        "encoding"_a, "cols"_a, "Bytes of a packed panel of 16 rows.");
    module.def(
        "fetch",
        [](octavo::Array<const uint8_t> data) {
            nb::gil_scoped_release released;
            octavo::fetch(data.data(), data.shape(0));
        },
        "data"_a,
        "Bring the pages of a mapped file that `data` views into memory, as fast as the disk goes.");
    octavo::bind_roofline(module);
    octavo::bind_rounding(module);
    octavo::bind_sampling(module);
    octavo::bind_program(module);
}
