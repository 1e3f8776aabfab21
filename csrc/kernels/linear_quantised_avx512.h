// int4 and int8 weights by int8 activations on AVX-512 VNNI.
//
// Bound: two vpdpbusd a cycle, 128 multiply-adds; a group of 32 k takes 8 of them for each row and panel,
// and its scaling two or three float operations on the same ports: 73 to 80% of the integer peak. Two panels
// share each load of activations, of which there can be two a cycle as well.
#pragma once

#include "linear_float.h"

namespace octavo::avx512 {

// Up to so many rows the weights come from memory once and wait for nothing else: fetch well ahead.
constexpr int kStreamedRows = 8;
constexpr int kPrefetchBytes = 4096;

// Vectors 2 j and 2 j + 1 of the eight of a panel and group: four k each, as unsigned bytes.
template <Encoding E>
static inline void unpack_pair(const uint8_t* quants, int j, __m512i w[2]) {
    if constexpr (E == Encoding::Q8_0) {
        w[0] = _mm512_loadu_si512(quants + j * 128);
        w[1] = _mm512_loadu_si512(quants + j * 128 + 64);
    } else {
        const __m512i low = _mm512_set1_epi8(15), both = _mm512_loadu_si512(quants + j * 64);
        w[0] = _mm512_and_si512(both, low);
        w[1] = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
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

template <int ROWS, int PANELS, Encoding E>
static inline void quantised_tile(const PackedWeight& weight, int64_t panel, const QuantisedRows& x,
                                  int64_t row, const LinearOutput& output) {
    const int64_t groups = weight.groups();
    const uint8_t* records[PANELS];
    for (int p = 0; p < PANELS; ++p) records[p] = weight.panel(panel + p);
    const int8_t* q = x.q + row * weight.k;
    const float* x_scales = x.scales + row * groups;
    const int32_t* x_biases = x.biases + row * groups;
    const float* x_offsets = x.offsets + row * groups;
    // Few rows would wait for their own sums: each is split into chains, added at the end. Integers: exact.
    constexpr int kChains = ROWS == 1 ? 4 : ROWS < 4 ? 2 : 1;
    // Two panels of eight rows leave no registers for these: they live in the first-level cache.
    alignas(64) float acc[ROWS][PANELS][16] = {};
    for (int64_t g = 0; g < groups; ++g) {
        if constexpr (ROWS <= kStreamedRows)
            for (int p = 0; p < PANELS; ++p)
                for (int line = 0; line < record_bytes(E); line += 64)
                    _mm_prefetch(reinterpret_cast<const char*>(records[p]) + kPrefetchBytes + line,
                                 _MM_HINT_T0);
        __m512i sum[ROWS][PANELS][kChains];
        for (int r = 0; r < ROWS; ++r)
            for (int p = 0; p < PANELS; ++p) {
                sum[r][p][0] = stored_bias<E>(x_biases[r]);
                for (int c = 1; c < kChains; ++c) sum[r][p][c] = _mm512_setzero_si512();
            }
        for (int j = 0; j < 4; ++j) {
            __m512i w[PANELS][2];
            for (int p = 0; p < PANELS; ++p) unpack_pair<E>(records[p], j, w[p]);
            for (int half = 0; half < 2; ++half)
                for (int r = 0; r < ROWS; ++r) {
                    const __m512i value = broadcast4(q + ((2 * j + half) * ROWS + r) * 4);
                    for (int p = 0; p < PANELS; ++p) {
                        __m512i& to = sum[r][p][(2 * j + half) % kChains];
                        to = _mm512_dpbusd_epi32(to, w[p][half], value);
                    }
                }
        }
        for (int p = 0; p < PANELS; ++p) {
            const f16* scales = reinterpret_cast<const f16*>(records[p] + quant_bytes(E));
            const __m512 d = load(scales).v;
            for (int r = 0; r < ROWS; ++r) {
                for (int step = kChains / 2; step > 0; step /= 2)
                    for (int c = 0; c < step; ++c)
                        sum[r][p][c] = _mm512_add_epi32(sum[r][p][c], sum[r][p][c + step]);
                const __m512 scale = _mm512_mul_ps(d, _mm512_set1_ps(x_scales[r]));
                __m512 total = _mm512_load_ps(acc[r][p]);
                total = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[r][p][0]), scale, total);
                if constexpr (E == Encoding::Q4_1)
                    total = _mm512_fmadd_ps(load(scales + kPanel).v, _mm512_set1_ps(x_offsets[r]), total);
                _mm512_store_ps(acc[r][p], total);
            }
            records[p] += record_bytes(E);
        }
        q += kGroup * ROWS;
        x_scales += ROWS;
        x_biases += ROWS;
        x_offsets += ROWS;
    }
    for (int r = 0; r < ROWS; ++r)
        for (int p = 0; p < PANELS; ++p)
            finish_output(output, row + r, (panel + p) * kPanel, weight.n, load(acc[r][p]));
}

}  // namespace octavo::avx512
