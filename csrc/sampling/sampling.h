// Choosing tokens: what octavo/sampling defines, for all rows of a step in one call.
//
// A row is computed by one thread, alone, from sums that are exact: its token depends on its logits, its
// request and its position, bit for bit, and on nothing else.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "executor/thread_pool.h"
#include "kernels/tables/kernels.h"
#include "sampling/candidates.h"

namespace octavo {

// What a request asks for, resolved once; octavo/runtime/native_sampler.py makes it.
struct SamplingPlan {
    int64_t vocab_size = 0, num_prompt = 0, min_tokens = 0;
    bool greedy = false;
    Truncation truncation{};
    uint64_t seed = 0;
    int num_logprobs = -1;  // most likely tokens listed beside the one chosen; -1: no log probabilities
    float repetition_penalty = 1, frequency_penalty = 0, presence_penalty = 0;
    bool restricted = false;  // to `allowed`
    std::vector<int32_t> allowed, bias_ids, stop_ids;
    std::vector<float> bias;
};

// A row of logits to choose from after `num_outputs` tokens. Penalties look at the tokens `seen`, each once,
// and at how often it was put out. `mask` has a bit for each token that may come, or is empty.
struct SamplingRow {
    const SamplingPlan* plan;
    int64_t num_outputs;
    std::span<const int64_t> seen;
    std::span<const float> counts;
    std::span<const int64_t> banned;
    std::span<const uint32_t> mask;

    bool forbids_stop() const { return num_outputs < plan->min_tokens; }
};

// The token, then the most likely ones; how likely they are; the token's rank.
struct Logprobs {
    std::vector<int64_t> token_ids;
    std::vector<double> logprobs;
    int64_t rank = 0;
};

struct Sampled {
    int64_t token_id;
    bool possible;  // false: every logit was -inf or NaN
    Logprobs logprobs;
};

class Sampler {
  public:
    Sampler(ThreadPool& pool, const Kernels& kernels) : pool_(pool), kernels_(kernels) {}
    Sampler(const Sampler&) = delete;

    // A token for each row of logits [rows][vocab].
    void sample(const float* logits, int64_t vocab, std::span<const SamplingRow> rows, Sampled* out);

    // The log probability of a token in each row, and those of the row's `count` most likely ones.
    void score(const float* logits, int64_t vocab, std::span<const int64_t> token_ids, int64_t count,
               Logprobs* out);

  private:
    // Memory of one thread.
    struct Scratch {
        Scratch(const Kernels& kernels, int64_t vocab);

        Candidates candidates;
        std::unique_ptr<float[]> raw, raw_maxima, processed, processed_maxima;
        std::vector<uint64_t> keys;
    };

    template <typename F>
    void each_row(int64_t rows, int64_t vocab, F f);
    void choose(const float* logits, int64_t vocab, const SamplingRow& row, Scratch& scratch,
                Sampled& out) const;
    LogitsRow process(const float* logits, int64_t vocab, const SamplingRow& row, Scratch& scratch) const;
    LogitsRow sanitise(const float* x, int64_t vocab, float* copy, float* maxima) const;
    void score(const LogitsRow& row, int64_t token_id, int64_t count, Scratch& scratch, Logprobs& out) const;

    ThreadPool& pool_;
    const Kernels& kernels_;
    std::vector<Scratch> scratch_;
    int64_t vocab_ = 0;
};

}  // namespace octavo
