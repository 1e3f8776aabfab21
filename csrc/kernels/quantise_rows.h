// Rows of activations as int8, for the integer weights.
#pragma once

#include "kernels/simd/simd.h"
#include "kernels/tables/linear.h"

namespace octavo::OCTAVO_TIER {

// Symmetric, a scale for each 32 values: |q| <= 127, so that pairs of products with any weight fit 16 bits.
static inline void quantise_tile(const float* x, int64_t stride, const int32_t* order, int64_t row,
                                 int64_t height, int64_t k, int64_t first_group, int64_t groups,
                                 const QuantisedRows& out) {
    for (int64_t g = first_group; g < first_group + groups; ++g)
        for (int64_t r = 0; r < height; ++r) {
            const float* in = x + (row + r) * stride + g * kGroup;
            float gathered[kGroup];
            if (order) {
                for (int i = 0; i < kGroup; ++i) gathered[i] = x[(row + r) * stride + order[g * kGroup + i]];
                in = gathered;
            }
            f32x16 a = load(in), b = load(in + 16);
            float largest = reduce_max(max(abs(a), abs(b)));
            float scale = largest / 127.0f;
            f32x16 inverse = set1(largest > 0.0f ? 127.0f / largest : 0.0f);
            f32x16 qa = round_even(mul(a, inverse)), qb = round_even(mul(b, inverse));
            int8_t quants[kGroup];
            store_int8(quants, qa);
            store_int8(quants + 16, qb);
            int8_t* q = out.q + row * k + g * kGroup * height + r * 4;
            for (int j = 0; j < kGroup / 4; ++j) __builtin_memcpy(q + j * height * 4, quants + j * 4, 4);
            float sum = reduce_add(add(qa, qb));  // integers below 2^24: exact in any order
            const int64_t index = row * (k / kGroup) + g * height + r;
            out.scales[index] = scale;
            out.biases[index] = -8 * static_cast<int32_t>(sum);
            out.offsets[index] = scale * sum;
            out.first_sums[index] = static_cast<int32_t>(reduce_add(qa));
        }
}

}  // namespace octavo::OCTAVO_TIER
