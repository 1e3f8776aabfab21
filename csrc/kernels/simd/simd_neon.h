// 16 float lanes as four registers of four. AArch64 with the dot product instructions (Armv8.2) is present.
//
// Not float32x4x4_t, whose registers must follow one another, which costs moves.
#pragma once

#include <arm_neon.h>

#include <cstdint>
#include <cstring>

namespace octavo::OCTAVO_TIER {

// How many vectors beside each other a register block of four rows has room for.
constexpr int kWide = 1;

// Rows and panels that an integer kernel computes together.
constexpr int kTilePanels = 1;
constexpr int kTileRows = 8;

struct f32x16 {
    float32x4_t v[4];
};

static inline f32x16 set1(float x) {
    const float32x4_t each = vdupq_n_f32(x);
    return {{each, each, each, each}};
}
static inline f32x16 zero() { return set1(0.0f); }
static inline f32x16 load(const float* p) {
    return {{vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)}};
}
// 16 float16 in two registers.
static inline f32x16 widen_f16(uint16x8_t low, uint16x8_t high) {
    const float16x8_t lo = vreinterpretq_f16_u16(low), hi = vreinterpretq_f16_u16(high);
    return {{vcvt_f32_f16(vget_low_f16(lo)), vcvt_high_f32_f16(lo), vcvt_f32_f16(vget_low_f16(hi)),
             vcvt_high_f32_f16(hi)}};
}
static inline f32x16 load(const f16* p) { return widen_f16(vld1q_u16(&p->bits), vld1q_u16(&p[8].bits)); }
static inline f32x16 load(const bf16* p) {
    const uint16x8_t lo = vld1q_u16(&p->bits), hi = vld1q_u16(&p[8].bits);
    const auto widen = [](uint16x4_t a) { return vreinterpretq_f32_u32(vshll_n_u16(a, 16)); };
    return {{widen(vget_low_u16(lo)), widen(vget_high_u16(lo)), widen(vget_low_u16(hi)),
             widen(vget_high_u16(hi))}};
}
static inline f32x16 load(const int8_t* p) {
    const int8x16_t bytes = vld1q_s8(p);
    const int16x8_t lo = vmovl_s8(vget_low_s8(bytes)), hi = vmovl_high_s8(bytes);
    return {{vcvtq_f32_s32(vmovl_s16(vget_low_s16(lo))), vcvtq_f32_s32(vmovl_high_s16(lo)),
             vcvtq_f32_s32(vmovl_s16(vget_low_s16(hi))), vcvtq_f32_s32(vmovl_high_s16(hi))}};
}
static inline f32x16 mul(f32x16 a, f32x16 b);
static inline f32x16 load(const e4m3* p) {
    // As float16 its exponent is 8 too small. The bit that the arithmetic shift doubles is the sign.
    const int8x16_t bytes = vreinterpretq_s8_u8(vld1q_u8(&p->bits));
    const uint16x8_t kept = vdupq_n_u16(0xbf80);
    const auto half = [&](int16x8_t high) {
        return vandq_u16(vreinterpretq_u16_s16(vshrq_n_s16(high, 1)), kept);
    };
    return mul(widen_f16(half(vshll_n_s8(vget_low_s8(bytes), 8)), half(vshll_high_n_s8(bytes, 8))),
               set1(256.0f));
}
static inline f32x16 load_first(const float* p, int n) {
    float lanes[16] = {};
    std::memcpy(lanes, p, n * sizeof(float));
    return load(lanes);
}
static inline void store(float* p, f32x16 a) {
    vst1q_f32(p, a.v[0]);
    vst1q_f32(p + 4, a.v[1]);
    vst1q_f32(p + 8, a.v[2]);
    vst1q_f32(p + 12, a.v[3]);
}
static inline void store(f16* p, f32x16 a) {
    for (int i = 0; i < 4; ++i) vst1_u16(&p[4 * i].bits, vreinterpret_u16_f16(vcvt_f16_f32(a.v[i])));
}
static inline void store_first(float* p, f32x16 a, int n) {
    float lanes[16];
    store(lanes, a);
    std::memcpy(p, lanes, n * sizeof(float));
}

template <typename F>
static inline f32x16 each_part(F f) {
    return {{f(0), f(1), f(2), f(3)}};
}

