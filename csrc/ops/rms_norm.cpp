#include "ops/by_row.h"
#include "ops/registry.h"

namespace octavo {

static void build(const Instruction& each, Program& program) {
    const Matrix x = program.matrix(each.input(0)), y = program.matrix(each.output);
    check_like(each, x, y);
    const float* weight = program.weights.vector(each.weight(0), y.cols);
    const float eps = each.number("eps");
    const auto norm = program.kernels.elementwise.find("rms_norm").norm;
    add_by_row(program, y.rows,
               [=](const Step&, int64_t row) { norm(x.row(row), weight, eps, y.cols, y.row(row)); });
}

static const RegisteredOp rms_norm("rms_norm", build);

}  // namespace octavo
