// How the attention of a step is cut into pieces of work, the same for every layer of a shape.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "executor/step.h"

namespace octavo {

// For layers with as many query heads and KV heads as each other.
class AttentionPlan {
  public:
    struct Tile {
        int sequence, first_token, num_tokens, kv_head, first_head, num_heads;
    };
    // Tiles that are computed together, as their sequences share positions [0, shared).
    struct Group {
        int first_tile, num_tiles, shared;
    };
    struct Split {
        int tile, start;
    };

    // Takes all the memory that `make` needs, so that `make` takes none.
    AttentionPlan(int num_heads, int num_kv_heads, int threads, const Limits& limits);
    // `chunks` are the sequences with several tokens, `decodes` those with one, in the order of their tables
    // in the KV groups `full_groups`.
    void make(const Step& step, const std::vector<int>& chunks, const std::vector<int>& decodes,
              const std::vector<int>& full_groups);

    bool is_of(int num_heads, int num_kv_heads) const {
        return num_heads_ == num_heads && num_kv_heads_ == num_kv_heads;
    }
    const std::vector<Tile>& tiles() const { return tiles_; }
    const std::vector<Group>& groups() const { return groups_; }
    // Of all tiles, in their order, where a few tiles with long contexts would leave threads idle; else
    // empty, and the groups are computed.
    const std::vector<Split>& splits() const { return splits_; }
    int64_t max_splits() const { return static_cast<int64_t>(splits_.capacity()); }

    static int context_of(const Tile& tile, const Step& step) {
        return step.positions[tile.first_token] + tile.num_tokens;
    }

  private:
    void add_chunk(const Step& step, int sequence);
    void add_decodes(const Step& step, const std::vector<int>& decodes, const std::vector<int>& full_groups);
    int most_tiles_to_split() const { return 4 * threads_; }

    int num_heads_, num_kv_heads_;
    int group_;  // query heads of a KV head
    int heads_;  // of them in a tile
    int threads_;
    std::vector<Tile> tiles_;
    std::vector<Group> groups_;
    std::vector<Split> splits_;
};

// The plans of a step, one for each shape, and what does not depend on the shape.
class AttentionPlans {
  public:
    // Newest tokens of a sequence whose keys and values lie in one block.
    struct KVWrite {
        int sequence, first_token, num_tokens;
    };

    // The plan of such layers, made by the first of them. The reference stays good.
    const AttentionPlan& of(int num_heads, int num_kv_heads, int threads, const Limits& limits);

    // `full_groups` are the KV groups in which a layer attends to all that is before it.
    void make(const Step& step, const std::vector<int>& full_groups);

    const std::vector<KVWrite>& kv_writes() const { return kv_writes_; }

  private:
    std::vector<std::unique_ptr<AttentionPlan>> plans_;
    std::vector<KVWrite> kv_writes_;
    std::vector<int> chunks_, decodes_;
};

}  // namespace octavo
