#include "ops/by_row.h"
#include "ops/registry.h"

namespace octavo {

static void build(const Instruction& each, Program& program) {
    const Matrix x = program.matrix(each.output);  // in place
    const int head_dim = each.integer("head_dim");
    check_heads(each, x, head_dim);
    const float* weight = program.weights.vector(each.weight(0), head_dim);
    const float eps = each.number("eps");
    const auto norm = program.kernels.elementwise.find("rms_norm").norm;
    add_by_row(program, x.rows, [=](const Step&, int64_t row) {
        float* head = x.row(row);
        for (int column = 0; column < x.cols; column += head_dim)
            norm(head + column, weight, eps, head_dim, head + column);
    });
}

static const RegisteredOp head_rms_norm("head_rms_norm", build);

}  // namespace octavo
