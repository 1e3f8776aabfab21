// int4 and int8 weights by int8 activations on AVX2.
//
// int4: 8 vpmaddubsw of 15 x 127 x 2 stay under 2^15, so a group of 32 k is summed in 16 bits and widened
// once. Bound: 51 multiply-adds a cycle. int8: |w| x sign(x, w) pairs fit 16 bits, and are widened each time.
#pragma once

#include "linear_float.h"

namespace octavo::avx2 {

static inline __m256i broadcast4(const int8_t* p) {
    int32_t word;
    __builtin_memcpy(&word, p, 4);
    return _mm256_set1_epi32(word);
}

// sums[r][half] = the integer dot products of one group, 8 columns a half.
template <int ROWS, Encoding E>
static inline void dot_group(const uint8_t* quants, const int8_t* q, __m256i sums[ROWS][2]) {
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i acc[ROWS][2];
    for (int r = 0; r < ROWS; ++r) acc[r][0] = acc[r][1] = _mm256_setzero_si256();
    if constexpr (E == Encoding::Q8_0) {
        const __m256i flip = _mm256_set1_epi8(static_cast<char>(0x80));
        for (int j = 0; j < 8; ++j)
            for (int half = 0; half < 2; ++half) {
                __m256i stored =
                    _mm256_loadu_si256(reinterpret_cast<const __m256i*>(quants + j * 64 + half * 32));
                __m256i w = _mm256_xor_si256(stored, flip), magnitude = _mm256_abs_epi8(w);
                for (int r = 0; r < ROWS; ++r) {
                    __m256i x = _mm256_sign_epi8(broadcast4(q + (j * ROWS + r) * 4), w);
                    __m256i pairs = _mm256_maddubs_epi16(magnitude, x);
                    acc[r][half] = _mm256_add_epi32(acc[r][half], _mm256_madd_epi16(pairs, ones));
                }
            }
        for (int r = 0; r < ROWS; ++r)
            for (int half = 0; half < 2; ++half) sums[r][half] = acc[r][half];
    } else {
        const __m256i mask = _mm256_set1_epi8(15);
        for (int j = 0; j < 4; ++j) {
            __m256i low[2], high[2];
            for (int half = 0; half < 2; ++half) {
                __m256i both =
                    _mm256_loadu_si256(reinterpret_cast<const __m256i*>(quants + j * 64 + half * 32));
                low[half] = _mm256_and_si256(both, mask);
                high[half] = _mm256_and_si256(_mm256_srli_epi16(both, 4), mask);
            }
            for (int r = 0; r < ROWS; ++r) {
                __m256i first = broadcast4(q + (2 * j * ROWS + r) * 4);
                __m256i second = broadcast4(q + ((2 * j + 1) * ROWS + r) * 4);
                for (int half = 0; half < 2; ++half) {
                    acc[r][half] = _mm256_add_epi16(acc[r][half], _mm256_maddubs_epi16(low[half], first));
                    acc[r][half] = _mm256_add_epi16(acc[r][half], _mm256_maddubs_epi16(high[half], second));
                }
            }
        }
        for (int r = 0; r < ROWS; ++r)
            for (int half = 0; half < 2; ++half) sums[r][half] = _mm256_madd_epi16(acc[r][half], ones);
    }
}

template <int ROWS, int PANELS, Encoding E>
static inline void quantised_tile(const PackedWeight& weight, int64_t panel, const QuantisedRows& x,
                                  int64_t row, const LinearOutput& output) {
    const int64_t groups = weight.groups();
    const uint8_t* record = weight.panel(panel);
    const int8_t* q = x.q + row * weight.k;
    const float* x_scales = x.scales + row * groups;
    const int32_t* x_biases = x.biases + row * groups;
    const float* x_offsets = x.offsets + row * groups;
    f32x16 acc[ROWS];
    for (int r = 0; r < ROWS; ++r) acc[r] = zero();
    for (int64_t g = 0; g < groups; ++g) {
        __m256i sums[ROWS][2];
        dot_group<ROWS, E>(record, q, sums);
        const f16* scales = reinterpret_cast<const f16*>(record + quant_bytes(E));
        const f32x16 d = load(scales);
        for (int r = 0; r < ROWS; ++r) {
            if constexpr (E == Encoding::Q4_0) {  // the stored nibbles are q + 8
                __m256i bias = _mm256_set1_epi32(x_biases[r]);
                sums[r][0] = _mm256_add_epi32(sums[r][0], bias);
                sums[r][1] = _mm256_add_epi32(sums[r][1], bias);
            }
            f32x16 dots = {_mm256_cvtepi32_ps(sums[r][0]), _mm256_cvtepi32_ps(sums[r][1])};
            acc[r] = fma(dots, mul(d, set1(x_scales[r])), acc[r]);
        }
        if constexpr (E == Encoding::Q4_1) {
            const f32x16 m = load(scales + kPanel);
            for (int r = 0; r < ROWS; ++r) acc[r] = fma(m, set1(x_offsets[r]), acc[r]);
        }
        record += record_bytes(E);
        q += kGroup * ROWS;
        x_scales += ROWS;
        x_biases += ROWS;
        x_offsets += ROWS;
    }
    for (int r = 0; r < ROWS; ++r) finish_output(output, row + r, panel * kPanel, weight.n, acc[r]);
}

}  // namespace octavo::avx2
