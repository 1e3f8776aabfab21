#include "ops/registry.h"

#include <map>
#include <stdexcept>

namespace octavo {

namespace {

// In a function, so that it is there when the first op registers itself, whichever that is.
std::map<std::string, BuildOp>& registry() {
    static std::map<std::string, BuildOp> ops;
    return ops;
}

}  // namespace

RegisteredOp::RegisteredOp(const char* name, BuildOp build) { registry().emplace(name, build); }

BuildOp op_builder(const std::string& name) {
    const auto found = registry().find(name);
    if (found == registry().end()) throw std::invalid_argument("the native backend has no op " + name);
    return found->second;
}

std::vector<std::string> op_names() {
    std::vector<std::string> names;
    for (const auto& [name, build] : registry()) names.push_back(name);
    return names;
}

}  // namespace octavo