static inline f32x16 add(f32x16 a, f32x16 b) {
    return each_part([&](int i) { return vaddq_f32(a.v[i], b.v[i]); });
}
static inline f32x16 sub(f32x16 a, f32x16 b) {
    return each_part([&](int i) { return vsubq_f32(a.v[i], b.v[i]); });
}
static inline f32x16 mul(f32x16 a, f32x16 b) {
    return each_part([&](int i) { return vmulq_f32(a.v[i], b.v[i]); });
}
static inline f32x16 div(f32x16 a, f32x16 b) {
    return each_part([&](int i) { return vdivq_f32(a.v[i], b.v[i]); });
}
// b where one is NaN, as elsewhere: fmax would give NaN.
static inline float32x4_t larger(float32x4_t a, float32x4_t b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
static inline f32x16 max(f32x16 a, f32x16 b) {
    return each_part([&](int i) { return larger(a.v[i], b.v[i]); });
}
static inline f32x16 abs(f32x16 a) {
    return each_part([&](int i) { return vabsq_f32(a.v[i]); });
}
static inline f32x16 fma(f32x16 a, f32x16 b, f32x16 c) {
    return each_part([&](int i) { return vfmaq_f32(c.v[i], a.v[i], b.v[i]); });
}
static inline f32x16 round_even(f32x16 a) {
    return each_part([&](int i) { return vrndnq_f32(a.v[i]); });
}
static inline float32x4_t kept_where(uint32x4_t mask, float32x4_t a) {
    return vreinterpretq_f32_u32(vandq_u32(mask, vreinterpretq_u32_f32(a)));
}
// a where x > limit, else 0.
static inline f32x16 where_above(f32x16 x, float limit, f32x16 a) {
    const float32x4_t bound = vdupq_n_f32(limit);
    return each_part([&](int i) { return kept_where(vcgtq_f32(x.v[i], bound), a.v[i]); });
}
static inline f32x16 where_at_least(f32x16 x, float limit, f32x16 a) {
    const float32x4_t bound = vdupq_n_f32(limit);
    return each_part([&](int i) { return kept_where(vcgeq_f32(x.v[i], bound), a.v[i]); });
}
// Bit i is set where lane i of the masks, four at a time, is.
template <typename F>
static inline uint32_t lanes(F mask) {
    const uint16x8_t lo = vcombine_u16(vmovn_u32(mask(0)), vmovn_u32(mask(1)));
    const uint16x8_t hi = vcombine_u16(vmovn_u32(mask(2)), vmovn_u32(mask(3)));
    const uint8x8_t bits = vcreate_u8(0x8040201008040201);
    return vaddv_u8(vand_u8(vmovn_u16(lo), bits)) |
           static_cast<uint32_t>(vaddv_u8(vand_u8(vmovn_u16(hi), bits))) << 8;
}
static inline uint32_t lanes_at_least(f32x16 x, float limit) {
    const float32x4_t bound = vdupq_n_f32(limit);
    return lanes([&](int i) { return vcgeq_f32(x.v[i], bound); });
}
static inline uint32_t lanes_above(f32x16 x, float limit) {
    const float32x4_t bound = vdupq_n_f32(limit);
    return lanes([&](int i) { return vcgtq_f32(x.v[i], bound); });
}
static inline uint32_t lanes_nan(f32x16 x) {
    return lanes([&](int i) { return vmvnq_u32(vceqq_f32(x.v[i], x.v[i])); });
}
// Stores the lanes of x that `lanes` has and their places, counted from `first`, next to one another. May
// write up to 16 of each.
static inline void compress(f32x16 x, int32_t first, uint32_t lanes, float* values, int32_t* places) {
    float all[16];
    store(all, x);
    for (; lanes; lanes &= lanes - 1) {
        const int lane = __builtin_ctz(lanes);
        *values++ = all[lane];
        *places++ = first + lane;
    }
}
static inline float32x4_t plus_exponent(float32x4_t a, int32x4_t power) {
    const int32x4_t exponent = vshlq_n_s32(power, 23);
    return vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(a), exponent));
}
// a * 2^n for integral n in [-126, 127].
static inline f32x16 scale_by_power(f32x16 a, f32x16 n) {
    return each_part([&](int i) { return plus_exponent(a.v[i], vcvtnq_s32_f32(n.v[i])); });
}
// a * 2^n, n the integer in the low bits of `shifted`.
static inline f32x16 add_exponent(f32x16 a, f32x16 shifted) {
    return each_part([&](int i) { return plus_exponent(a.v[i], vreinterpretq_s32_f32(shifted.v[i])); });
}
static inline int16x8_t to_int16(float32x4_t lo, float32x4_t hi) {
    return vcombine_s16(vqmovn_s32(vcvtnq_s32_f32(lo)), vqmovn_s32(vcvtnq_s32_f32(hi)));
}
static inline void store_int8(int8_t* p, f32x16 a) {
    vst1_s8(p, vqmovn_s16(to_int16(a.v[0], a.v[1])));
    vst1_s8(p + 8, vqmovn_s16(to_int16(a.v[2], a.v[3])));
}
static inline void store_int16(int16_t* p, f32x16 a) {
    vst1q_s16(p, to_int16(a.v[0], a.v[1]));
    vst1q_s16(p + 8, to_int16(a.v[2], a.v[3]));
}

