#include "executor/thread_pool.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace octavo {

namespace {

// About 50 microseconds of spinning covers the gaps inside a step and between busy steps; a thread that
// waits longer should not keep a hyperthread's sibling from its work.
constexpr int kSpins = 2000;

void relax() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("isb");  // waits about as long as pause; yield does nothing on most processors
#endif
}

}  // namespace

ThreadPool::ThreadPool(int threads) : size_(threads < 1 ? 1 : threads) {
    for (int thread = 1; thread < size_; ++thread) workers_.emplace_back([this, thread] { worker(thread); });
}

ThreadPool::~ThreadPool() {
    stopping_.store(true);
    generation_.fetch_add(1);
    generation_.notify_all();
    for (std::thread& each : workers_) each.join();
}

void ThreadPool::run(const std::function<void(int)>& work) {
    work_ = &work;
    generation_.fetch_add(1, std::memory_order_seq_cst);
    if (size_ > 1) generation_.notify_all();
    work(0);
    barrier();
}

void ThreadPool::worker(int thread) {
    uint32_t seen = 0;
    while (true) {
        for (int spin = 0; spin < kSpins && generation_.load(std::memory_order_acquire) == seen; ++spin)
            relax();
        generation_.wait(seen, std::memory_order_acquire);
        if (stopping_.load()) return;
        ++seen;
        (*work_)(thread);
        barrier();
    }
}

void ThreadPool::barrier() {
    if (size_ == 1) return;
    uint32_t phase = phase_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
        arrived_.store(0, std::memory_order_relaxed);
        // Sequentially consistent: notify first looks whether anybody waits, and that look must not pass the
        // store, or a thread that parks just then sleeps for ever.
        phase_.store(phase + 1, std::memory_order_seq_cst);
        phase_.notify_all();
        return;
    }
    for (int spin = 0; spin < kSpins; ++spin) {
        if (phase_.load(std::memory_order_acquire) != phase) return;
        relax();
    }
    phase_.wait(phase, std::memory_order_acquire);
}

}  // namespace octavo
