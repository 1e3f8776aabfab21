// The ceilings of this machine, measured: multiply-adds from registers, and reads from memory.
#include <nanobind/stl/string.h>

#include <algorithm>
#include <chrono>
#include <stdexcept>
#include <string>

#include "bindings/bindings.h"
#include "executor/region.h"
#include "executor/thread_pool.h"
#include "kernels/tables/kernels.h"

namespace octavo {

namespace {

constexpr double kPassSeconds = 0.02;
constexpr double kMeasureSeconds = 0.4;
constexpr size_t kReadStep = 128;  // floats

template <typename F>
double seconds(F f) {
    const auto start = std::chrono::steady_clock::now();
    f();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// The fastest of many passes: noise only ever slows one down.
template <typename F>
double fastest(F pass) {
    double best = seconds(pass);
    for (double total = best; total < kMeasureSeconds;) {
        const double time = seconds(pass);
        best = std::min(best, time);
        total += time;
    }
    return best;
}

double multiply_add_rate(const std::string& isa, int threads, bool integer) {
    const PeakLoops& loops = kernels_of(isa).peak;
    const auto loop = integer ? loops.dot_int8 : loops.fma_float;
    int64_t rounds = 1 << 12, done = 0;
    while (seconds([&] { done = loop(rounds); }) < kPassSeconds) rounds *= 2;
    ThreadPool pool(threads);
    return static_cast<double>(done * pool.size()) / fastest([&] { pool.run([&](int) { loop(rounds); }); });
}

double read_bandwidth(const std::string& isa, int threads, size_t bytes) {
    const PeakLoops& loops = kernels_of(isa).peak;
    ThreadPool pool(threads);
    const size_t share = bytes / sizeof(float) / pool.size() / kReadStep * kReadStep;
    if (!share) throw std::invalid_argument("bytes is too small to be shared between the threads");
    Region region(share * pool.size() * sizeof(float));
    float* data = reinterpret_cast<float*>(region.data());
    // Each thread first touches what it will read.
    pool.run([&](int thread) { std::fill_n(data + thread * share, share, 1.0f); });
    const double time =
        fastest([&] { pool.run([&](int thread) { loops.read(data + thread * share, share); }); });
    return static_cast<double>(region.bytes()) / time;
}

}  // namespace

void bind_roofline(nanobind::module_& module) {
    namespace nb = nanobind;
    using namespace nb::literals;
    module.def("multiply_add_rate", &multiply_add_rate, "isa"_a, "threads"_a, "integer"_a,
               nb::call_guard<nb::gil_scoped_release>(),
               "Multiply-adds a second that the tier reaches: of int8 into integers, or of float32.");
    module.def("read_bandwidth", &read_bandwidth, "isa"_a, "threads"_a, "bytes"_a,
               nb::call_guard<nb::gil_scoped_release>(),
               "Bytes a second that the threads read together from a buffer of this size.");
}

}  // namespace octavo
