// Memory that instructions use while they run, one after the other: as much as the one that wants most.
#pragma once

#include <algorithm>
#include <vector>

#include "executor/region.h"
#include "kernels/tables/linear.h"

namespace octavo {

class Scratch {
  public:
    // While ops are built: what each of them needs.
    void want_quantised(int64_t cols) { cols_ = std::max(cols_, cols); }
    void want_thread_floats(int64_t count) { thread_floats_ = std::max(thread_floats_, count); }
    void want_shared_floats(int64_t count) { shared_floats_ = std::max(shared_floats_, count); }

    // Once, before the first step.
    void allocate(int64_t rows, int threads);

    // Rows of activations, rounded.
    const QuantisedRows& quantised() const { return quantised_; }
    float* of_thread(int thread) const { return of_threads_[thread]; }
    float* shared() const { return reinterpret_cast<float*>(shared_.data()); }

  private:
    int64_t cols_ = 0, thread_floats_ = 0, shared_floats_ = 0;
    Region region_, shared_;
    QuantisedRows quantised_{};
    std::vector<float*> of_threads_;
};

}  // namespace octavo
