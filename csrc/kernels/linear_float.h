// y = x W^T for float32, float16 and bfloat16 weights.
//
// A lane is an output column and its sum runs over k in order, one fused multiply-add each. Bound: two FMA
// a cycle; a tile of ROWS x PANELS chains hides their latency, and a single row takes several panels.
#pragma once

#include "kernels/lanes.h"
#include "kernels/tables/linear.h"

namespace octavo::OCTAVO_TIER {

// Bias and residual, then the store, of the sums of one row and one panel.
static inline void finish_output(const LinearOutput& output, int64_t row, int64_t column, int64_t n,
                                 f32x16 sum) {
    const int count = static_cast<int>(n - column < kPanel ? n - column : kPanel);
    if (output.bias) sum = add(sum, load_some(output.bias + column, count));
    if (output.residual)
        sum = add(sum, load_some(output.residual + row * output.residual_stride + column, count));
    store_some(output.y + row * output.stride + column, sum, count);
}

// Rows of a tile: with kWide panels their sums take 24 of 32 registers, or 8 of 16.
constexpr int kFloatRows = kWide > 1 ? 6 : 4;

template <int ROWS, int PANELS, typename T>
static inline void float_tile(const PackedWeight& weight, int64_t panel, const LinearInput& input,
                              int64_t row, const LinearOutput& output) {
    const T* columns[PANELS];
    for (int p = 0; p < PANELS; ++p) columns[p] = reinterpret_cast<const T*>(weight.panel(panel + p));
    f32x16 acc[ROWS][PANELS];
    for (int r = 0; r < ROWS; ++r)
        for (int p = 0; p < PANELS; ++p) acc[r][p] = zero();
    const float* x = input.x + row * input.x_stride;
    for (int64_t k = 0; k < weight.k; ++k) {
        f32x16 w[PANELS];
        for (int p = 0; p < PANELS; ++p) w[p] = load(columns[p] + k * kPanel);
        for (int r = 0; r < ROWS; ++r) {
            f32x16 value = set1(x[r * input.x_stride + k]);
            for (int p = 0; p < PANELS; ++p) acc[r][p] = fma(value, w[p], acc[r][p]);
        }
    }
#if defined(OCTAVO_TIER_NEON)
#pragma GCC unroll 4  // GCC would else store the sums at each k
#endif
    for (int r = 0; r < ROWS; ++r)
        for (int p = 0; p < PANELS; ++p)
            finish_output(output, row + r, (panel + p) * kPanel, weight.n, acc[r][p]);
}

// At most ROWS rows.
template <int ROWS, int PANELS, typename T>
static inline void float_rest(const PackedWeight& weight, int64_t panel, const LinearInput& input,
                              int64_t row, int64_t rows, const LinearOutput& output) {
    if constexpr (ROWS > 0) {
        if (rows == ROWS)
            float_tile<ROWS, PANELS, T>(weight, panel, input, row, output);
        else
            float_rest<ROWS - 1, PANELS, T>(weight, panel, input, row, rows, output);
    }
}

template <int PANELS, typename T>
static inline void float_rows(const PackedWeight& weight, int64_t panel, const LinearInput& input,
                              int64_t row, int64_t rows, const LinearOutput& output) {
    for (; rows >= kFloatRows; rows -= kFloatRows, row += kFloatRows)
        float_tile<kFloatRows, PANELS, T>(weight, panel, input, row, output);
    float_rest<kFloatRows - 1, PANELS, T>(weight, panel, input, row, rows, output);
}

template <typename T>
static void float_linear(const PackedWeight& weight, int64_t first_panel, int64_t panels,
                         const LinearInput& input, int64_t row, int64_t rows, const LinearOutput& output) {
    int64_t panel = first_panel;
    const int64_t end = first_panel + panels;
    for (; panel + kWide <= end; panel += kWide)
        float_rows<kWide, T>(weight, panel, input, row, rows, output);
    for (; panel < end; ++panel) float_rows<1, T>(weight, panel, input, row, rows, output);
}

}  // namespace octavo::OCTAVO_TIER
