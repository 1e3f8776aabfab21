// The distribution that a token is drawn from, for one row of logits at a time, and the draw.
//
// octavo/sampling/candidates.py defines it. All sums are of integer weights and so exact; nothing is sorted
// but what a cut falls into.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/tables/kernels.h"

namespace octavo {

// A row of logits without NaN and +inf, whose largest parts are known.
struct LogitsRow {
    const float* x;
    int64_t size;
    float top;
    const float* maxima;  // [num_maxima(size)]
};

struct Truncation {
    float scale;    // log2(e) / temperature
    float floor;    // log2 of min-p, at least -40
    int64_t top_k;  // 0: off
    double top_p;   // 1: off
};

// Ascending keys are the order of octavo/sampling/logits.py: logit descending, then id ascending.
uint64_t order_key(float logit, int32_t id);

// Memory of one thread.
class Candidates {
  public:
    Candidates(const Kernels& kernels, int64_t vocab);

    // The token at quantile random / 2^53 of what `truncation` leaves of a row whose top is finite.
    int64_t draw(const LogitsRow& row, const Truncation& truncation, uint64_t random);

    // The first `count` tokens of the order, into `keys`.
    void list(const LogitsRow& row, int64_t count, std::vector<uint64_t>& keys);

    uint64_t total(const LogitsRow& row, const Softmax& softmax);

  private:
    // The tokens of the order up to one of them, by bucket of weight and by key within the last; what they
    // add up to.
    struct Prefix {
        int bucket;
        uint64_t key;
        uint64_t held;
    };

    // A limit that at least `count` logits of the row reach and, most often, few others.
    float limit_for(int64_t count, const LogitsRow& row) const;
    int64_t draw_from_all(const LogitsRow& row, const Softmax& softmax, uint64_t random);
    void take_some(const LogitsRow& row, float limit, const Softmax& softmax);
    void take_nucleus(const LogitsRow& row, const Softmax& softmax, uint64_t total, uint64_t needed);
    template <typename Size>
    Prefix prefix(uint64_t needed, const Softmax& softmax, Size size);
    bool has(const Prefix& prefix, int64_t i) const;
    void keep(const Prefix& prefix);
    uint64_t sum() const;
    int64_t num_possible() const;

    const SamplingKernels& kernels_;
    std::unique_ptr<uint64_t[]> blocks_;
    // The tokens that were taken from the row, in order of id.
    int64_t count_ = 0;
    std::unique_ptr<int32_t[]> ids_;
    std::unique_ptr<float[]> logits_;
    std::unique_ptr<uint64_t[]> weights_;
    std::unique_ptr<int32_t[]> buckets_;
    std::vector<uint64_t> in_buckets_, keys_;
};

}  // namespace octavo
