#include "bindings/roofline.h"

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <chrono>
#include <stdexcept>
#include <string>

#include "executor/executor.h"
#include "executor/thread_pool.h"

namespace octavo {

namespace {

constexpr double kPassSeconds = 0.02;
constexpr double kMeasureSeconds = 0.4;
constexpr size_t kReadStep = 128;  // floats

const PeakLoops& loops_of(const std::string& isa) {
#if defined(__x86_64__)
    if (isa == "avx512") return avx512_peak_loops();
    if (isa == "avx2") return avx2_peak_loops();
#elif defined(__aarch64__)
    if (isa == "neon") return neon_peak_loops();
#endif
    if (isa == "portable") return portable_peak_loops();
    throw std::invalid_argument("there is no ISA tier " + isa);
}

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
    const PeakLoops& loops = loops_of(isa);
    const auto loop = integer ? loops.dot_int8 : loops.fma_float;
    int64_t rounds = 1 << 12, done = 0;
    while (seconds([&] { done = loop(rounds); }) < kPassSeconds) rounds *= 2;
    ThreadPool pool(threads);
    return static_cast<double>(done * pool.size()) / fastest([&] { pool.run([&](int) { loop(rounds); }); });
}

double read_bandwidth(const std::string& isa, int threads, size_t bytes) {
    const PeakLoops& loops = loops_of(isa);
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
