// Takes a Program's buffers, weights and instructions from Python, and makes it ready to run.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "executor/executor.h"
#include "executor/instruction.h"
#include "executor/program.h"

namespace octavo {

class ProgramBuilder {
  public:
    void add_buffer(const Buffer& buffer) { buffers_.push_back(buffer); }
    Weights& weights() { return weights_; }
    // Throws std::invalid_argument for an op that csrc/ops/ does not have.
    void add_instruction(Instruction instruction);

    // Builds each instruction's op and takes all memory but the KV cache. Throws std::invalid_argument for
    // an instruction that its weights, inputs or attributes do not fit. The builder is empty afterwards.
    std::unique_ptr<Executor> finish(ThreadPool& pool, const Kernels& kernels, const Limits& limits,
                                     const ByRows& arena_cols, const View& result);

  private:
    std::vector<Buffer> buffers_;
    Weights weights_;
    std::vector<Instruction> instructions_;
};

}  // namespace octavo
