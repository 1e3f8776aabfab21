// Walks a Program: every thread goes through the instructions together, with a barrier after each.
//
// All memory is taken before the first step.
#pragma once

#include <memory>
#include <vector>

#include "executor/program.h"
#include "executor/step.h"
#include "executor/thread_pool.h"

namespace octavo {

class Executor {
  public:
    Executor(ThreadPool& pool, std::unique_ptr<Program> program, const Matrix& result);

    // Runs one step and returns the result's rows, valid until the next call. Throws std::invalid_argument
    // for a step that does not fit the limits or the KV cache.
    const float* run(const Step& step);

    const Matrix& result() const { return result_; }
    const Weights& weights() const { return program_->weights; }
    KVStore& kv() { return program_->kv; }

  private:
    struct Place {
        const Op* op;
        Counter* counters;
    };

    ThreadPool& pool_;
    std::unique_ptr<Program> program_;
    Matrix result_;
    std::vector<Counter> counters_;
    std::vector<Place> places_;
};

}  // namespace octavo
