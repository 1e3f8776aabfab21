#include "executor/scratch.h"

namespace octavo {

namespace {

size_t aligned(size_t bytes) { return (bytes + 63) / 64 * 64; }

}  // namespace

void Scratch::allocate(int64_t rows, int threads) {
    const size_t items = aligned(rows * cols_), numbers = aligned(rows * (cols_ / kGroup) * 4);
    const size_t each = aligned(thread_floats_ * sizeof(float));
    region_ = Region(items + 4 * numbers + threads * each);
    shared_ = Region(shared_floats_ * sizeof(float));
    uint8_t* at = region_.data();
    const auto take = [&](size_t bytes) {
        uint8_t* taken = at;
        at += bytes;
        return taken;
    };
    quantised_.q = reinterpret_cast<int8_t*>(take(items));
    quantised_.scales = reinterpret_cast<float*>(take(numbers));
    quantised_.biases = reinterpret_cast<int32_t*>(take(numbers));
    quantised_.offsets = reinterpret_cast<float*>(take(numbers));
    quantised_.first_sums = reinterpret_cast<int32_t*>(take(numbers));
    for (int thread = 0; thread < threads; ++thread)
        of_threads_.push_back(reinterpret_cast<float*>(take(each)));
}

}  // namespace octavo
