// y = x W^T for E4M3 weights with a float32 scale for each 32 k of a column.
//
// A lane is an output column. Its 32 products of a group are summed in order, and the sum goes, times the
// scale, to the total. Bound: making floats of 16 bytes takes about four operations beside their
// multiply-adds, so that one row gets about half of the peak, and a tile of eight rows two thirds.
#pragma once

#include "kernels/linear_float.h"

namespace octavo::OCTAVO_TIER {

#if defined(OCTAVO_TIER_AVX512)
constexpr int kFloat8Rows = 8, kFloat8Panels = 2;

// The floats of two k by 16 columns, times 2^-8: an E4M3 float is a float16 short of seven bits of fraction
// and eight of the exponent's bias.
constexpr float kFloat8Unit = 256.0f;
static inline void load_two(const uint8_t* codes, f32x16 w[2]) {
    const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes));
    const __m512i high = _mm512_slli_epi16(_mm512_cvtepu8_epi16(bytes), 8);
    const __m512i halves =
        _mm512_and_si512(_mm512_srai_epi16(high, 1), _mm512_set1_epi16(static_cast<int16_t>(0xbf80)));
    w[0] = {_mm512_cvtph_ps(_mm512_castsi512_si256(halves))};
    w[1] = {_mm512_cvtph_ps(_mm512_extracti64x4_epi64(halves, 1))};
}
#else
constexpr int kFloat8Rows = 4, kFloat8Panels = 1;
constexpr float kFloat8Unit = 1.0f;
static inline void load_two(const uint8_t* codes, f32x16 w[2]) {
    w[0] = load(reinterpret_cast<const e4m3*>(codes));
    w[1] = load(reinterpret_cast<const e4m3*>(codes) + kPanel);
}
#endif

template <int ROWS, int PANELS>
static inline void float8_tile(const PackedWeight& weight, int64_t panel, const LinearInput& input,
                               int64_t row, const LinearOutput& output) {
    const uint8_t* records[PANELS];
    for (int p = 0; p < PANELS; ++p) records[p] = weight.panel(panel + p);
    f32x16 acc[ROWS][PANELS];
    for (int r = 0; r < ROWS; ++r)
        for (int p = 0; p < PANELS; ++p) acc[r][p] = zero();
    const float* x = input.x + row * input.x_stride;
    for (int64_t g = 0; g < weight.groups(); ++g, x += kGroup) {
        f32x16 sum[ROWS][PANELS];
        for (int r = 0; r < ROWS; ++r)
            for (int p = 0; p < PANELS; ++p) sum[r][p] = zero();
        for (int k = 0; k < kGroup; k += 2) {
            f32x16 w[PANELS][2];
            for (int p = 0; p < PANELS; ++p) load_two(records[p] + k * kPanel, w[p]);
            for (int i = 0; i < 2; ++i)
                for (int r = 0; r < ROWS; ++r) {
                    const f32x16 value = set1(x[r * input.x_stride + k + i]);
                    for (int p = 0; p < PANELS; ++p) sum[r][p] = fma(value, w[p][i], sum[r][p]);
                }
        }
        for (int p = 0; p < PANELS; ++p) {
            const float* scales = reinterpret_cast<const float*>(records[p] + kGroup * kPanel);
            const f32x16 scale = mul(load(scales), set1(kFloat8Unit));
            for (int r = 0; r < ROWS; ++r) acc[r][p] = fma(sum[r][p], scale, acc[r][p]);
            records[p] += kFloat8RecordBytes;
        }
    }
    for (int r = 0; r < ROWS; ++r)
        for (int p = 0; p < PANELS; ++p)
            finish_output(output, row + r, (panel + p) * kPanel, weight.n, acc[r][p]);
}

// At most ROWS rows.
template <int ROWS, int PANELS>
static inline void float8_rest(const PackedWeight& weight, int64_t panel, const LinearInput& input,
                               int64_t row, int64_t rows, const LinearOutput& output) {
    if constexpr (ROWS > 0) {
        if (rows == ROWS)
            float8_tile<ROWS, PANELS>(weight, panel, input, row, output);
        else
            float8_rest<ROWS - 1, PANELS>(weight, panel, input, row, rows, output);
    }
}

template <int PANELS>
static inline void float8_rows(const PackedWeight& weight, int64_t panel, const LinearInput& input,
                               int64_t row, int64_t rows, const LinearOutput& output) {
    for (; rows >= kFloat8Rows; rows -= kFloat8Rows, row += kFloat8Rows)
        float8_tile<kFloat8Rows, PANELS>(weight, panel, input, row, output);
    float8_rest<kFloat8Rows - 1, PANELS>(weight, panel, input, row, rows, output);
}

static void float8_linear(const PackedWeight& weight, int64_t first_panel, int64_t panels,
                          const LinearInput& input, int64_t row, int64_t rows, const LinearOutput& output) {
    constexpr int kFew = 2;  // rows that need the sums of more panels to keep the multipliers busy
    int64_t panel = first_panel;
    const int64_t end = first_panel + panels;
    if (rows <= kFew)
        for (; panel + kWide <= end; panel += kWide)
            float8_rest<kFew, kWide>(weight, panel, input, row, rows, output);
    for (; panel + kFloat8Panels <= end; panel += kFloat8Panels)
        float8_rows<kFloat8Panels>(weight, panel, input, row, rows, output);
    if constexpr (kFloat8Panels > 1)
        for (; panel < end; ++panel) float8_rows<1>(weight, panel, input, row, rows, output);
}

}  // namespace octavo::OCTAVO_TIER
