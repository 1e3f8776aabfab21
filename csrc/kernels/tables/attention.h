// Attention over the paged KV cache, and what is written to it.
#pragma once

#include <cstdint>

namespace octavo {

enum class KVType { F32, F16, BF16, E4M3, Int8, Int16 };

// What the KV cache of one layer is.
struct KVShape {
    int num_kv_heads;
    int key_dim;
    int value_dim;

    bool operator==(const KVShape&) const = default;
};

// The KV cache of one layer: [block][KV head] { K [key_dim][16]; V [16][value_dim] }, and for the integers
// the float scales of each token's K and V: [block][KV head] { K [16]; V [16] }, apart, so that a head's
// items fill whole pages. int16 items lie in the pairs that are multiplied and added at once: K [key_dim /
// 2][16][2]; V [8][value_dim][2]. Blocks are as far from each other as the strides say.
struct KVLayer {
    uint8_t* data;
    float* scales;
    int64_t stride;         // bytes from a block's items to the next one's
    int64_t scales_stride;  // floats from a block's scales to the next one's
    KVType type;
    int num_kv_heads;
    int key_dim;
    int value_dim;

    bool has_scales() const { return type == KVType::Int8 || type == KVType::Int16; }
    int64_t head_bytes() const {
        const int64_t items = (int64_t{key_dim} + value_dim) * 16;
        switch (type) {
            case KVType::F32:
                return 4 * items;
            case KVType::F16:
            case KVType::BF16:
            case KVType::Int16:
                return 2 * items;
            case KVType::E4M3:
            case KVType::Int8:
                return items;
        }
        return 0;
    }
    // Bytes of a block's items, and of its scales.
    int64_t item_bytes() const { return num_kv_heads * head_bytes(); }
    int64_t scale_bytes() const { return has_scales() ? num_kv_heads * int64_t{2 * 16 * sizeof(float)} : 0; }
    int64_t block_bytes() const { return item_bytes() + scale_bytes(); }
    uint8_t* head(int64_t block, int kv_head) const { return data + block * stride + kv_head * head_bytes(); }
    float* head_scales(int64_t block, int kv_head) const {
        return scales + block * scales_stride + kv_head * int64_t{2 * 16};
    }
};

struct AttentionShape {
    int num_heads;
    int num_kv_heads;
    int key_dim;
    int value_dim;
    float scale;
    int window;  // 0: unbounded
};

// num_tokens x num_heads rows of one sequence that share a KV head, at most kQueryRows.
struct AttentionTile {
    const float* q;  // row of the first token, column 0 of q
    int64_t q_stride;
    float* out;
    int64_t out_stride;
    int first_position;  // of the first token
    int num_tokens;
    int kv_head;
    int first_head;  // query heads [first_head, first_head + num_heads), all of kv_head's group
    int num_heads;
    const int32_t* block_table;
};

constexpr int kQueryRows = 16;
constexpr int kSplit = 256;  // positions whose softmax is computed at once; splits are merged in order

static inline int64_t split_part_floats(int value_dim) { return kQueryRows * (int64_t{value_dim} + 2); }
// Of a split: [kQueryRows][kSplit] scores, and for int16 the weights and the queries.
static inline int64_t split_scratch_floats(int key_dim) {
    return kQueryRows * (kSplit + int64_t{kSplit} / 2 + 1 + (key_dim + 1) / 2);
}
static inline int64_t attention_scratch_floats(int key_dim, int value_dim) {
    return split_scratch_floats(key_dim) + 2 * split_part_floats(value_dim);
}

// What attention gives for the rows of a tile before the division: [kQueryRows][value_dim] outputs, and a
// row's largest score and sum of weights.
struct SplitPart {
    float* out;
    float* largest;
    float* total;

    SplitPart(float* memory, int value_dim)
        : out(memory), largest(memory + kQueryRows * int64_t{value_dim}), total(largest + kQueryRows) {}
    // The same without the first rows.
    SplitPart from_row(int row, int value_dim) const {
        SplitPart rest = *this;
        rest.out += row * int64_t{value_dim};
        rest.largest += row;
        rest.total += row;
        return rest;
    }
};

struct AttentionKernels {
    void (*write_kv)(const KVLayer& layer, int block, int slot, int kv_head, const float* k, const float* v);
    // Tiles of one KV head whose sequences share positions [0, shared), whole splits, which are read once;
    // together at most kQueryRows rows. scratch: attention_scratch_floats floats of the calling thread.
    void (*attention)(const KVLayer& layer, const AttentionShape& shape, const AttentionTile* tiles,
                      int num_tiles, int shared, float* scratch);
    // The same in two stages, for a tile whose splits are shared out between threads: the part of positions
    // [start, start + kSplit), then the merge of all `count` parts in order, split_part_floats apart.
    void (*attention_split)(const KVLayer& layer, const AttentionShape& shape, const AttentionTile& tile,
                            int start, float* scratch, float* part);
    void (*attention_merge)(const AttentionShape& shape, const AttentionTile& tile, const float* parts,
                            int count, float* scratch);
};

}  // namespace octavo
