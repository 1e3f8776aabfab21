#include "sampling/sampling.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cmath>
#include <limits>

namespace octavo {

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kLargest = std::numeric_limits<float>::max();
constexpr float kLog2E = 1.44269504088896341f;

// The top 53 bits of Philox4x32-10's first two words; octavo/sampling/rng.py names the source.
uint64_t random_bits(uint64_t seed, uint64_t position) {
    uint32_t c0 = static_cast<uint32_t>(position), c1 = static_cast<uint32_t>(position >> 32), c2 = 0, c3 = 0;
    uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
    for (int round = 0; round < 10; ++round) {
        const uint64_t p0 = uint64_t{0xD2511F53} * c0, p1 = uint64_t{0xCD9E8D57} * c2;
        c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
        c1 = static_cast<uint32_t>(p1);
        c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
        c3 = static_cast<uint32_t>(p0);
        k0 += 0x9E3779B9;
        k1 += 0xBB67AE85;
    }
    return (uint64_t{c1} << 32 | c0) >> 11;
}

// For each half byte of a mask, its bits as lanes of all ones or all zeros.
constexpr auto kLanes = [] {
    std::array<std::array<uint32_t, 4>, 16> lanes{};
    for (uint32_t half = 0; half < 16; ++half)
        for (uint32_t lane = 0; lane < 4; ++lane) lanes[half][lane] = half >> lane & 1 ? ~uint32_t{0} : 0;
    return lanes;
}();

// The logits whose bit is set, -inf for the others; `x` may be `logits`. Most words of a grammar's mask are
// all zeros or all ones.
void keep_masked(const float* logits, int64_t vocab, std::span<const uint32_t> mask, float* x) {
    constexpr uint32_t kDropped = std::bit_cast<uint32_t>(-kInfinity);
    const auto keep = [&](int64_t id, uint32_t lane) {
        x[id] = std::bit_cast<float>((std::bit_cast<uint32_t>(logits[id]) & lane) | (kDropped & ~lane));
    };
    int64_t id = 0;
    for (; id + 32 <= vocab; id += 32) {
        const uint32_t word = mask[id / 32];
        if (word == 0)
            std::fill_n(x + id, 32, -kInfinity);
        else if (word == ~uint32_t{0})
            std::copy_n(logits + id, x == logits ? 0 : 32, x + id);
        else
            for (int64_t i = 0; i < 32; i += 4) {
                const auto& lanes = kLanes[word >> i & 15];
                for (int64_t lane = 0; lane < 4; ++lane) keep(id + i + lane, lanes[lane]);
            }
    }
    for (; id < vocab; ++id) keep(id, kLanes[mask[id / 32] >> (id % 32) & 1][0]);
}

}  // namespace

Sampler::Scratch::Scratch(const Kernels& kernels, int64_t vocab)
    : candidates(kernels, vocab),
      raw(new float[vocab]),
      raw_maxima(new float[num_maxima(vocab)]),
      processed(new float[vocab]),
      processed_maxima(new float[num_maxima(vocab)]) {}

template <typename F>
void Sampler::each_row(int64_t rows, int64_t vocab, F f) {
    if (vocab_ != vocab) {
        scratch_.clear();
        for (int thread = 0; thread < pool_.size(); ++thread) scratch_.emplace_back(kernels_, vocab);
        vocab_ = vocab;
    }
    std::atomic<int64_t> next{0};
    const auto work = [&](int thread) {
        for (int64_t row = next.fetch_add(1); row < rows; row = next.fetch_add(1)) f(row, scratch_[thread]);
    };
    // One row is not worth waking anybody for.
    rows == 1 ? work(0) : pool_.run(work);
}

void Sampler::sample(const float* logits, int64_t vocab, std::span<const SamplingRow> rows, Sampled* out) {
    each_row(static_cast<int64_t>(rows.size()), vocab, [&](int64_t row, Scratch& scratch) {
        choose(logits + row * vocab, vocab, rows[row], scratch, out[row]);
    });
}

void Sampler::score(const float* logits, int64_t vocab, std::span<const int64_t> token_ids, int64_t count,
                    Logprobs* out) {
    each_row(static_cast<int64_t>(token_ids.size()), vocab, [&](int64_t row, Scratch& scratch) {
        const LogitsRow raw =
            sanitise(logits + row * vocab, vocab, scratch.raw.get(), scratch.raw_maxima.get());
        score(raw, token_ids[row], count, scratch, out[row]);
    });
}

