// Rows of floats rounded to codes and scales.
#pragma once

#include <cstdint>

#include "weights/encoding.h"

namespace octavo {

// What `octavo/formats/rounding.py` rounds groups of values to.
enum class Rounding { Int8, Int4, Int4ZeroPoints, Int4Minimums, Float8 };
enum class RoundingFault { None, NotFinite, TooLarge };

// Rows of floats, each whole groups of `size`: 32, 64 or 128, for Float8 32. Any of the last three may be
// null: what columns and rows are multiplied with, and the weights of the columns' errors.
struct RowsToRound {
    Encoding encoding;  // F32, F16 or BF16
    const uint8_t* data;
    int64_t cols;
    int64_t size;
    const float* column_factors;
    const float* row_factors;
    const float* importance;
};

// [groups][size] codes, [groups] scales, and zeros or minimums where the rounding has them, else null.
struct RoundedGroups {
    uint8_t* codes;
    float* scales;
    float* offsets;
};

struct RoundingKernels {
    // Rows [first, first + count); scratch: count * cols floats.
    RoundingFault (*round_rows)(Rounding rounding, const RowsToRound& rows, int64_t first, int64_t count,
                                float* scratch, const RoundedGroups& out);
};

}  // namespace octavo
