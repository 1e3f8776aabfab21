// 4-bit and 8-bit weights by int8 activations on AVX2.
//
// 4-bit codes: 8 vpmaddubsw of 15 x 127 x 2 stay under 2^15, so a group of 32 k is summed in 16 bits and
// widened once. Bound: 51 multiply-adds a cycle. Signed bytes: |w| x sign(x, w) pairs fit 16 bits, and are
// widened each time.
#pragma once

#include "kernels/linear_float.h"

namespace octavo::avx2 {

static inline __m256i broadcast4(const int8_t* p) {
    int32_t word;
    __builtin_memcpy(&word, p, 4);
    return _mm256_set1_epi32(word);
}

static inline __m256i load_codes(const uint8_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}

// Four k of eight columns as signed bytes: what the codes stand for, less 128 for Int8Minimum.
template <Form F>
static inline __m256i signed_weights(const uint8_t* codes, int j, int half, __m256i table) {
    if constexpr (has_table(F)) {
        __m256i both = load_codes(codes + j / 2 * 64 + half * 32);
        if (j % 2) both = _mm256_srli_epi16(both, 4);
        return _mm256_shuffle_epi8(table, _mm256_and_si256(both, _mm256_set1_epi8(15)));
    }
    return _mm256_xor_si256(load_codes(codes + j * 64 + half * 32),
                            _mm256_set1_epi8(static_cast<char>(0x80)));
}

// sums[r][half] = the integer dot products of vectors [first, last) of a group's eight, 8 columns a half.
template <int ROWS, Form F>
static inline void dot_signed(const uint8_t* codes, const int8_t* q, int first, int last, __m256i table,
                              __m256i sums[ROWS][2]) {
    const __m256i ones = _mm256_set1_epi16(1);
    for (int r = 0; r < ROWS; ++r) sums[r][0] = sums[r][1] = _mm256_setzero_si256();
    for (int j = first; j < last; ++j)
        for (int half = 0; half < 2; ++half) {
            const __m256i w = signed_weights<F>(codes, j, half, table), magnitude = _mm256_abs_epi8(w);
            for (int r = 0; r < ROWS; ++r) {
                __m256i x = _mm256_sign_epi8(broadcast4(q + (j * ROWS + r) * 4), w);
                __m256i pairs = _mm256_maddubs_epi16(magnitude, x);
                sums[r][half] = _mm256_add_epi32(sums[r][half], _mm256_madd_epi16(pairs, ones));
            }
        }
}

// The same of nibbles as they are stored.
template <int ROWS>
static inline void dot_nibbles(const uint8_t* codes, const int8_t* q, int first, int last,
                               __m256i sums[ROWS][2]) {
    const __m256i mask = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
    __m256i acc[ROWS][2];
    for (int r = 0; r < ROWS; ++r) acc[r][0] = acc[r][1] = _mm256_setzero_si256();
    // Unrolled, GCC adds the products in another order, which takes more registers than there are.
#pragma GCC unroll 1
    for (int j = first / 2; j < last / 2; ++j) {
        __m256i low[2], high[2];
        for (int half = 0; half < 2; ++half) {
            __m256i both = load_codes(codes + j * 64 + half * 32);
            low[half] = _mm256_and_si256(both, mask);
            high[half] = _mm256_and_si256(_mm256_srli_epi16(both, 4), mask);
        }
        for (int r = 0; r < ROWS; ++r) {
            __m256i even = broadcast4(q + (2 * j * ROWS + r) * 4);
            __m256i odd = broadcast4(q + ((2 * j + 1) * ROWS + r) * 4);
            for (int half = 0; half < 2; ++half) {
                acc[r][half] = _mm256_add_epi16(acc[r][half], _mm256_maddubs_epi16(low[half], even));
                acc[r][half] = _mm256_add_epi16(acc[r][half], _mm256_maddubs_epi16(high[half], odd));
            }
        }
    }
    for (int r = 0; r < ROWS; ++r)
        for (int half = 0; half < 2; ++half) sums[r][half] = _mm256_madd_epi16(acc[r][half], ones);
}

template <int ROWS, int PANELS, Form F>
static inline void quantised_tile(const PackedWeight& weight, int64_t panel, const QuantisedRows& x,
                                  int64_t row, int64_t fetch_ahead, const LinearOutput& output) {
    // A group has one sum, or one for each half.
    constexpr int kSums = has_halves(F) ? 2 : 1, kVectors = 8 / kSums;
    const int64_t groups = weight.groups();
    const uint8_t* record = weight.panel(panel);
    const int8_t* q = x.q + row * weight.k;
    int64_t index = row * groups;  // of the group and the first row
    f32x16 acc[ROWS];
    for (int r = 0; r < ROWS; ++r) acc[r] = zero();
    __m256i table = _mm256_setzero_si256();
    if constexpr (has_table(F))
        table = _mm256_broadcastsi128_si256(
            _mm_loadu_si128(reinterpret_cast<const __m128i*>(table_of(weight.encoding))));
    for (int64_t g = 0; g < groups; ++g) {
        for (int line = 0; line < record_bytes(F); line += 64)
            __builtin_prefetch(record + fetch_ahead + line);
        const f16* scales = reinterpret_cast<const f16*>(record + code_bytes(F));
        for (int s = 0; s < kSums; ++s) {
            __m256i sums[ROWS][2];
            if constexpr (has_nibbles(F) && !has_table(F))
                dot_nibbles<ROWS>(record, q, s * kVectors, (s + 1) * kVectors, sums);
            else
                dot_signed<ROWS, F>(record, q, s * kVectors, (s + 1) * kVectors, table, sums);
            const f32x16 d = load(scales + s * kPanel);
            for (int r = 0; r < ROWS; ++r) {
                if constexpr (F == Form::Int4 || F == Form::Int8Minimum) {  // q + 8 stored, 128 taken away
                    __m256i bias = _mm256_set1_epi32(x.biases[index + r] * (F == Form::Int4 ? 1 : -16));
                    sums[r][0] = _mm256_add_epi32(sums[r][0], bias);
                    sums[r][1] = _mm256_add_epi32(sums[r][1], bias);
                }
                f32x16 dots = {_mm256_cvtepi32_ps(sums[r][0]), _mm256_cvtepi32_ps(sums[r][1])};
                acc[r] = fma(dots, mul(d, set1(x.scales[index + r])), acc[r]);
            }
        }
        if constexpr (has_minimum(F))
            for (int s = 0; s < kSums; ++s) {
                const f32x16 m = load(scales + (kSums + s) * kPanel);
                for (int r = 0; r < ROWS; ++r) {
                    const float offset = kSums == 2 ? x.offset_of_half(index + r, s) : x.offsets[index + r];
                    acc[r] = fma(m, set1(offset), acc[r]);
                }
            }
        record += record_bytes(F);
        q += kGroup * ROWS;
        index += ROWS;
    }
    for (int r = 0; r < ROWS; ++r) finish_output(output, row + r, panel * kPanel, weight.n, acc[r]);
}

}  // namespace octavo::avx2