// Lane j of row i becomes lane i of row j: each block of four by four, put in the place across the diagonal.
static inline void transpose(f32x16 (&rows)[16]) {
    f32x16 columns[16];
    for (int i = 0; i < 4; ++i)
        for (int j = 0; j < 4; ++j) {
            const float32x4x2_t upper = vtrnq_f32(rows[4 * i].v[j], rows[4 * i + 1].v[j]);
            const float32x4x2_t lower = vtrnq_f32(rows[4 * i + 2].v[j], rows[4 * i + 3].v[j]);
            for (int odd = 0; odd < 2; ++odd) {
                const float32x4_t a = upper.val[odd], b = lower.val[odd];
                columns[4 * j + odd].v[i] = vcombine_f32(vget_low_f32(a), vget_low_f32(b));
                columns[4 * j + 2 + odd].v[i] = vcombine_f32(vget_high_f32(a), vget_high_f32(b));
            }
        }
    std::memcpy(rows, columns, sizeof columns);
}

// 32 lanes of 16-bit integers, the first and the second ones of pairs apart: there is no instruction that
// adds the products of neighbours, but one that adds eight products to the lanes of two registers.
struct i16x32 {
    int16x8_t first[2], second[2];
};
// The same pair in every lane.
struct i16pair {
    int16x4_t v;
};
struct i32x16 {
    int32x4_t v[4];
};

static inline i32x16 zero_i32() {
    const int32x4_t none = vdupq_n_s32(0);
    return {{none, none, none, none}};
}
static inline i16x32 load(const int16_t* p) {
    const int16x8x2_t lo = vld2q_s16(p), hi = vld2q_s16(p + 16);
    return {{lo.val[0], hi.val[0]}, {lo.val[1], hi.val[1]}};
}
static inline i16pair set_pair(const int16_t* p) {
    int32_t pair;
    std::memcpy(&pair, p, 4);
    return {vreinterpret_s16_s32(vdup_n_s32(pair))};
}
// Lane i of the sum gains a[2i] b[2i] + a[2i + 1] b[2i + 1].
static inline i32x16 add_pairs(i16pair a, i16x32 b, i32x16 sum) {
    const auto low = [&](int32x4_t to, int16x8_t first, int16x8_t second) {
        to = vmlal_lane_s16(to, vget_low_s16(first), a.v, 0);
        return vmlal_lane_s16(to, vget_low_s16(second), a.v, 1);
    };
    const auto high = [&](int32x4_t to, int16x8_t first, int16x8_t second) {
        return vmlal_high_lane_s16(vmlal_high_lane_s16(to, first, a.v, 0), second, a.v, 1);
    };
    return {{low(sum.v[0], b.first[0], b.second[0]), high(sum.v[1], b.first[0], b.second[0]),
             low(sum.v[2], b.first[1], b.second[1]), high(sum.v[3], b.first[1], b.second[1])}};
}
static inline f32x16 to_f32(i32x16 a) {
    return each_part([&](int i) { return vcvtq_f32_s32(a.v[i]); });
}

// Lane i and lane i + 8, then + 4, + 2, + 1: the order that every tier follows.
static inline float reduce_add(f32x16 a) {
    const float32x4_t four = vaddq_f32(vaddq_f32(a.v[0], a.v[2]), vaddq_f32(a.v[1], a.v[3]));
    return vpadds_f32(vadd_f32(vget_low_f32(four), vget_high_f32(four)));
}
static inline float reduce_max(f32x16 a) {
    const float32x4_t four = larger(larger(a.v[0], a.v[2]), larger(a.v[1], a.v[3]));
    const float32x4_t two = larger(four, vextq_f32(four, four, 2));
    return vgetq_lane_f32(larger(two, vextq_f32(two, two, 1)), 0);
}

// 16 lanes of 64-bit integers.
struct i64x16 {
    uint64x2_t v[8];
};

static inline i64x16 zero_i64() {
    const uint64x2_t none = vdupq_n_u64(0);
    return {{none, none, none, none, none, none, none, none}};
}
static inline i64x16 add(i64x16 a, i64x16 b) {
    for (int i = 0; i < 8; ++i) a.v[i] = vaddq_u64(a.v[i], b.v[i]);
    return a;
}
// The nearest integer, of two the even one, for 0 <= a < 2^51.
static inline i64x16 to_i64(f32x16 a) {
    i64x16 out;
    for (int i = 0; i < 4; ++i) {
        out.v[2 * i] = vcvtnq_u64_f64(vcvt_f64_f32(vget_low_f32(a.v[i])));
        out.v[2 * i + 1] = vcvtnq_u64_f64(vcvt_high_f64_f32(a.v[i]));
    }
    return out;
}
static inline void store(uint64_t* p, i64x16 a) {
    for (int i = 0; i < 8; ++i) vst1q_u64(p + 2 * i, a.v[i]);
}

}  // namespace octavo::OCTAVO_TIER
