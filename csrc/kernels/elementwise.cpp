// The elementwise kernels of one ISA tier.
#include "kernels/elementwise.h"

namespace octavo::OCTAVO_TIER {

extern const ElementwiseKernels elementwise_kernels;
const ElementwiseKernels elementwise_kernels = {kElementwise, sizeof kElementwise / sizeof *kElementwise};

}  // namespace octavo::OCTAVO_TIER
