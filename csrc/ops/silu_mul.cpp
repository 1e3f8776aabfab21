#include "ops/elementwise.h"
#include "ops/registry.h"

namespace octavo {

static const RegisteredOp silu_mul("silu_mul", [](const Instruction& each, Program& program) {
    build_binary(each, program, "silu_mul");
});

}  // namespace octavo
