// How the attention of a step is cut into pieces of work, the same for every layer.
#pragma once

#include <cstdint>
#include <vector>

#include "executor/step.h"
#include "kernels/tables/kernels.h"

namespace octavo {

class AttentionPlan {
  public:
    // Newest tokens of a sequence whose keys and values lie in one block.
    struct KVWrite {
        int sequence, first_token, num_tokens;
    };
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

    // Takes all the memory that `make` needs, so that `make` takes none. `shape` is that of every layer but
    // for its window.
    void reserve(const AttentionShape& shape, int threads, int64_t max_tokens, int64_t max_position);
    // `full_groups` are the KV groups in which a layer attends to all that is before it.
    void make(const Step& step, const std::vector<int>& full_groups);

    const std::vector<KVWrite>& kv_writes() const { return kv_writes_; }
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
    void add_decodes(const Step& step, const std::vector<int>& full_groups);
    int most_tiles_to_split() const { return 4 * threads_; }

    int num_kv_heads_ = 0, group_ = 1, heads_ = 1, threads_ = 1;
    std::vector<KVWrite> kv_writes_;
    std::vector<Tile> tiles_;
    std::vector<Group> groups_;
    std::vector<Split> splits_;
    std::vector<int> decodes_;
};

}  // namespace octavo
