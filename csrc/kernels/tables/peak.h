// Loops with nothing in them but the instructions that a tier's kernels are made of.
#pragma once

#include <cstddef>
#include <cstdint>

namespace octavo {

// `dot_int8` and `fma_float` return the multiply-adds that `rounds` rounds did.
struct PeakLoops {
    int64_t (*dot_int8)(int64_t rounds);
    int64_t (*fma_float)(int64_t rounds);
    void (*read)(const float* from, size_t count);  // count is a multiple of 128
};

}  // namespace octavo
