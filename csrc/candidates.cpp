#include "candidates.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>

namespace octavo {

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Buckets of 1/32 of an octave of weight, 40 octaves; the last has what rounding puts at the very end.
constexpr int kBucketsPerOctave = 32;
constexpr int kBuckets = kWeightBits * kBucketsPerOctave + 1;

// random / 2^53 of the total, rounded down.
uint64_t quantile(uint64_t random, uint64_t total) {
    return static_cast<uint64_t>(static_cast<unsigned __int128>(random) * total >> 53);
}

// The first place at which the weights add up to more than `target`, which becomes what is left of it.
int64_t place_of(uint64_t& target, const uint64_t* weights) {
    int64_t i = 0;
    for (; weights[i] <= target; ++i) target -= weights[i];
    return i;
}

// The least whole weight that is at least `fraction` of `total`.
uint64_t share(uint64_t total, double fraction) {
    const double needed = std::ceil(fraction * static_cast<double>(total));
    return std::min(static_cast<uint64_t>(needed), total);
}

}  // namespace

uint64_t order_key(float logit, int32_t id) {
    // Adding zero turns -0 into 0, which it equals.
    const uint32_t bits = std::bit_cast<uint32_t>(logit + 0.0f);
    const uint32_t descending = bits >> 31 ? bits : ~bits & 0x7fffffff;
    return uint64_t{descending} << 32 | static_cast<uint32_t>(id);
}

float limit_for(int64_t count, const LogitsRow& row, std::vector<float>& order) {
    const int64_t parts = num_maxima(row.size);
    if (count > parts) return -kInfinity;
    // The maxima are logits of their own: `count` of them are at least the count-th largest.
    order.assign(row.maxima, row.maxima + parts);
    std::nth_element(order.begin(), order.begin() + (count - 1), order.end(), std::greater<>());
    return order[count - 1];
}

Candidates::Candidates(const Kernels& kernels, int64_t vocab)
    : kernels_(kernels.sampling),
      blocks_(new uint64_t[weight_blocks(vocab)]),
      ids_(new int32_t[vocab]),
      logits_(new float[vocab]),
      weights_(new uint64_t[vocab]),
      buckets_(new uint16_t[vocab]),
      in_buckets_(kBuckets) {}

uint64_t Candidates::total(const LogitsRow& row, const Softmax& softmax) {
    return kernels_.sum_weights(row.x, row.size, softmax, blocks_.get());
}

int64_t Candidates::draw(const LogitsRow& row, const Truncation& truncation, uint64_t random) {
    const Softmax softmax{row.top, truncation.scale, truncation.floor};
    const bool by_count = truncation.top_k > 0 && truncation.top_k < row.size;
    if (!by_count && truncation.top_p >= 1.0) return draw_from_all(row, softmax, random);
    if (by_count) {
        collect(row, limit_for(truncation.top_k, row, order_), softmax);
        if (count_ > truncation.top_k) keep(truncation.top_k, softmax, [](int64_t) { return 1; });
    }
    if (truncation.top_p < 1.0) {
        const uint64_t all = by_count ? sum() : total(row, softmax);
        const uint64_t needed = share(all, truncation.top_p);
        if (!by_count) collect_nucleus(row, softmax, all, needed);
        keep(needed, softmax, [this](int64_t i) { return weights_[i]; });
    }
    uint64_t target = quantile(random, sum());
    return ids_[place_of(target, weights_.get())];
}

// First which block of 256, then which token in it.
int64_t Candidates::draw_from_all(const LogitsRow& row, const Softmax& softmax, uint64_t random) {
    uint64_t target = quantile(random, total(row, softmax));
    const int64_t first = place_of(target, blocks_.get()) * kWeightBlock;
    uint64_t weights[kWeightBlock];
    kernels_.weights(row.x + first, std::min(kWeightBlock, row.size - first), softmax, weights);
    return first + place_of(target, weights);
}

// The tokens whose logit is at least `limit` and whose weight is not 0.
void Candidates::collect(const LogitsRow& row, float limit, const Softmax& softmax) {
    const int64_t found = kernels_.collect(row.x, row.size, limit, ids_.get(), logits_.get());
    kernels_.weights(logits_.get(), found, softmax, weights_.get());
    count_ = 0;
    for (int64_t i = 0; i < found; ++i) {
        const bool kept = weights_[i] != 0;
        move(i, count_);
        count_ += kept;
    }
}

// A prefix of the order that holds `needed` of the row's `total`, seldom much longer than it must be.
//
// If n tokens are beyond the nucleus, it has all those that weigh more than an n-th of total - needed. How
// many there are is tried: few for a distribution with a peak.
void Candidates::collect_nucleus(const LogitsRow& row, const Softmax& softmax, uint64_t total,
                                 uint64_t needed) {
    for (const double beyond : {64.0, 2048.0}) {
        const double weight = static_cast<double>(total - needed) / beyond;
        if (weight < 1.0) break;
        const double limit = softmax.top + (std::log2(weight) - kWeightBits) / softmax.scale;
        collect(row, static_cast<float>(limit), softmax);
        if (sum() >= needed) return;
    }
    collect(row, -kInfinity, softmax);
}

// Keeps the shortest prefix of the order whose sizes add up to `needed`; all sizes do.
template <typename Size>
void Candidates::keep(uint64_t needed, const Softmax& softmax, Size size) {
    std::fill(in_buckets_.begin(), in_buckets_.end(), 0);
    for (int64_t i = 0; i < count_; ++i) {
        const float octaves = (softmax.top - logits_[i]) * softmax.scale;
        buckets_[i] = static_cast<uint16_t>(octaves * kBucketsPerOctave);
        in_buckets_[buckets_[i]] += size(i);
    }
    int last = 0;
    for (; in_buckets_[last] < needed; ++last) needed -= in_buckets_[last];

    keys_.clear();
    for (int64_t i = 0; i < count_; ++i)
        if (buckets_[i] == last) keys_.push_back(order_key(logits_[i], static_cast<int32_t>(i)));
    std::sort(keys_.begin(), keys_.end());
    size_t end = 0;
    for (uint64_t held = 0; held < needed; ++end) held += size(static_cast<uint32_t>(keys_[end]));
    const uint64_t cut = keys_[end - 1];

    const int64_t all = count_;
    count_ = 0;
    for (int64_t i = 0; i < all; ++i)
        if (buckets_[i] < last ||
            (buckets_[i] == last && order_key(logits_[i], static_cast<int32_t>(i)) <= cut))
            move(i, count_++);
}

void Candidates::move(int64_t from, int64_t to) {
    ids_[to] = ids_[from];
    logits_[to] = logits_[from];
    weights_[to] = weights_[from];
}

uint64_t Candidates::sum() const {
    return std::accumulate(weights_.get(), weights_.get() + count_, uint64_t{0});
}

void Candidates::list(const LogitsRow& row, int64_t count, std::vector<uint64_t>& keys) {
    keys.clear();
    if (count == 0) return;
    const int64_t found =
        kernels_.collect(row.x, row.size, limit_for(count, row, order_), ids_.get(), logits_.get());
    for (int64_t i = 0; i < found; ++i) keys.push_back(order_key(logits_[i], ids_[i]));
    std::nth_element(keys.begin(), keys.begin() + (count - 1), keys.end());
    keys.resize(count);
    std::sort(keys.begin(), keys.end());
}

}  // namespace octavo
