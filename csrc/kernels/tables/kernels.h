// All kernels of an ISA tier, by family; chosen once at run time.
//
// Every kernel computes a given output element by the same sequence of operations whatever the number of
// rows and whichever thread runs it: batch invariance is a property of the tables.
//
// Who needs one family includes that family's header.
#pragma once

#include <string>
#include <vector>

#include "kernels/tables/attention.h"
#include "kernels/tables/elementwise.h"
#include "kernels/tables/linear.h"
#include "kernels/tables/peak.h"
#include "kernels/tables/rounding.h"
#include "kernels/tables/sampling.h"

namespace octavo {

struct Kernels {
    const char* isa;
    LinearKernels linear;
    ElementwiseKernels elementwise;
    AttentionKernels attention;
    SamplingKernels sampling;
    RoundingKernels rounding;
    PeakLoops peak;
};

// Names of the tiers that this processor has, plainest first.
std::vector<std::string> isas();

// Throws std::invalid_argument for a name that no tier has.
const Kernels& kernels_of(const std::string& isa);

}  // namespace octavo
