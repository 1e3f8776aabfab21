// 16 float lanes as one zmm register. AVX-512 F, BW, VL, VNNI and BF16 are present.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace octavo::OCTAVO_TIER {

// How many vectors beside each other a register block of four rows has room for.
constexpr int kWide = 4;

// Rows and panels that an integer kernel computes together.
constexpr int kTilePanels = 2;
constexpr int kTileRows = 8;

struct f32x16 {
    __m512 v;
};

static inline __mmask16 first_lanes(int n) { return static_cast<__mmask16>((1u << n) - 1u); }

static inline f32x16 zero() { return {_mm512_setzero_ps()}; }
static inline f32x16 set1(float x) { return {_mm512_set1_ps(x)}; }
static inline f32x16 load(const float* p) { return {_mm512_loadu_ps(p)}; }
static inline f32x16 load(const f16* p) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
static inline f32x16 load(const bf16* p) {
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(wide, 16))};
}
static inline f32x16 load(const int8_t* p) {
    return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))))};
}
static inline f32x16 load(const e4m3* p) {
    const __m256i wide = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    const __m256i sign = _mm256_slli_epi16(_mm256_and_si256(wide, _mm256_set1_epi16(0x80)), 8);
    const __m256i rest = _mm256_slli_epi16(_mm256_and_si256(wide, _mm256_set1_epi16(0x7f)), 7);
    return {_mm512_mul_ps(_mm512_cvtph_ps(_mm256_or_si256(sign, rest)), _mm512_set1_ps(256.0f))};
}
static inline f32x16 load_first(const float* p, int n) { return {_mm512_maskz_loadu_ps(first_lanes(n), p)}; }
static inline void store(float* p, f32x16 a) { _mm512_storeu_ps(p, a.v); }
static inline void store(f16* p, f32x16 a) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT));
}
static inline void store_first(float* p, f32x16 a, int n) { _mm512_mask_storeu_ps(p, first_lanes(n), a.v); }

static inline f32x16 add(f32x16 a, f32x16 b) { return {_mm512_add_ps(a.v, b.v)}; }
static inline f32x16 sub(f32x16 a, f32x16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
static inline f32x16 mul(f32x16 a, f32x16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
static inline f32x16 div(f32x16 a, f32x16 b) { return {_mm512_div_ps(a.v, b.v)}; }
static inline f32x16 max(f32x16 a, f32x16 b) { return {_mm512_max_ps(a.v, b.v)}; }
static inline f32x16 abs(f32x16 a) { return {_mm512_abs_ps(a.v)}; }
static inline f32x16 fma(f32x16 a, f32x16 b, f32x16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
static inline f32x16 round_even(f32x16 a) {
    return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
// a where x > limit, else 0.
static inline f32x16 where_above(f32x16 x, float limit, f32x16 a) {
    return {_mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x.v, _mm512_set1_ps(limit), _CMP_GT_OQ), a.v)};
}
static inline f32x16 where_at_least(f32x16 x, float limit, f32x16 a) {
    return {_mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x.v, _mm512_set1_ps(limit), _CMP_GE_OQ), a.v)};
}
// Bit i tells of lane i.
static inline uint32_t lanes_at_least(f32x16 x, float limit) {
    return _mm512_cmp_ps_mask(x.v, _mm512_set1_ps(limit), _CMP_GE_OQ);
}
static inline uint32_t lanes_above(f32x16 x, float limit) {
    return _mm512_cmp_ps_mask(x.v, _mm512_set1_ps(limit), _CMP_GT_OQ);
}
// Stores the lanes of x that `lanes` has and their places, counted from `first`, next to one another. May
// write up to 16 of each.
static inline void compress(f32x16 x, int32_t first, uint32_t lanes, float* values, int32_t* places) {
    const __m512i count = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const auto mask = static_cast<__mmask16>(lanes);
    _mm512_storeu_ps(values, _mm512_maskz_compress_ps(mask, x.v));
    _mm512_storeu_si512(places,
                        _mm512_maskz_compress_epi32(mask, _mm512_add_epi32(_mm512_set1_epi32(first), count)));
}
static inline uint32_t lanes_nan(f32x16 x) { return _mm512_cmp_ps_mask(x.v, x.v, _CMP_UNORD_Q); }
// a * 2^n for integral n in [-126, 127].
static inline f32x16 scale_by_power(f32x16 a, f32x16 n) {
    __m512i exponent = _mm512_slli_epi32(_mm512_cvtps_epi32(n.v), 23);
    return {_mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(a.v), exponent))};
}
// a * 2^n, n the integer in the low bits of `shifted`.
static inline f32x16 add_exponent(f32x16 a, f32x16 shifted) {
    const __m512i exponent = _mm512_slli_epi32(_mm512_castps_si512(shifted.v), 23);
    return {_mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(a.v), exponent))};
}
static inline void store_int8(int8_t* p, f32x16 a) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(a.v)));
}
static inline void store_int16(int16_t* p, f32x16 a) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(_mm512_cvtps_epi32(a.v)));
}

