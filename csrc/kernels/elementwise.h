// Norms, rotary embedding and activations: what computes a row from rows of the same token.
#pragma once

#include <cmath>

#include "kernels/lanes.h"
#include "kernels/tables/elementwise.h"

namespace octavo::OCTAVO_TIER {

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

// By the names that csrc/ops/ finds them with.
constexpr ElementwiseKernel kElementwise[] = {
    {.name = "rms_norm", .norm = rms_norm},
    {.name = "rope", .rotation = rope},
    {.name = "silu_mul", .binary = silu_mul},
    {.name = "add", .binary = add_rows},
};

}  // namespace octavo::OCTAVO_TIER
