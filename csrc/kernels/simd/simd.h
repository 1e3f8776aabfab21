// A vector of 16 floats with the same operations, in the same order, on every ISA tier.
//
// Kernels are written once against it and compiled once a tier, in a namespace of the tier's name.
// Sixteen because a KV block holds 16 tokens and a weight panel 16 output columns: a lane is always one
// token or one output, so that no sum depends on how many others are computed beside it.
#pragma once

#include "weights/half.h"

#if defined(OCTAVO_TIER_AVX512)
#define OCTAVO_TIER avx512
#include "kernels/simd/simd_avx512.h"
#elif defined(OCTAVO_TIER_AVX2)
#define OCTAVO_TIER avx2
#include "kernels/simd/simd_avx2.h"
#elif defined(OCTAVO_TIER_NEON)
#define OCTAVO_TIER neon
#include "kernels/simd/simd_neon.h"
#else
#define OCTAVO_TIER portable
#include "kernels/simd/simd_portable.h"
#endif

namespace octavo::OCTAVO_TIER {

// e^x to about 1 ulp for x <= 88; exactly 0 below -87.3. Cephes' expf: n = round(x / ln 2), a degree-5
// polynomial on the rest, scaled by 2^n.
static inline f32x16 exp(f32x16 x) {
    f32x16 clamped = sub(zero(), max(sub(zero(), x), set1(-88.0f)));
    clamped = max(clamped, set1(-87.3f));
    f32x16 n = round_even(mul(clamped, set1(1.44269504088896341f)));
    f32x16 r = fma(n, set1(-0.693359375f), clamped);
    r = fma(n, set1(2.12194440e-4f), r);
    f32x16 p = set1(1.9875691500e-4f);
    p = fma(p, r, set1(1.3981999507e-3f));
    p = fma(p, r, set1(8.3334519073e-3f));
    p = fma(p, r, set1(4.1665795894e-2f));
    p = fma(p, r, set1(1.6666665459e-1f));
    p = fma(p, r, set1(5.0000001201e-1f));
    p = add(fma(p, mul(r, r), r), set1(1.0f));
    return where_above(x, -87.3f, scale_by_power(p, n));
}

// 2^x to about 2 ulp for x <= 0 (and a little above); 0 at -127 and below.
static inline f32x16 exp2(f32x16 x) {
    x = max(x, set1(-127.0f));
    // Added to 1.5 * 2^23 a float is rounded to an integer, which its low bits hold.
    const f32x16 magic = set1(0x1.8p23f), shifted = add(x, magic);
    const f32x16 r = sub(x, sub(shifted, magic));
    f32x16 p = set1(1.3333558e-3f);
    p = fma(p, r, set1(9.6181291e-3f));
    p = fma(p, r, set1(5.5504109e-2f));
    p = fma(p, r, set1(2.4022651e-1f));
    p = fma(p, r, set1(6.9314718e-1f));
    p = fma(p, r, set1(1.0f));
    // At -127 the rest is not below 0 nor p below 1: no exponent wraps.
    return add_exponent(p, shifted);
}

}  // namespace octavo::OCTAVO_TIER
