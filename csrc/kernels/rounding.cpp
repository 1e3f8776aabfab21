// The rounding kernels of one ISA tier.
#include "kernels/rounding.h"

namespace octavo::OCTAVO_TIER {

extern const RoundingKernels rounding_kernels;
const RoundingKernels rounding_kernels = {round_rows};

}  // namespace octavo::OCTAVO_TIER
