// The ceilings of this machine, measured: multiply-adds from registers, and reads from memory.
#pragma once

#include <cstddef>
#include <cstdint>

namespace nanobind {
class module_;
}

namespace octavo {

// Loops with nothing in them but the instructions that a tier's kernels are made of. `dot_int8` and
// `fma_float` return the multiply-adds that `rounds` rounds did.
struct PeakLoops {
    int64_t (*dot_int8)(int64_t rounds);
    int64_t (*fma_float)(int64_t rounds);
    void (*read)(const float* from, size_t count);  // count is a multiple of 128
};

const PeakLoops& portable_peak_loops();
#if defined(__x86_64__)
const PeakLoops& avx2_peak_loops();
const PeakLoops& avx512_peak_loops();
#elif defined(__aarch64__)
const PeakLoops& neon_peak_loops();
#endif

void bind_roofline(nanobind::module_& module);

}  // namespace octavo
