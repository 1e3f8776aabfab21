// Persistent threads that run one function together: they spin briefly for the next, then park.
#pragma once

#include <atomic>
#include <functional>
#include <thread>
#include <vector>

namespace octavo {

class ThreadPool {
  public:
    // `threads` counts the calling thread, which takes part as number 0.
    explicit ThreadPool(int threads);
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    int size() const { return size_; }

    // Calls work(thread) once on every thread and returns when all have. Not reentrant.
    void run(const std::function<void(int)>& work);

    // All threads of the current `run` wait here for each other.
    void barrier();

  private:
    void worker(int thread);

    int size_;
    const std::function<void(int)>* work_ = nullptr;
    alignas(64) std::atomic<uint32_t> generation_{0};
    alignas(64) std::atomic<int> arrived_{0};
    alignas(64) std::atomic<uint32_t> phase_{0};
    std::atomic<bool> stopping_{false};
    std::vector<std::thread> workers_;
};

}  // namespace octavo
