#include "sampling/candidates.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>

namespace octavo {

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Buckets of 1/32 of an octave of weight; those of 40 octaves have weights, the one after them has none.
constexpr int kBucketsPerOctave = 32;
constexpr int kBuckets = kWeightBits * kBucketsPerOctave + 1;

constexpr float kLargestStep = 1e6f;
constexpr int kBisections = 16;

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

float Candidates::limit_for(int64_t count, const LogitsRow& row) const {
    // The maxima are logits of their own: what `count` of them reach, `count` logits reach.
    const bool few = 4 * count <= num_maxima(row.size);
    const float* x = few ? row.maxima : row.x;
    const int64_t size = few ? num_maxima(row.size) : row.size;
    float high = row.top, low = row.top;
    for (float step = 1.0f; kernels_.count_above(x, size, low) < count; step *= 2.0f) {
        if (step > kLargestStep) return -kInfinity;
        high = low;
        low = row.top - step;
    }
    for (int i = 0; i < kBisections; ++i) {
        const float middle = low + (high - low) / 2;
        const int64_t above = kernels_.count_above(x, size, middle);
        if (above < count)
            high = middle;
        else
            low = middle;
        if (above >= count && above <= count + count / 4) break;
    }
    return low;
}

Candidates::Candidates(const Kernels& kernels, int64_t vocab)
    : kernels_(kernels.sampling),
      blocks_(new uint64_t[weight_blocks(vocab)]),
      ids_(new int32_t[vocab + 16]),
      logits_(new float[vocab + 16]),
      weights_(new uint64_t[vocab]),
      buckets_(new int32_t[vocab]),
      in_buckets_(kBuckets + 1) {}

uint64_t Candidates::total(const LogitsRow& row, const Softmax& softmax) {
    return kernels_.sum_weights(row.x, row.size, softmax, blocks_.get());
}

int64_t Candidates::draw(const LogitsRow& row, const Truncation& truncation, uint64_t random) {
    const Softmax softmax{row.top, truncation.scale, truncation.floor};
    const bool by_count = truncation.top_k > 0 && truncation.top_k < row.size;
    const bool by_weight = truncation.top_p < 1.0;
    if (!by_count && !by_weight) return draw_from_all(row, softmax, random);

    Prefix kept{kBuckets, 0, 0};
    if (by_count) {
        take_some(row, limit_for(truncation.top_k, row), softmax);
        // Tokens without weight come last in the order and are never drawn.
        const int64_t possible = std::min(truncation.top_k, num_possible());
        keep(prefix(possible, softmax, [this](int64_t i) { return weights_[i] != 0; }));
        kept.held = sum();
    }
    if (by_weight) {
        const uint64_t all = by_count ? kept.held : total(row, softmax);
        const uint64_t needed = share(all, truncation.top_p);
        if (!by_count) take_nucleus(row, softmax, all, needed);
        kept = prefix(needed, softmax, [this](int64_t i) { return weights_[i]; });
    }
    uint64_t target = quantile(random, kept.held);
    for (int64_t i = 0;; ++i) {
        const uint64_t weight = has(kept, i) ? weights_[i] : 0;
        if (weight > target) return ids_[i];
        target -= weight;
    }
}

// First which block of 256, then which token in it.
int64_t Candidates::draw_from_all(const LogitsRow& row, const Softmax& softmax, uint64_t random) {
    uint64_t target = quantile(random, total(row, softmax));
    const int64_t first = place_of(target, blocks_.get()) * kWeightBlock;
    uint64_t weights[kWeightBlock];
    kernels_.weights(row.x + first, std::min(kWeightBlock, row.size - first), softmax, weights);
    return first + place_of(target, weights);
}

// The tokens whose logit is at least `limit`.
void Candidates::take_some(const LogitsRow& row, float limit, const Softmax& softmax) {
    count_ = kernels_.collect(row.x, row.size, limit, ids_.get(), logits_.get());
    kernels_.weights(logits_.get(), count_, softmax, weights_.get());
}

// A prefix of the order that holds `needed` of the row's `total`.
//
// If n tokens are beyond the nucleus, it has all those that weigh more than an n-th of total - needed. How
// many there are is tried: few for a distribution with a peak, at last all.
void Candidates::take_nucleus(const LogitsRow& row, const Softmax& softmax, uint64_t total, uint64_t needed) {
    const int64_t parts = num_maxima(row.size);
    for (const int64_t beyond : {int64_t{64}, int64_t{2048}, row.size}) {
        const double weight = static_cast<double>(total - needed) / static_cast<double>(beyond);
        const auto limit =
            static_cast<float>(softmax.top + (std::log2(weight) - kWeightBits) / softmax.scale);
        // Where nearly every part of the row has a token above the limit, thousands do.
        if (beyond < row.size && kernels_.count_above(row.maxima, parts, limit) > parts * 15 / 16) continue;
        take_some(row, limit, softmax);
        if (sum() >= needed) return;
    }
    take_some(row, -kInfinity, softmax);
}

// The shortest prefix of the order whose sizes add up to `needed`, or to more.
template <typename Size>
Candidates::Prefix Candidates::prefix(uint64_t needed, const Softmax& softmax, Size size) {
    int32_t* buckets = buckets_.get();
    for (int64_t i = 0; i < count_; ++i) {
        const float octaves = (softmax.top - logits_[i]) * softmax.scale;
        buckets[i] = static_cast<int32_t>(std::min(octaves * kBucketsPerOctave, float{kBuckets}));
    }
    std::fill(in_buckets_.begin(), in_buckets_.end(), 0);
    for (int64_t i = 0; i < count_; ++i) in_buckets_[buckets[i]] += size(i);
    Prefix found{0, 0, 0};
    for (; found.held + in_buckets_[found.bucket] < needed; ++found.bucket)
        found.held += in_buckets_[found.bucket];

    // Few tokens share a bucket: only those are sorted.
    keys_.clear();
    for (int64_t i = 0; i < count_; ++i)
        if (buckets[i] == found.bucket) [[unlikely]]
            keys_.push_back(order_key(logits_[i], static_cast<int32_t>(i)));
    std::sort(keys_.begin(), keys_.end());
    for (size_t next = 0; found.held < needed; ++next) {
        found.key = keys_[next];
        found.held += size(static_cast<uint32_t>(found.key));
    }
    return found;
}

bool Candidates::has(const Prefix& prefix, int64_t i) const {
    if (buckets_[i] == prefix.bucket) [[unlikely]]
        return order_key(logits_[i], static_cast<int32_t>(i)) <= prefix.key;
    return buckets_[i] < prefix.bucket;
}

void Candidates::keep(const Prefix& prefix) {
    const int64_t all = count_;
    count_ = 0;
    for (int64_t i = 0; i < all; ++i) {
        if (!has(prefix, i)) continue;
        ids_[count_] = ids_[i];
        logits_[count_] = logits_[i];
        buckets_[count_] = buckets_[i];
        weights_[count_++] = weights_[i];
    }
}

uint64_t Candidates::sum() const {
    return std::accumulate(weights_.get(), weights_.get() + count_, uint64_t{0});
}

int64_t Candidates::num_possible() const {
    return count_ - std::count(weights_.get(), weights_.get() + count_, uint64_t{0});
}

void Candidates::list(const LogitsRow& row, int64_t count, std::vector<uint64_t>& keys) {
    keys.clear();
    if (count == 0) return;
    const int64_t found = kernels_.collect(row.x, row.size, limit_for(count, row), ids_.get(), logits_.get());
    for (int64_t i = 0; i < found; ++i) keys.push_back(order_key(logits_[i], ids_[i]));
    std::nth_element(keys.begin(), keys.begin() + (count - 1), keys.end());
    keys.resize(count);
    std::sort(keys.begin(), keys.end());
}

}  // namespace octavo
