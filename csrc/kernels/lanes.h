// Rows of floats in vectors of 16, the last of which may be short.
#pragma once

#include "kernels/simd/simd.h"

namespace octavo::OCTAVO_TIER {

// y[0..n) = f(lanes of x): whole vectors, then the rest with the missing lanes zero.
template <typename F>
static inline void for_lanes(int64_t n, F f) {
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) f(i, 16);
    if (i < n) f(i, static_cast<int>(n - i));
}

static inline f32x16 load_some(const float* p, int count) {
    return count == 16 ? load(p) : load_first(p, count);
}
static inline void store_some(float* p, f32x16 a, int count) {
    count == 16 ? store(p, a) : store_first(p, a, count);
}

}  // namespace octavo::OCTAVO_TIER
