// A Program made ready to run: its ops, and all the memory that a step takes.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "executor/attention_plan.h"
#include "executor/instruction.h"
#include "executor/kv_store.h"
#include "executor/region.h"
#include "executor/scratch.h"
#include "executor/step.h"
#include "executor/weights.h"
#include "executor/work.h"
#include "kernels/tables/kernels.h"

namespace octavo {

// Columns of a buffer in its arena; as many rows as the step has of their kind.
struct Matrix {
    Rows rows;
    int cols;
    float* data;     // column 0 of row 0
    int64_t stride;  // from a row to the next one

    float* row(int64_t index) const { return data + index * stride; }
};

// An instruction made ready: csrc/ops/ has one for each op of octavo/runtime/ops.
class Op {
  public:
    virtual ~Op() = default;
    // How often the threads share items out, each time with a counter of its own.
    virtual int stages() const { return 1; }
    // Called by every thread of the pool; the instruction is done when it has returned on all.
    virtual void run(const Work& work) const = 0;
};

struct Buffer {
    Rows rows;
    int cols;
    int offset;  // floats a row into the arena of these rows
};

struct Program {
    Program(const Kernels& kernels, int threads, const Limits& limits, Weights weights)
        : kernels(kernels), threads(threads), limits(limits), weights(std::move(weights)) {}

    const Kernels& kernels;
    int threads;
    Limits limits;
    Weights weights;
    Scratch scratch;
    AttentionPlans attention_plans;
    KVStore kv;
    std::vector<std::unique_ptr<Op>> ops;

    // Takes the arenas of all kinds of rows.
    void place(const std::vector<Buffer>& buffers, const ByRows& arena_cols);
    // Throws std::invalid_argument for a view outside of the buffers.
    Matrix matrix(const View& view) const;
    void add(std::unique_ptr<Op> op) { ops.push_back(std::move(op)); }

  private:
    Region arena_;
    std::vector<Matrix> buffers_;
};

}  // namespace octavo
