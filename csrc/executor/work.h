// One thread's part in one instruction of a step, and how the threads share its items out.
//
// Items are handed out in pieces from a counter, so a slow hyperthread takes fewer of them; results do not
// depend on who computed what.
#pragma once

#include <algorithm>
#include <atomic>

#include "executor/step.h"
#include "executor/thread_pool.h"

namespace octavo {

// The next item of a stage that nobody has taken; alone in its cache line.
struct alignas(64) Counter {
    std::atomic<int64_t> next{0};
};

struct Work {
    const Step& step;
    int thread;
    ThreadPool& pool;
    Counter* counters;  // one for each of the instruction's stages, all 0 when the step starts

    // All threads wait here for each other.
    void barrier() const { pool.barrier(); }

    // Calls f(item) for the items [0, count) of a stage that this thread gets, `size` at a time.
    template <typename F>
    void share(int stage, int64_t count, int64_t size, F f) const {
        std::atomic<int64_t>& next = counters[stage].next;
        for (int64_t first = next.fetch_add(size); first < count; first = next.fetch_add(size))
            for (int64_t item = first; item < std::min(first + size, count); ++item) f(item);
    }

    // Calls f(first, last) for ranges of [0, count): long ones first, as memory is fastest at long reads,
    // then ever shorter ones, so that the threads end together.
    template <typename F>
    void share_shrinking(int stage, int64_t count, int64_t least, F f) const {
        std::atomic<int64_t>& next = counters[stage].next;
        for (int64_t first = next.load(); first < count;) {
            const int64_t share = (count - first) * 4 / (5 * pool.size()) / least * least;
            const int64_t last = std::min(first + std::max(least, share), count);
            if (!next.compare_exchange_weak(first, last)) continue;
            f(first, last);
            first = next.load();
        }
    }
};

}  // namespace octavo
