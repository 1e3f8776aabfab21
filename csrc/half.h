// The two 16-bit float types as storage, and their exact conversions without any instruction set.
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

// Round to nearest, ties to even; overflow to infinity.
static inline f16 to_f16(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    uint16_t sign = (bits >> 16) & 0x8000u;
    uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return {static_cast<uint16_t>(sign | 0x7e00u)};
    if (magnitude >= 0x477ff000u) return {static_cast<uint16_t>(sign | 0x7c00u)};
    if (magnitude < 0x38800000u) {  // subnormal: adding 0.5 leaves the rounded count of 2^-24 in the low bits
        float shifted = float_from_bits(magnitude) + 0.5f;
        uint32_t count;
        std::memcpy(&count, &shifted, 4);
        return {static_cast<uint16_t>(sign | (count - 0x3f000000u))};
    }
    magnitude += 0xfffu + ((magnitude >> 13) & 1);
    return {static_cast<uint16_t>(sign | ((magnitude - 0x38000000u) >> 13))};
}

}  // namespace octavo
