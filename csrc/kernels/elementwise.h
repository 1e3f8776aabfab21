// Norms, rotary embedding, activations and quantisation of rows.
#pragma once

#include <cmath>

#include "kernels/simd/simd.h"
#include "kernels/tables/kernels.h"

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

static inline void rms_norm(const float* x, const float* weight, float eps, int64_t n, float* y) {
    f32x16 squares = zero();
    for_lanes(n, [&](int64_t i, int count) {
        f32x16 a = load_some(x + i, count);
        squares = fma(a, a, squares);
    });
    f32x16 scale = set1(1.0f / std::sqrt(reduce_add(squares) / static_cast<float>(n) + eps));
    for_lanes(n, [&](int64_t i, int count) {
        f32x16 a = mul(load_some(x + i, count), scale);
        store_some(y + i, mul(a, load_some(weight + i, count)), count);
    });
}

static inline void rope(float* head, const float* table_row, int rotary_dim) {
    const int half = rotary_dim / 2;
    for_lanes(half, [&](int64_t i, int count) {
        f32x16 c = load_some(table_row + i, count), s = load_some(table_row + half + i, count);
        f32x16 a = load_some(head + i, count), b = load_some(head + half + i, count);
        store_some(head + i, sub(mul(a, c), mul(b, s)), count);
        store_some(head + half + i, add(mul(b, c), mul(a, s)), count);
    });
}

static inline void silu_mul(const float* gate, const float* up, int64_t n, float* y) {
    for_lanes(n, [&](int64_t i, int count) {
        f32x16 g = load_some(gate + i, count);
        f32x16 sigmoid = div(set1(1.0f), add(set1(1.0f), exp(sub(zero(), g))));
        store_some(y + i, mul(mul(g, sigmoid), load_some(up + i, count)), count);
    });
}

static inline void add_rows(const float* x, const float* y, int64_t n, float* out) {
    for_lanes(n, [&](int64_t i, int count) {
        store_some(out + i, add(load_some(x + i, count), load_some(y + i, count)), count);
    });
}

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

// The lowest index of the largest value; a NaN never wins.
static inline int64_t argmax(const float* x, int64_t n) {
    constexpr int64_t block = 1024;
    float largest = -INFINITY;
    int64_t where = 0;
    for (int64_t first = 0; first < n; first += block) {
        const int64_t end = first + block < n ? first + block : n;
        f32x16 best = set1(-INFINITY);
        int64_t i = first;
        for (; i + 16 <= end; i += 16) best = max(load(x + i), best);
        float most = reduce_max(best);
        for (; i < end; ++i) most = x[i] > most ? x[i] : most;
        if (most > largest) largest = most, where = first;
    }
    while (where < n && x[where] != largest) ++where;
    return where < n ? where : 0;
}

}  // namespace octavo::OCTAVO_TIER
