#include "ops/elementwise.h"
#include "ops/registry.h"

namespace octavo {

static const RegisteredOp add("add", [](const Instruction& each, Program& program) {
    build_binary(each, program, "add");
});

}  // namespace octavo
