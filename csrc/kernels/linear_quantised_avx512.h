// int4 and int8 weights by int8 activations on AVX-512 VNNI.
//
// Bound: two vpdpbusd a cycle, 128 multiply-adds; a group of 32 k takes 8 of them for each row and panel,
// and its scaling three or four float operations on the same ports: about 70% of the integer peak.
#pragma once

#include "linear_float.h"

namespace octavo::avx512 {

// Up to so many rows the weights come from memory once and wait for nothing else: fetch well ahead.
constexpr int kStreamedRows = 8;
constexpr int kPrefetchBytes = 4096;

// The 8 vectors of four k each, as unsigned bytes, of one panel and group.
template <Encoding E>
static inline void unpack_group(const uint8_t* quants, __m512i w[8]) {
    if constexpr (E == Encoding::Q8_0) {
        for (int j = 0; j < 8; ++j) w[j] = _mm512_loadu_si512(quants + j * 64);
    } else {
        const __m512i low = _mm512_set1_epi8(15);
        for (int j = 0; j < 4; ++j) {
            __m512i both = _mm512_loadu_si512(quants + j * 64);
            w[2 * j] = _mm512_and_si512(both, low);
            w[2 * j + 1] = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
        }
    }
}

static inline __m512i broadcast4(const int8_t* p) {
    int32_t word;
    __builtin_memcpy(&word, p, 4);
    return _mm512_set1_epi32(word);
}

// What a sum starts from, given -8 times the sum of the activations: the stored bytes are q + 8 or q + 128.
template <Encoding E>
static inline __m512i stored_bias(int32_t bias) {
    if constexpr (E == Encoding::Q4_0) return _mm512_set1_epi32(bias);
    if constexpr (E == Encoding::Q8_0) return _mm512_slli_epi32(_mm512_set1_epi32(bias), 4);
    return _mm512_setzero_si512();
}

template <int ROWS, Encoding E>
static inline void quantised_tile(const PackedWeight& weight, int64_t panel, const QuantisedRows& x,
                                  int64_t row, const LinearOutput& output) {
    const int64_t groups = weight.groups();
    const uint8_t* record = weight.panel(panel);
    const int8_t* q = x.q + row * weight.k;
    const float* x_scales = x.scales + row * groups;
    const int32_t* x_biases = x.biases + row * groups;
    const float* x_offsets = x.offsets + row * groups;
    // Few rows would wait for their own sums: each is split into chains, added at the end. Integers: exact.
    constexpr int kChains = ROWS == 1 ? 4 : ROWS < 4 ? 2 : 1;
    __m512 acc[ROWS];
    for (int r = 0; r < ROWS; ++r) acc[r] = _mm512_setzero_ps();
    for (int64_t g = 0; g < groups; ++g) {
        if constexpr (ROWS <= kStreamedRows)
            for (int line = 0; line < record_bytes(E); line += 64)
                _mm_prefetch(reinterpret_cast<const char*>(record) + kPrefetchBytes + line, _MM_HINT_T0);
        __m512i w[8], sum[ROWS][kChains];
        unpack_group<E>(record, w);
        for (int r = 0; r < ROWS; ++r) {
            sum[r][0] = stored_bias<E>(x_biases[r]);
            for (int c = 1; c < kChains; ++c) sum[r][c] = _mm512_setzero_si512();
        }
        for (int j = 0; j < 8; ++j)
            for (int r = 0; r < ROWS; ++r)
                sum[r][j % kChains] =
                    _mm512_dpbusd_epi32(sum[r][j % kChains], w[j], broadcast4(q + (j * ROWS + r) * 4));
        for (int r = 0; r < ROWS; ++r)
            for (int step = kChains / 2; step > 0; step /= 2)
                for (int c = 0; c < step; ++c) sum[r][c] = _mm512_add_epi32(sum[r][c], sum[r][c + step]);
        const f16* scales = reinterpret_cast<const f16*>(record + quant_bytes(E));
        const __m512 d = load(scales).v;
        for (int r = 0; r < ROWS; ++r) {
            __m512 scale = _mm512_mul_ps(d, _mm512_set1_ps(x_scales[r]));
            acc[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[r][0]), scale, acc[r]);
        }
        if constexpr (E == Encoding::Q4_1) {
            const __m512 m = load(scales + kPanel).v;
            for (int r = 0; r < ROWS; ++r) acc[r] = _mm512_fmadd_ps(m, _mm512_set1_ps(x_offsets[r]), acc[r]);
        }
        record += record_bytes(E);
        q += kGroup * ROWS;
        x_scales += ROWS;
        x_biases += ROWS;
        x_offsets += ROWS;
    }
    for (int r = 0; r < ROWS; ++r) finish_output(output, row + r, panel * kPanel, weight.n, f32x16{acc[r]});
}

}  // namespace octavo::avx512