void Sampler::choose(const float* logits, int64_t vocab, const SamplingRow& row, Scratch& scratch,
                     Sampled& out) const {
    const SamplingPlan& plan = *row.plan;
    const bool changes = plan.restricted || !plan.bias_ids.empty() || !row.seen.empty() ||
                         !row.banned.empty() || !row.mask.empty() ||
                         (row.forbids_stop() && !plan.stop_ids.empty());
    out.possible = true;
    if (plan.greedy && !changes && plan.num_logprobs < 0) {
        out.token_id = kernels_.sampling.argmax(logits, vocab);
        if (std::isfinite(logits[out.token_id])) return;
    }
    const LogitsRow raw = sanitise(logits, vocab, scratch.raw.get(), scratch.raw_maxima.get());
    const LogitsRow processed = changes ? process(raw.x, vocab, row, scratch) : raw;
    if (processed.top == -kInfinity) {
        out.possible = false;
        const std::vector<float> equal(vocab);
        const float* allowed = process(equal.data(), vocab, row, scratch).x;
        const int64_t first =
            std::find_if(allowed, allowed + vocab, [](float x) { return x > -kInfinity; }) - allowed;
        out.token_id = first < vocab ? first : 0;
    } else if (plan.greedy) {
        out.token_id = kernels_.sampling.argmax(processed.x, vocab);
    } else {
        out.token_id = scratch.candidates.draw(
            processed, plan.truncation,
            random_bits(plan.seed, static_cast<uint64_t>(plan.num_prompt + row.num_outputs)));
    }
    if (plan.num_logprobs >= 0) score(raw, out.token_id, plan.num_logprobs, scratch, out.logprobs);
}

// octavo/sampling/processors.py, in the same order and with the same roundings.
LogitsRow Sampler::process(const float* logits, int64_t vocab, const SamplingRow& row,
                           Scratch& scratch) const {
    const SamplingPlan& plan = *row.plan;
    float* x = scratch.processed.get();
    if (plan.restricted) {
        std::fill_n(x, vocab, -kInfinity);
        for (int32_t id : plan.allowed) x[id] = logits[id];
    } else if (row.mask.empty()) {
        std::copy_n(logits, vocab, x);
    }
    if (!row.mask.empty()) keep_masked(plan.restricted ? x : logits, vocab, row.mask, x);
    for (size_t i = 0; i < plan.bias_ids.size(); ++i) x[plan.bias_ids[i]] += plan.bias[i];
    if (row.forbids_stop())
        for (int32_t id : plan.stop_ids) x[id] = -kInfinity;
    for (int64_t id : row.banned) x[id] = -kInfinity;
    for (size_t i = 0; i < row.seen.size(); ++i) {
        float& logit = x[row.seen[i]];
        if (plan.repetition_penalty != 1.0f)
            logit = logit > 0.0f ? logit / plan.repetition_penalty : logit * plan.repetition_penalty;
        logit -= plan.frequency_penalty * row.counts[i];
        if (row.counts[i] > 0.0f) logit -= plan.presence_penalty;
    }
    return sanitise(x, vocab, x, scratch.processed_maxima.get());
}

// The row itself, or `copy` with NaN as -inf and +inf as the largest float.
LogitsRow Sampler::sanitise(const float* x, int64_t vocab, float* copy, float* maxima) const {
    float top = kernels_.sampling.maxima(x, vocab, maxima);
    if (!(top < kInfinity)) {
        for (int64_t i = 0; i < vocab; ++i)
            copy[i] = std::isnan(x[i]) ? -kInfinity : std::min(x[i], kLargest);
        x = copy;
        top = kernels_.sampling.maxima(x, vocab, maxima);
    }
    return {x, vocab, top, maxima};
}

void Sampler::score(const LogitsRow& row, int64_t token_id, int64_t count, Scratch& scratch,
                    Logprobs& out) const {
    scratch.candidates.list(row, std::min(count, row.size), scratch.keys);
    out.token_ids.assign(1, token_id);
    for (uint64_t key : scratch.keys) out.token_ids.push_back(static_cast<uint32_t>(key));
    out.rank = 1 + kernels_.sampling.count_above(row.x, row.size, row.x[token_id]);
    out.logprobs.assign(out.token_ids.size(), -std::numeric_limits<double>::infinity());
    if (row.top == -kInfinity) return;
    const uint64_t total = scratch.candidates.total(row, {row.top, kLog2E, -static_cast<float>(kWeightBits)});
    const double log_sum =
        std::log(static_cast<double>(total) / static_cast<double>(uint64_t{1} << kWeightBits));
    for (size_t i = 0; i < out.logprobs.size(); ++i)
        out.logprobs[i] = double{row.x[out.token_ids[i]]} - double{row.top} - log_sum;
}

}  // namespace octavo
