// Ops that compute each row of their output by itself.
#pragma once

#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

#include "executor/program.h"

namespace octavo {

template <typename F>
class ByRow : public Op {
  public:
    ByRow(Rows rows, F f) : rows_(rows), f_(std::move(f)) {}

    void run(const Work& work) const override {
        work.share(0, work.step.rows(rows_), 4, [&](int64_t row) { f_(work.step, row); });
    }

  private:
    Rows rows_;
    F f_;
};

// Adds an op that calls f(step, row) for each of such rows.
template <typename F>
void add_by_row(Program& program, Rows rows, F f) {
    program.add(std::make_unique<ByRow<F>>(rows, std::move(f)));
}

// Throws std::invalid_argument for an input that has not the rows and the columns of the output.
inline void check_like(const Instruction& each, const Matrix& input, const Matrix& output) {
    if (input.rows != output.rows || input.cols != output.cols)
        throw std::invalid_argument("an input of " + each.op + " is not of its output's shape");
}

// Throws std::invalid_argument for columns that are not whole heads.
inline void check_heads(const Instruction& each, const Matrix& x, int head_dim) {
    if (head_dim < 1 || x.cols % head_dim)
        throw std::invalid_argument(each.op + " of " + std::to_string(x.cols) +
                                    " columns, which are not whole heads of " + std::to_string(head_dim));
}

}  // namespace octavo
