// The sampling kernels of one ISA tier.
#include "kernels/sampling.h"

namespace octavo::OCTAVO_TIER {

extern const SamplingKernels sampling_kernels;
const SamplingKernels sampling_kernels = {argmax, maxima, sum_weights, weights, collect, count_above};

}  // namespace octavo::OCTAVO_TIER
