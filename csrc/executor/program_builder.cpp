#include "executor/program_builder.h"

#include <algorithm>
#include <utility>

#include "ops/registry.h"

namespace octavo {

void ProgramBuilder::add_instruction(Instruction instruction) {
    op_builder(instruction.op);
    instructions_.push_back(std::move(instruction));
}

std::unique_ptr<Executor> ProgramBuilder::finish(ThreadPool& pool, const Kernels& kernels,
                                                 const Limits& limits, const ByRows& arena_cols,
                                                 const View& result) {
    auto program = std::make_unique<Program>(kernels, pool.size(), limits, std::move(weights_));
    program->place(buffers_, arena_cols);
    for (const Instruction& each : instructions_) op_builder(each.op)(each, *program);
    program->scratch.allocate(std::ranges::max(limits.max_rows), pool.size());
    const Matrix rows = program->matrix(result);
    *this = {};
    return std::make_unique<Executor>(pool, std::move(program), rows);
}

}  // namespace octavo