// Lane j of row i becomes lane i of row j.
static inline void transpose(f32x16 (&rows)[16]) {
    __m512d pairs[16];
    for (int i = 0; i < 16; i += 2) {
        pairs[i] = _mm512_castps_pd(_mm512_unpacklo_ps(rows[i].v, rows[i + 1].v));
        pairs[i + 1] = _mm512_castps_pd(_mm512_unpackhi_ps(rows[i].v, rows[i + 1].v));
    }
    __m512 fours[16];  // [four of the rows][lane of a quarter]: columns of four rows, in each quarter
    for (int i = 0; i < 16; i += 4)
        for (int half = 0; half < 2; ++half) {
            const __m512d above = pairs[i + half], below = pairs[i + 2 + half];
            fours[i + 2 * half] = _mm512_castpd_ps(_mm512_unpacklo_pd(above, below));
            fours[i + 2 * half + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(above, below));
        }
    for (int lane = 0; lane < 4; ++lane) {
        const __m512 a = fours[lane], b = fours[4 + lane], c = fours[8 + lane], d = fours[12 + lane];
        const __m512 ab_even = _mm512_shuffle_f32x4(a, b, 0x88), ab_odd = _mm512_shuffle_f32x4(a, b, 0xdd);
        const __m512 cd_even = _mm512_shuffle_f32x4(c, d, 0x88), cd_odd = _mm512_shuffle_f32x4(c, d, 0xdd);
        rows[lane].v = _mm512_shuffle_f32x4(ab_even, cd_even, 0x88);
        rows[4 + lane].v = _mm512_shuffle_f32x4(ab_odd, cd_odd, 0x88);
        rows[8 + lane].v = _mm512_shuffle_f32x4(ab_even, cd_even, 0xdd);
        rows[12 + lane].v = _mm512_shuffle_f32x4(ab_odd, cd_odd, 0xdd);
    }
}

// 32 lanes of 16-bit integers, and the 16 sums of what pairs of them give.
struct i16x32 {
    __m512i v;
};
struct i32x16 {
    __m512i v;
};

static inline i32x16 zero_i32() { return {_mm512_setzero_si512()}; }
static inline i16x32 load(const int16_t* p) { return {_mm512_loadu_si512(p)}; }
static inline i16x32 set_pair(const int16_t* p) {
    int32_t pair;
    __builtin_memcpy(&pair, p, 4);
    return {_mm512_set1_epi32(pair)};
}
// Lane i of the sum gains a[2i] b[2i] + a[2i + 1] b[2i + 1]. Nothing may be -32768.
static inline i32x16 add_pairs(i16x32 a, i16x32 b, i32x16 sum) {
    // Not the intrinsic, of which GCC 12 copies every sum to and fro in a loop.
    asm("vpdpwssd %2, %1, %0" : "+v"(sum.v) : "v"(a.v), "v"(b.v));
    return sum;
}
static inline f32x16 to_f32(i32x16 a) { return {_mm512_cvtepi32_ps(a.v)}; }

// Lane i and lane i + 8, then + 4, + 2, + 1: the order that every tier follows.
static inline float reduce_add(f32x16 a) {
    __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}
static inline float reduce_max(f32x16 a) { return _mm512_reduce_max_ps(a.v); }

// 16 lanes of 64-bit integers.
struct i64x16 {
    __m512i lo, hi;
};

static inline i64x16 zero_i64() { return {_mm512_setzero_si512(), _mm512_setzero_si512()}; }
static inline i64x16 add(i64x16 a, i64x16 b) {
    return {_mm512_add_epi64(a.lo, b.lo), _mm512_add_epi64(a.hi, b.hi)};
}
// The nearest integer, of two the even one, for 0 <= a < 2^51.
static inline i64x16 to_i64(f32x16 a) {
    return {_mm512_cvtps_epi64(_mm512_castps512_ps256(a.v)),
            _mm512_cvtps_epi64(_mm512_extractf32x8_ps(a.v, 1))};
}
static inline void store(uint64_t* p, i64x16 a) {
    _mm512_storeu_si512(p, a.lo);
    _mm512_storeu_si512(p + 8, a.hi);
}

}  // namespace octavo::OCTAVO_TIER
