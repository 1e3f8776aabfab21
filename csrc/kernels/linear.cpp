// The linear kernels of one ISA tier; compiled once a tier with that tier's flags, like each family's file.
#include "kernels/linear_float.h"
#include "kernels/linear_float8.h"
#include "kernels/quantise_rows.h"

#if defined(OCTAVO_TIER_AVX512)
#include "kernels/linear_quantised_avx512.h"
#elif defined(OCTAVO_TIER_AVX2)
#include "kernels/linear_quantised_avx2.h"
#elif defined(OCTAVO_TIER_NEON)
#include "kernels/linear_quantised_neon.h"
#else
#include "kernels/linear_quantised_portable.h"
#endif

namespace octavo::OCTAVO_TIER {

constexpr int64_t kFewRows = 4;
constexpr int64_t kFetchAhead = 4096;  // bytes

// A last tile of fewer rows than kTileRows.
template <int ROWS, int PANELS, Form F>
static void remaining_rows(const PackedWeight& weight, int64_t panel, const QuantisedRows& x, int64_t row,
                           int64_t rows, int64_t fetch_ahead, const LinearOutput& output) {
    if constexpr (ROWS > 0) {
        if (rows == ROWS)
            quantised_tile<ROWS, PANELS, F>(weight, panel, x, row, fetch_ahead, output);
        else
            remaining_rows<ROWS - 1, PANELS, F>(weight, panel, x, row, rows, fetch_ahead, output);
    }
}

template <int PANELS, Form F>
static void quantised_rows(const PackedWeight& weight, int64_t panel, const QuantisedRows& x, int64_t row,
                           int64_t rows, const LinearOutput& output) {
    // The first tile reads its panels from memory, a little ahead. While the last one has them in the cache,
    // it asks for the next panels.
    int64_t fetch_ahead = kFetchAhead;
    const int64_t next_panels = PANELS * static_cast<int64_t>(weight.panel_bytes());
    for (; rows >= kTileRows; rows -= kTileRows, row += kTileRows) {
        quantised_tile<kTileRows, PANELS, F>(weight, panel, x, row, fetch_ahead, output);
        fetch_ahead = rows <= 2 * kTileRows ? next_panels : 0;
    }
    remaining_rows<kTileRows - 1, PANELS, F>(weight, panel, x, row, rows, fetch_ahead, output);
}

template <Form F>
static void quantised_linear(const PackedWeight& weight, int64_t first_panel, int64_t panels,
                             const LinearInput& input, int64_t row, int64_t rows,
                             const LinearOutput& output) {
    int64_t panel = first_panel;
    const int64_t end = first_panel + panels;
    // Few rows wait for memory, which gives one panel faster than several beside each other.
    if (rows > kFewRows)
        for (; panel + kTilePanels <= end; panel += kTilePanels)
            quantised_rows<kTilePanels, F>(weight, panel, input.quantised, row, rows, output);
    for (; panel < end; ++panel) quantised_rows<1, F>(weight, panel, input.quantised, row, rows, output);
}

static void linear(const PackedWeight& weight, int64_t first_panel, int64_t panels, const LinearInput& input,
                   int64_t row, int64_t rows, const LinearOutput& output) {
    switch (weight.form()) {
        case Form::F32:
            return float_linear<float>(weight, first_panel, panels, input, row, rows, output);
        case Form::F16:
            return float_linear<f16>(weight, first_panel, panels, input, row, rows, output);
        case Form::BF16:
            return float_linear<bf16>(weight, first_panel, panels, input, row, rows, output);
        case Form::Float8:
            return float8_linear(weight, first_panel, panels, input, row, rows, output);
        case Form::Int8:
            return quantised_linear<Form::Int8>(weight, first_panel, panels, input, row, rows, output);
        case Form::Int8Halves:
            return quantised_linear<Form::Int8Halves>(weight, first_panel, panels, input, row, rows, output);
        case Form::Int8Minimum:
            return quantised_linear<Form::Int8Minimum>(weight, first_panel, panels, input, row, rows, output);
        case Form::Int4:
            return quantised_linear<Form::Int4>(weight, first_panel, panels, input, row, rows, output);
        case Form::Int4Minimum:
            return quantised_linear<Form::Int4Minimum>(weight, first_panel, panels, input, row, rows, output);
        case Form::Int4HalvesMinimum:
            return quantised_linear<Form::Int4HalvesMinimum>(weight, first_panel, panels, input, row, rows,
                                                             output);
        case Form::Table4:
            return quantised_linear<Form::Table4>(weight, first_panel, panels, input, row, rows, output);
    }
}

extern const LinearKernels linear_kernels;
const LinearKernels linear_kernels = {
    .tile_rows = kTileRows, .quantise_tile = quantise_tile, .linear = linear};

}  // namespace octavo::OCTAVO_TIER
