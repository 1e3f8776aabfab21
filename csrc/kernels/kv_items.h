// Items of the KV cache: how a token's keys and values are written, and read one by one.
#pragma once

#include <cmath>

#include "kernels/lanes.h"
#include "kernels/tables/attention.h"

namespace octavo::OCTAVO_TIER {

// Integers are multiples of a scale that a head of a token has for its keys, and another for its values.
template <typename T>
constexpr bool kHasScales = false;
template <>
inline constexpr bool kHasScales<int8_t> = true;
template <>
inline constexpr bool kHasScales<int16_t> = true;

static inline float item_to_float(float x) { return x; }
static inline float item_to_float(int8_t x) { return x; }
static inline float item_to_float(f16 x) { return to_float(x); }
static inline float item_to_float(bf16 x) { return to_float(x); }
static inline float item_to_float(e4m3 x) { return to_float(x); }

static inline void set_item(float x, float* out) { *out = x; }
// Saturating: an infinity in a value row would reach the tokens before it as 0 x inf.
static inline void set_item(float x, f16* out) {
    x = x > 65504.0f ? 65504.0f : x < -65504.0f ? -65504.0f : x;
#if defined(__F16C__)
    *out = {static_cast<uint16_t>(_cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT))};
#elif defined(__ARM_FP16_FORMAT_IEEE)
    const __fp16 half = x;
    __builtin_memcpy(out, &half, 2);
#else
    *out = to_f16(x);
#endif
}
static inline void set_item(float x, bf16* out) {
    constexpr float kLargest = 0x1.fep127f;
    *out = to_bf16(x > kLargest ? kLargest : x < -kLargest ? -kLargest : x);
}
static inline void set_item(float x, e4m3* out) { *out = to_e4m3(x); }
static inline void set_item(float x, int8_t* out) {
    x = std::nearbyintf(x);
    *out = static_cast<int8_t>(x > 127.0f ? 127.0f : x > -127.0f ? x : -127.0f);
}

// Largest magnitude of n numbers, kept to where 127 times a 127th of it is still finite.
static inline float largest_magnitude(const float* x, int n) {
    float most = 0.0f;
    for (int i = 0; i < n; ++i) most = std::fabs(x[i]) > most ? std::fabs(x[i]) : most;
    return most < 0x1p127f ? most : 0x1p127f;
}

template <typename T>
static inline void write_kv_as(const KVLayer& layer, int block, int slot, int kv_head, const float* k,
                               const float* v) {
    const int64_t key_dim = layer.key_dim, value_dim = layer.value_dim;
    T* keys = reinterpret_cast<T*>(layer.head(block, kv_head));
    T* values = keys + key_dim * 16;
    float to_keys = 1.0f, to_values = 1.0f;
    if constexpr (kHasScales<T>) {
        float* scales = layer.head_scales(block, kv_head);
        const float key = largest_magnitude(k, layer.key_dim), value = largest_magnitude(v, layer.value_dim);
        scales[slot] = key / 127.0f;
        scales[16 + slot] = value / 127.0f;
        to_keys = key > 0.0f ? 127.0f / key : 0.0f;
        to_values = value > 0.0f ? 127.0f / value : 0.0f;
    }
    for (int64_t d = 0; d < key_dim; ++d) set_item(k[d] * to_keys, keys + d * 16 + slot);
    for (int64_t d = 0; d < value_dim; ++d) set_item(v[d] * to_values, values + slot * value_dim + d);
}

enum class Int16Range {
    Norm,     // of the vector below 2^15.5, magnitudes at most 32767
    Largest,  // magnitudes at most 16383
};

// n floats as int16: calls put(i, count, lanes) for items [i, i + count). Returns what a unit stands for.
template <Int16Range RANGE, typename F>
static inline float to_int16(const float* x, int n, F put) {
    // Infinities and NaN as well become numbers whose ratios to the largest have finite squares.
    const f32x16 bound = set1(-0x1p100f);
    const auto item = [&](int64_t i, int count) {
        return sub(zero(), max(sub(zero(), max(load_some(x + i, count), bound)), bound));
    };
    f32x16 top = zero();
    for_lanes(n, [&](int64_t i, int count) { top = max(abs(item(i, count)), top); });
    const float largest = reduce_max(top);
    float factor = 0.0f;
    if (largest > 0x1p-100f && RANGE == Int16Range::Largest) factor = 16383.0f / largest;
    if (largest > 0x1p-100f && RANGE == Int16Range::Norm) {
        const f32x16 shrink = set1(1.0f / largest);
        f32x16 squares = zero();
        for_lanes(n, [&](int64_t i, int count) {
            const f32x16 a = mul(item(i, count), shrink);
            squares = fma(a, a, squares);
        });
        // 32 less than 2^15.5: what the rounding of 4096 items adds to a norm at most.
        const float by_norm = 46300.0f / std::sqrt(reduce_add(squares));
        factor = (by_norm < 32767.0f ? by_norm : 32767.0f) / largest;
    }
    for_lanes(n, [&](int64_t i, int count) {
        int16_t lanes[16];
        store_int16(lanes, mul(item(i, count), set1(factor)));
        put(i, count, lanes);
    });
    return factor > 0.0f ? 1.0f / factor : 1.0f;
}

static inline void write_kv_int16(const KVLayer& layer, int block, int slot, int kv_head, const float* k,
                                  const float* v) {
    int16_t* keys = reinterpret_cast<int16_t*>(layer.head(block, kv_head));
    int16_t* values = keys + int64_t{layer.key_dim} * 16;
    float* scales = layer.head_scales(block, kv_head);
    scales[slot] = to_int16<Int16Range::Norm>(k, layer.key_dim, [&](int64_t i, int count, int16_t* lanes) {
        for (int d = 0; d < count; d += 2) __builtin_memcpy(keys + (i + d) * 16 + slot * 2, lanes + d, 4);
    });
    int16_t* row = values + slot / 2 * 2 * int64_t{layer.value_dim} + slot % 2;
    scales[16 + slot] =
        to_int16<Int16Range::Largest>(v, layer.value_dim, [&](int64_t i, int count, int16_t* lanes) {
            for (int d = 0; d < count; ++d) row[2 * (i + d)] = lanes[d];
        });
}

static inline void write_kv(const KVLayer& layer, int block, int slot, int kv_head, const float* k,
                            const float* v) {
    switch (layer.type) {
        case KVType::F32:
            return write_kv_as<float>(layer, block, slot, kv_head, k, v);
        case KVType::F16:
            return write_kv_as<f16>(layer, block, slot, kv_head, k, v);
        case KVType::BF16:
            return write_kv_as<bf16>(layer, block, slot, kv_head, k, v);
        case KVType::E4M3:
            return write_kv_as<e4m3>(layer, block, slot, kv_head, k, v);
        case KVType::Int8:
            return write_kv_as<int8_t>(layer, block, slot, kv_head, k, v);
        case KVType::Int16:
            return write_kv_int16(layer, block, slot, kv_head, k, v);
    }
}

}  // namespace octavo::OCTAVO_TIER
