#include "kernels/tables/elementwise.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace octavo {

const ElementwiseKernel& ElementwiseKernels::find(std::string_view name) const {
    const ElementwiseKernel* end = first + count;
    const auto* found = std::find_if(first, end, [&](const auto& each) { return each.name == name; });
    if (found == end) throw std::logic_error("there is no elementwise kernel " + std::string(name));
    return *found;
}

}  // namespace octavo
