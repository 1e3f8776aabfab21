// 16 float lanes as two ymm registers. AVX2, FMA and F16C are present.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace octavo::OCTAVO_TIER {

// How many vectors beside each other a register block of four rows has room for.
constexpr int kWide = 1;

// Rows and panels that an integer kernel computes together.
constexpr int kTilePanels = 1;
constexpr int kTileRows = 4;

struct f32x16 {
    __m256 lo, hi;
};

static inline f32x16 zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
static inline f32x16 set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
static inline f32x16 load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
static inline f32x16 load(const f16* p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
            _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)))};
}
static inline __m256 widen_bf16(const bf16* p) {
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
static inline f32x16 load(const bf16* p) { return {widen_bf16(p), widen_bf16(p + 8)}; }
static inline __m256 widen_int8(const int8_t* p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
static inline f32x16 load(const int8_t* p) { return {widen_int8(p), widen_int8(p + 8)}; }
static inline __m256 widen_e4m3(const e4m3* p) {
    const __m128i wide = _mm_cvtepu8_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
    const __m128i sign = _mm_slli_epi16(_mm_and_si128(wide, _mm_set1_epi16(0x80)), 8);
    const __m128i rest = _mm_slli_epi16(_mm_and_si128(wide, _mm_set1_epi16(0x7f)), 7);
    return _mm256_mul_ps(_mm256_cvtph_ps(_mm_or_si128(sign, rest)), _mm256_set1_ps(256.0f));
}
static inline f32x16 load(const e4m3* p) { return {widen_e4m3(p), widen_e4m3(p + 8)}; }
static inline f32x16 load_first(const float* p, int n) {
    alignas(32) float lanes[16] = {};
    std::memcpy(lanes, p, n * sizeof(float));
    return load(lanes);
}
static inline void store(float* p, f32x16 a) {
    _mm256_storeu_ps(p, a.lo);
    _mm256_storeu_ps(p + 8, a.hi);
}
static inline void store(f16* p, f32x16 a) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(a.lo, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8), _mm256_cvtps_ph(a.hi, _MM_FROUND_TO_NEAREST_INT));
}
static inline void store_first(float* p, f32x16 a, int n) {
    alignas(32) float lanes[16];
    store(lanes, a);
    std::memcpy(p, lanes, n * sizeof(float));
}

static inline f32x16 add(f32x16 a, f32x16 b) {
    return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)};
}
static inline f32x16 sub(f32x16 a, f32x16 b) {
    return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)};
}
static inline f32x16 mul(f32x16 a, f32x16 b) {
    return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)};
}
static inline f32x16 div(f32x16 a, f32x16 b) {
    return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)};
}
static inline f32x16 max(f32x16 a, f32x16 b) {
    return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)};
}
static inline f32x16 abs(f32x16 a) {
    __m256 sign = _mm256_set1_ps(-0.0f);
    return {_mm256_andnot_ps(sign, a.lo), _mm256_andnot_ps(sign, a.hi)};
}
static inline f32x16 fma(f32x16 a, f32x16 b, f32x16 c) {
    return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
static inline f32x16 round_even(f32x16 a) {
    constexpr int mode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    return {_mm256_round_ps(a.lo, mode), _mm256_round_ps(a.hi, mode)};
}
// a where x > limit, else 0.
static inline f32x16 where_above(f32x16 x, float limit, f32x16 a) {
    __m256 bound = _mm256_set1_ps(limit);
    return {_mm256_and_ps(_mm256_cmp_ps(x.lo, bound, _CMP_GT_OQ), a.lo),
            _mm256_and_ps(_mm256_cmp_ps(x.hi, bound, _CMP_GT_OQ), a.hi)};
}
static inline f32x16 where_at_least(f32x16 x, float limit, f32x16 a) {
    __m256 bound = _mm256_set1_ps(limit);
    return {_mm256_and_ps(_mm256_cmp_ps(x.lo, bound, _CMP_GE_OQ), a.lo),
            _mm256_and_ps(_mm256_cmp_ps(x.hi, bound, _CMP_GE_OQ), a.hi)};
}
static inline uint32_t lanes(__m256 lo, __m256 hi) {
    return static_cast<uint32_t>(_mm256_movemask_ps(lo)) | static_cast<uint32_t>(_mm256_movemask_ps(hi)) << 8;
}
// Bit i tells of lane i.
static inline uint32_t lanes_at_least(f32x16 x, float limit) {
    __m256 bound = _mm256_set1_ps(limit);
    return lanes(_mm256_cmp_ps(x.lo, bound, _CMP_GE_OQ), _mm256_cmp_ps(x.hi, bound, _CMP_GE_OQ));
}
static inline uint32_t lanes_above(f32x16 x, float limit) {
    __m256 bound = _mm256_set1_ps(limit);
    return lanes(_mm256_cmp_ps(x.lo, bound, _CMP_GT_OQ), _mm256_cmp_ps(x.hi, bound, _CMP_GT_OQ));
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
    return lanes(_mm256_cmp_ps(x.lo, x.lo, _CMP_UNORD_Q), _mm256_cmp_ps(x.hi, x.hi, _CMP_UNORD_Q));
}
static inline __m256 scale_by_power(__m256 a, __m256 n) {
    __m256i exponent = _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a), exponent));
}
// a * 2^n for integral n in [-126, 127].
static inline f32x16 scale_by_power(f32x16 a, f32x16 n) {
    return {scale_by_power(a.lo, n.lo), scale_by_power(a.hi, n.hi)};
}
static inline __m256 add_exponent(__m256 a, __m256 shifted) {
    const __m256i exponent = _mm256_slli_epi32(_mm256_castps_si256(shifted), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a), exponent));
}
// a * 2^n, n the integer in the low bits of `shifted`.
static inline f32x16 add_exponent(f32x16 a, f32x16 shifted) {
    return {add_exponent(a.lo, shifted.lo), add_exponent(a.hi, shifted.hi)};
}
static inline void store_int8(int8_t* p, f32x16 a) {
    __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi));
    words = _mm256_permute4x64_epi64(words, 0xd8);
    __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
}
static inline void store_int16(int16_t* p, f32x16 a) {
    const __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(words, 0xd8));
}

