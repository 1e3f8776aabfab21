// The KV cache of all layers, in blocks of 16 tokens.
//
// Layers that share a block table are a group. A block has room for the layers of the largest group, and is
// of whichever group has it in a table. Where all layers are of one shape, a block is spread over planes, one
// for each layer of a group; else it lies in one piece, its layers one after the other.
#pragma once

#include <map>
#include <span>
#include <vector>

#include "executor/region.h"
#include "kernels/tables/attention.h"

namespace octavo {

class KVStore {
  public:
    struct Layer {
        KVLayer kv;
        int group;
    };

    // While ops are built: a layer that attention reads, and whether it attends to all that is before.
    void expect(int layer, const KVShape& shape, bool sees_all);

    // `groups` are the layers that share a block table, of all layers each in one. Throws
    // std::invalid_argument where the layers are not those that are expected.
    void allocate(const std::vector<KVShape>& layers, const std::vector<std::vector<int>>& groups,
                  KVType type, int64_t blocks);

    // Whole blocks: copied pair by pair in order, or to and from [blocks][block_bytes()]. Throw
    // std::invalid_argument for a block that is not there.
    void copy_blocks(std::span<const int32_t> sources, std::span<const int32_t> destinations);
    void read_blocks(std::span<const int32_t> blocks, uint8_t* data) const;
    void write_blocks(std::span<const int32_t> blocks, const uint8_t* data);
    size_t block_bytes() const;

    const Layer& layer(int index) const { return layers_[index]; }
    int64_t groups() const { return groups_; }
    int64_t blocks() const { return blocks_; }
    // The groups in which a layer attends to all that is before it, ascending.
    const std::vector<int>& full_groups() const { return full_groups_; }

  private:
    struct Expected {
        KVShape shape;
        bool sees_all;
    };
    // What lies in one piece of each block: the items or the scales of a plane, or all of it.
    struct Part {
        uint8_t* data;
        size_t bytes;

        uint8_t* block(int64_t id) const { return data + id * bytes; }
    };

    void check_layers(const std::vector<KVShape>& layers, const std::vector<std::vector<int>>& groups,
                      KVType type) const;
    void allocate_planes(const KVShape& shape, const std::vector<std::vector<int>>& groups, KVType type);
    void allocate_whole(const std::vector<KVShape>& layers, const std::vector<std::vector<int>>& groups,
                        KVType type);
    void check_blocks(std::span<const int32_t> blocks) const;

    std::map<int, Expected> expected_;
    Region memory_;
    std::vector<Part> parts_;
    std::vector<Layer> layers_;
    std::vector<int> full_groups_;
    int64_t groups_ = 0;
    int64_t blocks_ = 0;
};

}  // namespace octavo
