// Passes over a row of logits: maxima, softmax weights as integers, the tokens above a limit.
//
// Weights are the same bits on every tier, and the same as NumPy's in octavo/sampling/weights.py: each float
// operation rounds for itself (no fma), and sums are of integers.
#pragma once

#include <cmath>

#include "kernels/simd/simd.h"
#include "kernels/tables/sampling.h"

namespace octavo::OCTAVO_TIER {

// The last `count` < 16 values, then -inf.
static inline f32x16 load_last(const float* p, int64_t count) {
    float lanes[16];
    for (int i = 0; i < 16; ++i) lanes[i] = i < count ? p[i] : -INFINITY;
    return load(lanes);
}

// f(place of lane 0, 16 values) for the whole row.
template <typename F>
static inline void for_logits(const float* x, int64_t n, F f) {
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) f(i, load(x + i));
    if (i < n) f(i, load_last(x + i, n - i));
}

static inline float maxima(const float* x, int64_t n, float* parts) {
    f32x16 top = set1(-INFINITY);
    uint32_t nan = 0;
    for (int64_t first = 0; first < n; first += kMaximaStride) {
        f32x16 most = set1(-INFINITY);
        for_logits(x + first, n - first < kMaximaStride ? n - first : kMaximaStride, [&](int64_t, f32x16 a) {
            most = max(a, most);
            nan |= lanes_nan(a);
        });
        store(parts + first / kMaximaStride * 16, most);
        top = max(most, top);
    }
    return nan ? NAN : reduce_max(top);
}

// x becomes 2^40 times the relative probability, not rounded yet. COUNT vectors side by side: one is a chain
// of 20 dependent instructions.
template <int COUNT>
static inline void relative(f32x16 (&x)[COUNT], const Softmax& softmax) {
    constexpr float coefficients[] = {0.009671513f, 0.055507336f, 0.24022242f, 0.693147f};
    f32x16 whole[COUNT], fraction[COUNT], power[COUNT];
    for (f32x16& each : x) each = mul(sub(each, set1(softmax.top)), set1(softmax.scale));
    for (int i = 0; i < COUNT; ++i) {
        const f32x16 bounded = max(x[i], set1(softmax.floor));
        whole[i] = round_even(bounded);
        fraction[i] = sub(bounded, whole[i]);
        power[i] = mul(set1(0.0013264727f), fraction[i]);
    }
    for (float coefficient : coefficients)
        for (int i = 0; i < COUNT; ++i) power[i] = mul(add(power[i], set1(coefficient)), fraction[i]);
    for (int i = 0; i < COUNT; ++i) {
        power[i] = scale_by_power(add(power[i], set1(1.0f)), add(whole[i], set1(40.0f)));
        x[i] = where_at_least(x[i], softmax.floor, power[i]);
    }
}

static inline uint64_t sum_weights(const float* x, int64_t n, const Softmax& softmax, uint64_t* blocks) {
    uint64_t total = 0;
    for (int64_t first = 0; first < n; first += kWeightBlock) {
        i64x16 sums = zero_i64();
        const auto take = [&]<int COUNT>(f32x16(&some)[COUNT]) {
            relative(some, softmax);
            for (const f32x16& each : some) sums = add(sums, to_i64(each));
        };
        if (n - first >= kWeightBlock) {
            for (int64_t i = first; i < first + kWeightBlock; i += 64) {
                f32x16 some[] = {load(x + i), load(x + i + 16), load(x + i + 32), load(x + i + 48)};
                take(some);
            }
        } else {
            for_logits(x + first, n - first, [&](int64_t, f32x16 a) {
                f32x16 one[] = {a};
                take(one);
            });
        }
        uint64_t lanes[16], sum = 0;
        store(lanes, sums);
        for (uint64_t lane : lanes) sum += lane;
        blocks[first / kWeightBlock] = sum;
        total += sum;
    }
    return total;
}

static inline void weights(const float* x, int64_t n, const Softmax& softmax, uint64_t* out) {
    for_logits(x, n, [&](int64_t i, f32x16 a) {
        f32x16 one[] = {a};
        relative(one, softmax);
        const i64x16 found = to_i64(one[0]);
        if (i + 16 <= n) return store(out + i, found);
        uint64_t lanes[16];
        store(lanes, found);
        for (int64_t j = i; j < n; ++j) out[j] = lanes[j - i];
    });
}

static inline int64_t collect(const float* x, int64_t n, float limit, int32_t* places, float* values) {
    int64_t count = 0;
    for_logits(x, n, [&](int64_t i, f32x16 a) {
        uint32_t found = lanes_at_least(a, limit);
        if (n - i < 16) found &= (1u << (n - i)) - 1;
        if (!found) return;
        compress(a, static_cast<int32_t>(i), found, values + count, places + count);
        count += __builtin_popcount(found);
    });
    return count;
}

static inline int64_t count_above(const float* x, int64_t n, float limit) {
    int64_t count = 0;
    for_logits(x, n, [&](int64_t, f32x16 a) { count += __builtin_popcount(lanes_above(a, limit)); });
    return count;
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
