// Passes over a row of logits.
#pragma once

#include <cstdint>

namespace octavo {

// The weight of a logit x is round(2^40 * 2^e), e = (x - top) * scale, and 0 where e < floor; -40 <= floor.
// octavo/sampling/weights.py defines it.
struct Softmax {
    float top;
    float scale;
    float floor;
};

constexpr int kWeightBits = 40;
constexpr int64_t kWeightBlock = 256;
constexpr int64_t kMaximaStride = 1024;  // logits that share 16 maxima

inline int64_t weight_blocks(int64_t n) { return (n + kWeightBlock - 1) / kWeightBlock; }
inline int64_t num_maxima(int64_t n) { return (n + kMaximaStride - 1) / kMaximaStride * 16; }

struct SamplingKernels {
    // The lowest index of the largest value; a NaN never wins.
    int64_t (*argmax)(const float* x, int64_t n);
    // The largest value, NaN if there is one, and the largest of each of num_maxima(n) disjoint parts.
    float (*maxima)(const float* x, int64_t n, float* parts);
    // The sum of the weights, and of those of each block of 256.
    uint64_t (*sum_weights)(const float* x, int64_t n, const Softmax& softmax, uint64_t* blocks);
    void (*weights)(const float* x, int64_t n, const Softmax& softmax, uint64_t* out);
    // The logits that are at least `limit` and their places, in order; returns how many. There must be room
    // for n + 16.
    int64_t (*collect)(const float* x, int64_t n, float limit, int32_t* places, float* values);
    int64_t (*count_above)(const float* x, int64_t n, float limit);
};

}  // namespace octavo
