// 16 float lanes as an array: any processor, vectorised by the compiler for its baseline.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace octavo::OCTAVO_TIER {

// How many vectors beside each other a register block of four rows has room for.
constexpr int kWide = 1;

// Rows and panels that an integer kernel computes together.
constexpr int kTilePanels = 1;
constexpr int kTileRows = 4;

struct f32x16 {
    float v[16];
};

template <typename F>
static inline f32x16 each_lane(F f) {
    f32x16 out;
    for (int i = 0; i < 16; ++i) out.v[i] = f(i);
    return out;
}

static inline f32x16 set1(float x) {
    return each_lane([&](int) { return x; });
}
static inline f32x16 zero() { return set1(0.0f); }
static inline f32x16 load(const float* p) {
    return each_lane([&](int i) { return p[i]; });
}
static inline f32x16 load(const f16* p) {
    return each_lane([&](int i) { return to_float(p[i]); });
}
static inline f32x16 load(const bf16* p) {
    return each_lane([&](int i) { return to_float(p[i]); });
}
static inline f32x16 load(const int8_t* p) {
    return each_lane([&](int i) { return static_cast<float>(p[i]); });
}
static inline f32x16 load(const e4m3* p) {
    return each_lane([&](int i) { return to_float(p[i]); });
}
static inline f32x16 load_first(const float* p, int n) {
    return each_lane([&](int i) { return i < n ? p[i] : 0.0f; });
}
static inline void store(float* p, f32x16 a) { std::memcpy(p, a.v, sizeof a.v); }
static inline void store(f16* p, f32x16 a) {
    for (int i = 0; i < 16; ++i) p[i] = to_f16(a.v[i]);
}
static inline void store_first(float* p, f32x16 a, int n) { std::memcpy(p, a.v, n * sizeof(float)); }

