#include <cstring>

#include "ops/by_row.h"
#include "ops/registry.h"

namespace octavo {

static void build(const Instruction& each, Program& program) {
    const Matrix x = program.matrix(each.input(0)), y = program.matrix(each.output);
    if (x.rows != Rows::Tokens || y.rows != Rows::Outputs || x.cols != y.cols)
        throw std::invalid_argument("gather_rows takes rows of tokens to as wide rows of outputs");
    add_by_row(program, y.rows, [=](const Step& step, int64_t row) {
        std::memcpy(y.row(row), x.row(step.output_rows[row]), y.cols * sizeof(float));
    });
}

static const RegisteredOp gather_rows("gather_rows", build);

}  // namespace octavo
