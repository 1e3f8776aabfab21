// Rows of floats rounded to codes and scales, or to the blocks that the kernels run.
#pragma once

#include <cstdint>

#include "kernels/tables/kernels.h"

namespace octavo {

// All rows as groups, the arrays as RoundedGroups says. Throws std::domain_error for values that cannot be
// rounded.
void round_to_groups(const Kernels& kernels, Rounding rounding, const RowsToRound& rows, int64_t count,
                     const RoundedGroups& out);

// All rows in the panels of a PackedWeight, in groups of 32: Int8 runs as Q8_0, Int4 as Q4_0, Int4Minimums as
// Q4_1, Float8 as F8_E4M3. With an order, row i of the panels is row order[i]. Throws alike.
void round_to_panels(const Kernels& kernels, Rounding rounding, const RowsToRound& rows, int64_t count,
                     const int32_t* order, uint8_t* out);

// What round_to_panels gives, of `count` rows of `cols`.
PackedWeight panels_of(Rounding rounding, int64_t count, int64_t cols);

}  // namespace octavo
