// Products with a weight, and the rounding of activations that go with integer weights.
#pragma once

#include <cstdint>

#include "weights/packed_weight.h"

namespace octavo {

// Rows of activations as int8 in groups of 32: x is about scale * q.
//
// Stored in tiles of LinearKernels::tile_rows rows (the last may have fewer), the rows of a tile interleaved,
// so that a kernel reads its tile from one end to the other: a tile of R rows that starts at row t has
// q at t * k, [k / 4][R][4], and the rest at t * k / 32, [k / 32][R].
struct QuantisedRows {
    int8_t* q;
    float* scales;
    int32_t* biases;      // -8 times the sum of a group's q: what nibbles stored as q + 8 add too much
    float* offsets;       // scale times that sum, what a weight's minimum multiplies
    int32_t* first_sums;  // of the first 16 q of a group

    // What the minimum of half a group multiplies.
    float offset_of_half(int64_t index, int half) const {
        const int32_t first = first_sums[index];
        return scales[index] * static_cast<float>(half ? -biases[index] / 8 - first : first);
    }
};

struct LinearInput {
    const float* x;  // [rows][x_stride], for float weights
    int64_t x_stride;
    QuantisedRows quantised;  // for integer weights
};

struct LinearOutput {
    float* y;  // column 0 of this weight
    int64_t stride;
    const float* bias;      // [n] or null
    const float* residual;  // column 0, or null
    int64_t residual_stride;
};

struct LinearKernels {
    int tile_rows;
    // Quantises groups [first_group, first_group + groups) of the tile of `height` rows that starts at `row`;
    // with an order, column i of the result is column order[i] of x.
    void (*quantise_tile)(const float* x, int64_t stride, const int32_t* order, int64_t row, int64_t height,
                          int64_t k, int64_t first_group, int64_t groups, const QuantisedRows& out);
    void (*linear)(const PackedWeight& weight, int64_t first_panel, int64_t panels, const LinearInput& input,
                   int64_t first_row, int64_t rows, const LinearOutput& output);
};

}  // namespace octavo
