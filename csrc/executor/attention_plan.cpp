#include "executor/attention_plan.h"

#include <algorithm>
#include <cstring>

#include "kernels/tables/attention.h"

namespace octavo {

namespace {

constexpr int kBlocksInSplit = kSplit / 16;

int whole_splits(const Step& step, int sequence) { return step.context_lens[sequence] / kSplit; }

bool is_decode(const Step& step, int sequence) {
    return step.query_starts[sequence + 1] - step.query_starts[sequence] == 1;
}

// How many whole splits, from position 0 on, lie in the same blocks of all `groups`.
int shared_splits(const Step& step, const std::vector<int>& groups, int a, int b) {
    int shared = groups.empty() ? 0 : std::min(whole_splits(step, a), whole_splits(step, b));
    for (const int group : groups) {
        const int32_t *first = step.table(group, a), *second = step.table(group, b);
        int split = 0;
        while (split < shared && !std::memcmp(first + split * kBlocksInSplit, second + split * kBlocksInSplit,
                                              kBlocksInSplit * 4))
            ++split;
        shared = split;
    }
    return shared;
}

// An order that puts block tables which begin alike beside each other.
bool table_before(const Step& step, int group, int a, int b) {
    const int first = whole_splits(step, a), second = whole_splits(step, b);
    const size_t bytes = size_t{4} * kBlocksInSplit * std::min(first, second);
    const int order = std::memcmp(step.table(group, a), step.table(group, b), bytes);
    if (order) return order < 0;
    return first != second ? first < second : a < b;
}

}  // namespace

AttentionPlan::AttentionPlan(int num_heads, int num_kv_heads, int threads, const Limits& limits)
    : num_heads_(num_heads),
      num_kv_heads_(num_kv_heads),
      group_(num_heads / num_kv_heads),
      heads_(std::min(group_, kQueryRows)),
      threads_(threads) {
    // A tile holds at least one token of some heads of a group.
    const size_t most = limits.max_tokens() * num_kv_heads_ * ((group_ + heads_ - 1) / heads_);
    tiles_.reserve(most);
    groups_.reserve(most);
    splits_.reserve(most_tiles_to_split() * ((limits.max_position + kSplit - 1) / kSplit));
}

void AttentionPlan::make(const Step& step, const std::vector<int>& chunks, const std::vector<int>& decodes,
                         const std::vector<int>& full_groups) {
    tiles_.clear();
    groups_.clear();
    splits_.clear();
    for (const int sequence : chunks) add_chunk(step, sequence);
    add_decodes(step, decodes, full_groups);
    if (static_cast<int>(tiles_.size()) > most_tiles_to_split()) return;
    for (int i = 0; i < static_cast<int>(tiles_.size()); ++i)
        for (int start = 0; start < context_of(tiles_[i], step); start += kSplit)
            splits_.push_back({i, start});
    if (splits_.size() == tiles_.size()) splits_.clear();
}

void AttentionPlan::add_chunk(const Step& step, int sequence) {
    const int start = step.query_starts[sequence], end = step.query_starts[sequence + 1];
    const int tokens = kQueryRows / heads_;
    // One KV head after the other: what it holds stays in the cache. The last tokens see most: their tiles go
    // first, so that the threads end together.
    for (int kv_head = 0; kv_head < num_kv_heads_; ++kv_head)
        for (int first = start + (end - start - 1) / tokens * tokens; first >= start; first -= tokens)
            for (int head = 0; head < group_; head += heads_) {
                groups_.push_back({static_cast<int>(tiles_.size()), 1, 0});
                tiles_.push_back({sequence, first, std::min(tokens, end - first), kv_head,
                                  kv_head * group_ + head, std::min(heads_, group_ - head)});
            }
}

void AttentionPlan::add_decodes(const Step& step, const std::vector<int>& decodes,
                                const std::vector<int>& full_groups) {
    const int count = static_cast<int>(decodes.size());
    // As many as there are rows for, but no fewer groups than keep the threads busy, all of about one size.
    const int room = std::clamp(count * num_kv_heads_ / most_tiles_to_split(), 1, kQueryRows / heads_);
    const int groups = (count + room - 1) / room, most = groups ? (count + groups - 1) / groups : 1;
    for (int first = 0; first < count;) {
        int last = first + 1, shared = 0;
        for (; last < count && last - first < most; ++last) {
            const int splits = shared_splits(step, full_groups, decodes[last - 1], decodes[last]);
            if (splits == 0 || splits < shared) break;  // not worth what those before share
            if (last == first + 1) shared = splits;
        }
        for (int kv_head = 0; kv_head < num_kv_heads_; ++kv_head)
            for (int head = 0; head < group_; head += heads_) {
                groups_.push_back({static_cast<int>(tiles_.size()), last - first, shared * kSplit});
                for (int i = first; i < last; ++i)
                    tiles_.push_back({decodes[i], step.query_starts[decodes[i]], 1, kv_head,
                                      kv_head * group_ + head, std::min(heads_, group_ - head)});
            }
        first = last;
    }
}

const AttentionPlan& AttentionPlans::of(int num_heads, int num_kv_heads, int threads, const Limits& limits) {
    for (const auto& plan : plans_)
        if (plan->is_of(num_heads, num_kv_heads)) return *plan;
    kv_writes_.reserve(limits.max_tokens());
    chunks_.reserve(limits.max_tokens());
    decodes_.reserve(limits.max_tokens());
    plans_.push_back(std::make_unique<AttentionPlan>(num_heads, num_kv_heads, threads, limits));
    return *plans_.back();
}

void AttentionPlans::make(const Step& step, const std::vector<int>& full_groups) {
    if (plans_.empty()) return;
    kv_writes_.clear();
    chunks_.clear();
    decodes_.clear();
    for (int s = 0; s < step.sequences(); ++s) {
        const int end = step.query_starts[s + 1];
        for (int first = step.query_starts[s]; first < end;) {  // a block's slots share cache lines
            const int count = std::min(16 - step.positions[first] % 16, end - first);
            kv_writes_.push_back({s, first, count});
            first += count;
        }
        (is_decode(step, s) ? decodes_ : chunks_).push_back(s);
    }
    if (!full_groups.empty())
        std::sort(decodes_.begin(), decodes_.end(),
                  [&](int a, int b) { return table_before(step, full_groups[0], a, b); });
    for (const auto& plan : plans_) plan->make(step, chunks_, decodes_, full_groups);
}

}  // namespace octavo