static inline f32x16 add(f32x16 a, f32x16 b) {
    return each_lane([&](int i) { return a.v[i] + b.v[i]; });
}
static inline f32x16 sub(f32x16 a, f32x16 b) {
    return each_lane([&](int i) { return a.v[i] - b.v[i]; });
}
static inline f32x16 mul(f32x16 a, f32x16 b) {
    return each_lane([&](int i) { return a.v[i] * b.v[i]; });
}
static inline f32x16 div(f32x16 a, f32x16 b) {
    return each_lane([&](int i) { return a.v[i] / b.v[i]; });
}
static inline f32x16 max(f32x16 a, f32x16 b) {
    return each_lane([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
static inline f32x16 abs(f32x16 a) {
    return each_lane([&](int i) { return std::fabs(a.v[i]); });
}
// Rounds twice: a fused one without the instruction is a library call for each lane.
static inline f32x16 fma(f32x16 a, f32x16 b, f32x16 c) {
    return each_lane([&](int i) { return a.v[i] * b.v[i] + c.v[i]; });
}
// For |a| < 2^22: added to 1.5 * 2^23 a float has no fraction left. (nearbyint would be a call for each
// lane.)
static inline f32x16 round_even(f32x16 a) {
    return each_lane([&](int i) { return (a.v[i] + 0x1.8p23f) - 0x1.8p23f; });
}
// a where x > limit, else 0.
static inline f32x16 where_above(f32x16 x, float limit, f32x16 a) {
    return each_lane([&](int i) { return x.v[i] > limit ? a.v[i] : 0.0f; });
}
static inline f32x16 where_at_least(f32x16 x, float limit, f32x16 a) {
    return each_lane([&](int i) { return x.v[i] >= limit ? a.v[i] : 0.0f; });
}
// Bit i tells of lane i.
static inline uint32_t lanes_at_least(f32x16 x, float limit) {
    uint32_t bits = 0;
    for (int i = 0; i < 16; ++i) bits |= static_cast<uint32_t>(x.v[i] >= limit) << i;
    return bits;
}
static inline uint32_t lanes_above(f32x16 x, float limit) {
    uint32_t bits = 0;
    for (int i = 0; i < 16; ++i) bits |= static_cast<uint32_t>(x.v[i] > limit) << i;
    return bits;
}
// Stores the lanes of x that `lanes` has and their places, counted from `first`, next to one another. May
// write up to 16 of each.
static inline void compress(f32x16 x, int32_t first, uint32_t lanes, float* values, int32_t* places) {
    alignas(64) float all[16];
    store(all, x);
    for (; lanes; lanes &= lanes - 1) {
        const int lane = __builtin_ctz(lanes);
        *values++ = all[lane];
        *places++ = first + lane;
    }
}
static inline uint32_t lanes_nan(f32x16 x) {
    uint32_t bits = 0;
    for (int i = 0; i < 16; ++i) bits |= static_cast<uint32_t>(x.v[i] != x.v[i]) << i;
    return bits;
}
// a * 2^n for integral n in [-126, 127].
static inline f32x16 scale_by_power(f32x16 a, f32x16 n) {
    return each_lane([&](int i) {
        uint32_t bits;
        std::memcpy(&bits, &a.v[i], 4);
        bits += static_cast<uint32_t>(static_cast<int32_t>(n.v[i])) << 23;
        float out;
        std::memcpy(&out, &bits, 4);
        return out;
    });
}
// a * 2^n, n the integer in the low bits of `shifted`.
static inline f32x16 add_exponent(f32x16 a, f32x16 shifted) {
    return each_lane([&](int i) {
        uint32_t bits, power;
        std::memcpy(&bits, &a.v[i], 4);
        std::memcpy(&power, &shifted.v[i], 4);
        bits += power << 23;
        float out;
        std::memcpy(&out, &bits, 4);
        return out;
    });
}
static inline void store_int8(int8_t* p, f32x16 a) {
    for (int i = 0; i < 16; ++i) p[i] = static_cast<int8_t>(a.v[i]);
}
static inline void store_int16(int16_t* p, f32x16 a) {
    a = round_even(a);
    for (int i = 0; i < 16; ++i) p[i] = static_cast<int16_t>(a.v[i]);
}

// Lane j of row i becomes lane i of row j.
static inline void transpose(f32x16 (&rows)[16]) {
    f32x16 columns[16];
    for (int i = 0; i < 16; ++i)
        for (int j = 0; j < 16; ++j) columns[j].v[i] = rows[i].v[j];
    std::memcpy(rows, columns, sizeof columns);
}

// 32 lanes of 16-bit integers, and the 16 sums of what pairs of them give.
struct i16x32 {
    int16_t v[32];
};
struct i32x16 {
    uint32_t v[16];  // wraps where lanes hold what was never written
};

static inline i32x16 zero_i32() { return {}; }
static inline i16x32 load(const int16_t* p) {
    i16x32 out;
    std::memcpy(out.v, p, sizeof out.v);
    return out;
}
static inline i16x32 set_pair(const int16_t* p) {
    i16x32 out;
    for (int i = 0; i < 32; ++i) out.v[i] = p[i % 2];
    return out;
}
// Lane i of the sum gains a[2i] b[2i] + a[2i + 1] b[2i + 1]. Nothing may be -32768.
static inline i32x16 add_pairs(i16x32 a, i16x32 b, i32x16 sum) {
    for (int i = 0; i < 16; ++i)
        sum.v[i] += static_cast<uint32_t>(a.v[2 * i] * b.v[2 * i]) +
                    static_cast<uint32_t>(a.v[2 * i + 1] * b.v[2 * i + 1]);
    return sum;
}
static inline f32x16 to_f32(i32x16 a) {
    return each_lane([&](int i) { return static_cast<float>(static_cast<int32_t>(a.v[i])); });
}

// Lane i and lane i + 8, then + 4, + 2, + 1: the order that every tier follows.
static inline float reduce_add(f32x16 a) {
    for (int half = 8; half > 0; half /= 2)
        for (int i = 0; i < half; ++i) a.v[i] += a.v[i + half];
    return a.v[0];
}
static inline float reduce_max(f32x16 a) {
    for (int i = 1; i < 16; ++i) a.v[0] = a.v[i] > a.v[0] ? a.v[i] : a.v[0];
    return a.v[0];
}

// 16 lanes of 64-bit integers.
struct i64x16 {
    uint64_t v[16];
};

static inline i64x16 zero_i64() { return {}; }
static inline i64x16 add(i64x16 a, i64x16 b) {
    for (int i = 0; i < 16; ++i) a.v[i] += b.v[i];
    return a;
}
// The nearest integer, of two the even one, for 0 <= a < 2^51.
static inline i64x16 to_i64(f32x16 a) {
    // Added to 1.5 * 2^52 a double is rounded to an integer, which its low bits hold.
    const double magic = 0x1.8p52;
    uint64_t magic_bits;
    std::memcpy(&magic_bits, &magic, 8);
    i64x16 out;
    for (int i = 0; i < 16; ++i) {
        const double sum = static_cast<double>(a.v[i]) + magic;
        std::memcpy(&out.v[i], &sum, 8);
        out.v[i] -= magic_bits;
    }
    return out;
}
static inline void store(uint64_t* p, i64x16 a) { std::memcpy(p, a.v, sizeof a.v); }

}  // namespace octavo::OCTAVO_TIER
