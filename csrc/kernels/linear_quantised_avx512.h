// 4-bit and 8-bit weights by int8 activations on AVX-512 VNNI.
//
// Bound: two vpdpbusd a cycle, 128 multiply-adds; a group of 32 k takes 8 of them for each row and panel,
// and its scaling two or three float operations on the same ports: 73 to 80% of the integer peak. Two panels
// share each load of activations, of which there can be two a cycle as well.
#pragma once

#include "kernels/linear_float.h"

namespace octavo::avx512 {

// What the unsigned bytes of unpack_pair exceed the weights by.
constexpr int excess(Form form) { return form == Form::Int4 ? 8 : has_minimum(form) ? 0 : 128; }

// The 16 values of a table, as unsigned bytes, in each of the four parts that vpshufb looks up in.
static inline __m512i value_table(const int8_t* values) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(values));
    return _mm512_broadcast_i32x4(
        _mm_add_epi8(bytes, _mm_set1_epi8(static_cast<char>(excess(Form::Table4)))));
}

// Vectors 2 j and 2 j + 1 of the eight of a panel and group: four k each, as unsigned bytes.
template <Form F>
static inline void unpack_pair(const uint8_t* codes, int j, __m512i table, __m512i w[2]) {
    if constexpr (has_nibbles(F)) {
        const __m512i low = _mm512_set1_epi8(15), both = _mm512_loadu_si512(codes + j * 64);
        w[0] = _mm512_and_si512(both, low);
        w[1] = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
        if constexpr (has_table(F)) {
            w[0] = _mm512_shuffle_epi8(table, w[0]);
            w[1] = _mm512_shuffle_epi8(table, w[1]);
        }
    } else {
        w[0] = _mm512_loadu_si512(codes + j * 128);
        w[1] = _mm512_loadu_si512(codes + j * 128 + 64);
    }
}

static inline __m512i broadcast4(const int8_t* p) {
    int32_t word;
    __builtin_memcpy(&word, p, 4);
    return _mm512_set1_epi32(word);
}

// What the sum of group `index` of a row, or of one of its halves, starts from: it undoes the excess.
template <Form F>
static inline __m512i start_of_sum(const QuantisedRows& x, int64_t index, int half) {
    if constexpr (has_minimum(F)) return _mm512_setzero_si512();
    const int32_t whole = x.biases[index] * (excess(F) / 8);
    if constexpr (F == Form::Int8Halves) {
        const int32_t first = -excess(F) * x.first_sums[index];
        return _mm512_set1_epi32(half ? whole - first : first);
    }
    return _mm512_set1_epi32(whole);
}

template <int ROWS, int PANELS, Form F>
static inline void quantised_tile(const PackedWeight& weight, int64_t panel, const QuantisedRows& x,
                                  int64_t row, int64_t fetch_ahead, const LinearOutput& output) {
    // A group has one sum, or one for each half.
    constexpr int kSums = has_halves(F) ? 2 : 1, kPairs = 4 / kSums;
    // Few rows would wait for their own sums: each is split into chains, added at the end. Integers: exact.
    constexpr int kChains = ROWS == 1 ? 4 / kSums : ROWS < 4 ? 2 / kSums : 1;
    const int64_t groups = weight.groups();
    const uint8_t* records[PANELS];
    for (int p = 0; p < PANELS; ++p) records[p] = weight.panel(panel + p);
    const int8_t* q = x.q + row * weight.k;
    int64_t index = row * groups;  // of the group and the first row
    __m512i table = _mm512_setzero_si512();
    if constexpr (has_table(F)) table = value_table(table_of(weight.encoding));
    // Two panels of eight rows leave no registers for these: they live in the first-level cache.
    alignas(64) float acc[ROWS][PANELS][16] = {};
    for (int64_t g = 0; g < groups; ++g) {
        for (int p = 0; p < PANELS; ++p)
            for (int line = 0; line < record_bytes(F); line += 64)
                _mm_prefetch(reinterpret_cast<const char*>(records[p]) + fetch_ahead + line, _MM_HINT_T0);
        for (int s = 0; s < kSums; ++s) {
            __m512i sum[ROWS][PANELS][kChains];
            for (int r = 0; r < ROWS; ++r)
                for (int p = 0; p < PANELS; ++p) {
                    sum[r][p][0] = start_of_sum<F>(x, index + r, s);
                    for (int c = 1; c < kChains; ++c) sum[r][p][c] = _mm512_setzero_si512();
                }
            for (int j = s * kPairs; j < (s + 1) * kPairs; ++j) {
                __m512i w[PANELS][2];
                for (int p = 0; p < PANELS; ++p) unpack_pair<F>(records[p], j, table, w[p]);
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
                const f16* scales = reinterpret_cast<const f16*>(records[p] + code_bytes(F));
                const __m512 d = load(scales + s * kPanel).v;
                for (int r = 0; r < ROWS; ++r) {
                    for (int step = kChains / 2; step > 0; step /= 2)
                        for (int c = 0; c < step; ++c)
                            sum[r][p][c] = _mm512_add_epi32(sum[r][p][c], sum[r][p][c + step]);
                    const __m512 scale = _mm512_mul_ps(d, _mm512_set1_ps(x.scales[index + r]));
                    __m512 total = _mm512_load_ps(acc[r][p]);
                    total = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[r][p][0]), scale, total);
                    if constexpr (has_minimum(F) && kSums == 1)
                        total = _mm512_fmadd_ps(load(scales + kPanel).v, _mm512_set1_ps(x.offsets[index + r]),
                                                total);
                    _mm512_store_ps(acc[r][p], total);
                }
            }
        }
        if constexpr (has_minimum(F) && kSums == 2)
            for (int p = 0; p < PANELS; ++p)
                for (int s = 0; s < 2; ++s) {
                    const f16* minimums = reinterpret_cast<const f16*>(records[p] + code_bytes(F));
                    const __m512 m = load(minimums + (2 + s) * kPanel).v;
                    for (int r = 0; r < ROWS; ++r)
                        _mm512_store_ps(acc[r][p],
                                        _mm512_fmadd_ps(m, _mm512_set1_ps(x.offset_of_half(index + r, s)),
                                                        _mm512_load_ps(acc[r][p])));
                }
        for (int p = 0; p < PANELS; ++p) records[p] += record_bytes(F);
        q += kGroup * ROWS;
        index += ROWS;
    }
    for (int r = 0; r < ROWS; ++r)
        for (int p = 0; p < PANELS; ++p)
            finish_output(output, row + r, (panel + p) * kPanel, weight.n, load(acc[r][p]));
}

}  // namespace octavo::avx512
