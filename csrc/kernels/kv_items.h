// Items of the KV cache: how a token's keys and values are written, and read one by one.
#pragma once

#include "elementwise.h"

namespace octavo::OCTAVO_TIER {

// int8 items are multiples of a scale that a head of a token has for its keys, and another for its values.
template <typename T>
constexpr bool kHasScales = false;
template <>
inline constexpr bool kHasScales<int8_t> = true;

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
    const int64_t head_dim = layer.head_dim;
    T* keys = reinterpret_cast<T*>(layer.head(block, kv_head));
    T* values = keys + head_dim * 16;
    float to_keys = 1.0f, to_values = 1.0f;
    if constexpr (kHasScales<T>) {
        float* scales = reinterpret_cast<float*>(values + head_dim * 16);
        const float key = largest_magnitude(k, layer.head_dim), value = largest_magnitude(v, layer.head_dim);
        scales[slot] = key / 127.0f;
        scales[16 + slot] = value / 127.0f;
        to_keys = key > 0.0f ? 127.0f / key : 0.0f;
        to_values = value > 0.0f ? 127.0f / value : 0.0f;
    }
    for (int64_t d = 0; d < head_dim; ++d) set_item(k[d] * to_keys, keys + d * 16 + slot);
    for (int64_t d = 0; d < head_dim; ++d) set_item(v[d] * to_values, values + slot * head_dim + d);
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
    }
}

}  // namespace octavo::OCTAVO_TIER
