#include "ops/by_row.h"
#include "ops/registry.h"

namespace octavo {

static void build(const Instruction& each, Program& program) {
    const Matrix x = program.matrix(each.output);  // in place
    const int head_dim = each.integer("head_dim"), rotary_dim = each.integer("rotary_dim");
    check_heads(each, x, head_dim);
    if (x.rows != Rows::Tokens || rotary_dim > head_dim)
        throw std::invalid_argument("rope needs rows of tokens, and heads of at least rotary_dim columns");
    const float* table = program.weights.float_table(each.weight(0), program.limits.max_position, rotary_dim,
                                                     "positions of a sequence");
    const auto rotation = program.kernels.elementwise.find("rope").rotation;
    add_by_row(program, x.rows, [=](const Step& step, int64_t row) {
        const float* of_position = table + int64_t{step.positions[row]} * rotary_dim;
        float* head = x.row(row);
        for (int column = 0; column < x.cols; column += head_dim)
            rotation(head + column, of_position, rotary_dim);
    });
}

static const RegisteredOp rope("rope", build);

}  // namespace octavo
