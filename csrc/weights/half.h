// The 16-bit and 8-bit float types as storage, and their exact conversions without any instruction set.
//
// static: these are compiled for several ISA tiers, and the linker must never merge the copies.
#pragma once

#include <cstdint>
#include <cstring>

namespace octavo {

struct f16 {
    uint16_t bits;
};
struct bf16 {
    uint16_t bits;
};
// OCP FP8 with 4 bits of exponent and 3 of fraction, no infinities.
struct e4m3 {
    uint8_t bits;
};

static inline float float_from_bits(uint32_t bits) {
    float out;
    std::memcpy(&out, &bits, 4);
    return out;
}

static inline float to_float(bf16 x) { return float_from_bits(static_cast<uint32_t>(x.bits) << 16); }

static inline float to_float(f16 x) {
    uint32_t sign = (x.bits & 0x8000u) << 16, exponent = (x.bits >> 10) & 31, fraction = x.bits & 1023;
    if (exponent == 31) return float_from_bits(sign | 0x7f800000u | fraction << 13);
    if (exponent) return float_from_bits(sign | (exponent + 112) << 23 | fraction << 13);
    float subnormal = static_cast<float>(fraction) * 0x1p-24f;
    return sign ? -subnormal : subnormal;
}

static inline float to_float(e4m3 x) {
    // As an f16 its exponent would be 8 too small.
    const float small = to_float(f16{static_cast<uint16_t>((x.bits & 0x80) << 8 | (x.bits & 0x7f) << 7)});
    return small * 256.0f;
}

static inline uint32_t bits_of(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}

// Round to nearest, ties to even; overflow to infinity.
static inline bf16 to_bf16(float value) {
    const uint32_t bits = bits_of(value);
    return {static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16)};
}

// Round to nearest, ties to even; what is beyond 448 becomes 448.
static inline e4m3 to_e4m3(float value) {
    const uint32_t bits = bits_of(value), sign = (bits >> 24) & 0x80u;
    uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude >= 0x43e00000u) return {static_cast<uint8_t>(sign | 0x7eu)};
    if (magnitude < 0x3c800000u) {  // subnormal: adding 2^14 leaves the rounded count of 2^-9 in the low bits
        const uint32_t count = bits_of(float_from_bits(magnitude) + 16384.0f) - 0x46800000u;
        return {static_cast<uint8_t>(sign | count)};
    }
    magnitude += 0x7ffffu + ((magnitude >> 20) & 1);
    return {static_cast<uint8_t>(sign | (magnitude - 0x3c000000u) >> 20)};
}

// Round to nearest, ties to even; overflow to infinity.
static inline f16 to_f16(float value) {
    const uint32_t bits = bits_of(value);
    uint16_t sign = (bits >> 16) & 0x8000u;
    uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return {static_cast<uint16_t>(sign | 0x7e00u)};
    if (magnitude >= 0x477ff000u) return {static_cast<uint16_t>(sign | 0x7c00u)};
    if (magnitude < 0x38800000u) {  // subnormal: adding 0.5 leaves the rounded count of 2^-24 in the low bits
        const uint32_t count = bits_of(float_from_bits(magnitude) + 0.5f) - 0x3f000000u;
        return {static_cast<uint16_t>(sign | count)};
    }
    magnitude += 0xfffu + ((magnitude >> 13) & 1);
    return {static_cast<uint16_t>(sign | ((magnitude - 0x38000000u) >> 13))};
}

}  // namespace octavo