static inline void transpose_eight(__m256 (&rows)[8]) {
    __m256d pairs[8];
    for (int i = 0; i < 8; i += 2) {
        pairs[i] = _mm256_castps_pd(_mm256_unpacklo_ps(rows[i], rows[i + 1]));
        pairs[i + 1] = _mm256_castps_pd(_mm256_unpackhi_ps(rows[i], rows[i + 1]));
    }
    __m256 fours[8];
    for (int i = 0; i < 8; i += 4)
        for (int half = 0; half < 2; ++half) {
            const __m256d above = pairs[i + half], below = pairs[i + 2 + half];
            fours[i + 2 * half] = _mm256_castpd_ps(_mm256_unpacklo_pd(above, below));
            fours[i + 2 * half + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(above, below));
        }
    for (int lane = 0; lane < 4; ++lane) {
        rows[lane] = _mm256_permute2f128_ps(fours[lane], fours[4 + lane], 0x20);
        rows[4 + lane] = _mm256_permute2f128_ps(fours[lane], fours[4 + lane], 0x31);
    }
}

// Lane j of row i becomes lane i of row j.
static inline void transpose(f32x16 (&rows)[16]) {
    __m256 quarters[2][2][8];  // [half of the rows][half of the lanes]
    for (int i = 0; i < 16; ++i) {
        quarters[i / 8][0][i % 8] = rows[i].lo;
        quarters[i / 8][1][i % 8] = rows[i].hi;
    }
    for (auto& halves : quarters)
        for (auto& quarter : halves) transpose_eight(quarter);
    for (int i = 0; i < 16; ++i) rows[i] = {quarters[0][i / 8][i % 8], quarters[1][i / 8][i % 8]};
}

// 32 lanes of 16-bit integers, and the 16 sums of what pairs of them give.
struct i16x32 {
    __m256i lo, hi;
};
struct i32x16 {
    __m256i lo, hi;
};

static inline i32x16 zero_i32() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
static inline i16x32 load(const int16_t* p) {
    return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)),
            _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 16))};
}
static inline i16x32 set_pair(const int16_t* p) {
    int32_t pair;
    std::memcpy(&pair, p, 4);
    return {_mm256_set1_epi32(pair), _mm256_set1_epi32(pair)};
}
// Lane i of the sum gains a[2i] b[2i] + a[2i + 1] b[2i + 1]. Nothing may be -32768.
static inline i32x16 add_pairs(i16x32 a, i16x32 b, i32x16 sum) {
    return {_mm256_add_epi32(sum.lo, _mm256_madd_epi16(a.lo, b.lo)),
            _mm256_add_epi32(sum.hi, _mm256_madd_epi16(a.hi, b.hi))};
}
static inline f32x16 to_f32(i32x16 a) { return {_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)}; }

// Lane i and lane i + 8, then + 4, + 2, + 1: the order that every tier follows.
static inline float reduce_add(f32x16 a) {
    __m256 eight = _mm256_add_ps(a.lo, a.hi);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}
static inline float reduce_max(f32x16 a) {
    __m256 eight = _mm256_max_ps(a.lo, a.hi);
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
}

// 16 lanes of 64-bit integers.
struct i64x16 {
    __m256i v[4];
};

static inline i64x16 zero_i64() {
    __m256i none = _mm256_setzero_si256();
    return {none, none, none, none};
}
static inline i64x16 add(i64x16 a, i64x16 b) {
    return {_mm256_add_epi64(a.v[0], b.v[0]), _mm256_add_epi64(a.v[1], b.v[1]),
            _mm256_add_epi64(a.v[2], b.v[2]), _mm256_add_epi64(a.v[3], b.v[3])};
}
static inline __m256i to_i64(__m128 a) {
    // Added to 1.5 * 2^52 a double is rounded to an integer, which its low bits hold.
    __m256d magic = _mm256_set1_pd(0x1.8p52);
    __m256i bits = _mm256_castpd_si256(_mm256_add_pd(_mm256_cvtps_pd(a), magic));
    return _mm256_sub_epi64(bits, _mm256_castpd_si256(magic));
}
// The nearest integer, of two the even one, for 0 <= a < 2^51.
static inline i64x16 to_i64(f32x16 a) {
    return {to_i64(_mm256_castps256_ps128(a.lo)), to_i64(_mm256_extractf128_ps(a.lo, 1)),
            to_i64(_mm256_castps256_ps128(a.hi)), to_i64(_mm256_extractf128_ps(a.hi, 1))};
}
static inline void store(uint64_t* p, i64x16 a) {
    for (int i = 0; i < 4; ++i) _mm256_storeu_si256(reinterpret_cast<__m256i*>(p) + i, a.v[i]);
}

}  // namespace octavo::OCTAVO_TIER
