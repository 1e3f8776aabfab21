// What ops have in common whose kernel is one of the elementwise ones.
#pragma once

#include "ops/by_row.h"

namespace octavo {

// y = f(x) with the unary kernel `name`.
inline void build_unary(const Instruction& each, Program& program, const char* name) {
    const Matrix x = program.matrix(each.input(0)), y = program.matrix(each.output);
    check_like(each, x, y);
    const auto kernel = program.kernels.elementwise.find(name).unary;
    add_by_row(program, y.rows, [=](const Step&, int64_t row) { kernel(x.row(row), y.cols, y.row(row)); });
}

// out = f(x, y) with the binary kernel `name`.
inline void build_binary(const Instruction& each, Program& program, const char* name) {
    const Matrix x = program.matrix(each.input(0)), y = program.matrix(each.input(1));
    const Matrix out = program.matrix(each.output);
    check_like(each, x, out);
    check_like(each, y, out);
    const auto kernel = program.kernels.elementwise.find(name).binary;
    add_by_row(program, out.rows,
               [=](const Step&, int64_t row) { kernel(x.row(row), y.row(row), out.cols, out.row(row)); });
}

}  // namespace octavo
