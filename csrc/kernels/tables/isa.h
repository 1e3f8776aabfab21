// The ISA tiers that the kernels are compiled for, and which of them this processor has.
#pragma once

#include <string>
#include <vector>

#include "kernels/tables/kernels.h"

namespace octavo {

// Names of the tiers that this processor has, plainest first.
std::vector<std::string> isas();

const Kernels& kernels_of(const std::string& isa);

}  // namespace octavo
