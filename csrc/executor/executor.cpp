#include "executor/executor.h"

#include <utility>

namespace octavo {

namespace {

size_t num_counters(const Program& program) {
    size_t count = 0;
    for (const auto& op : program.ops) count += op->stages();
    return count;
}

}  // namespace

Executor::Executor(ThreadPool& pool, std::unique_ptr<Program> program, const Matrix& result)
    : pool_(pool), program_(std::move(program)), result_(result), counters_(num_counters(*program_)) {
    Counter* counters = counters_.data();
    for (const auto& op : program_->ops) {
        places_.push_back({op.get(), counters});
        counters += op->stages();
    }
}

const float* Executor::run(const Step& step) {
    check(step, program_->limits, program_->kv.groups(), program_->kv.blocks());
    program_->attention_plans.make(step, program_->kv.full_groups());
    for (Counter& each : counters_) each.next.store(0, std::memory_order_relaxed);
    pool_.run([&](int thread) {
        for (const Place& each : places_) {
            each.op->run({step, thread, pool_, each.counters});
            pool_.barrier();
        }
    });
    return result_.data;
}

}  // namespace octavo
