// The kernel table: one function an op, filled by each ISA tier and chosen once at run time.
//
// Every kernel computes a given output element by the same sequence of operations whatever the number of
// rows and whichever thread runs it: batch invariance is a property of the table.
#pragma once

#include <cstdint>

#include "weights/packed_weight.h"

namespace octavo {

// Rows of activations as int8 in groups of 32: x is about scale * q.
//
// Stored in tiles of Kernels::tile_rows rows (the last may have fewer), the rows of a tile interleaved, so
// that a kernel reads its tile from one end to the other: a tile of R rows that starts at row t has
// q at t * k, [k / 4][R][4], and the rest at t * k / 32, [k / 32][R].
struct QuantisedRows {
    int8_t* q;
    float* scales;
    int32_t* biases;      // -8 times the sum of a group's q: what nibbles stored as q + 8 add too much
    float* offsets;       // scale times that sum, what a weight's minimum multiplies
    int32_t* first_sums;  // of the first 16 q of a group

    // What the minimum of half a group multiplies.
    float offset_of_half(int64_t index, int half) const {
        const int32_t first = first_sums[index];
        return scales[index] * static_cast<float>(half ? -biases[index] / 8 - first : first);
    }
};

struct LinearInput {
    const float* x;  // [rows][x_stride], for float weights
    int64_t x_stride;
    QuantisedRows quantised;  // for integer weights
};

struct LinearOutput {
    float* y;  // column 0 of this weight
    int64_t stride;
    const float* bias;      // [n] or null
    const float* residual;  // column 0, or null
    int64_t residual_stride;
};

enum class KVType { F32, F16, BF16, E4M3, Int8, Int16 };

// The KV cache of one layer: [block][KV head] { K [head_dim][16]; V [16][head_dim] }, and for the integers
// the float scales of each token's K and V: [block][KV head] { K [16]; V [16] }, apart, so that a head's
// items fill whole pages. int16 items lie in the pairs that are multiplied and added at once: K [head_dim /
// 2][16][2]; V [8][head_dim][2].
struct KVLayer {
    uint8_t* data;
    float* scales;
    KVType type;
    int num_kv_heads;
    int head_dim;

    bool has_scales() const { return type == KVType::Int8 || type == KVType::Int16; }
    int64_t head_bytes() const {
        const int64_t items = 2 * int64_t{head_dim} * 16;
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
    uint8_t* head(int64_t block, int kv_head) const {
        return data + (block * num_kv_heads + kv_head) * head_bytes();
    }
    float* head_scales(int64_t block, int kv_head) const {
        return scales + (block * num_kv_heads + kv_head) * 2 * 16;
    }
};

struct AttentionShape {
    int num_heads;
    int num_kv_heads;
    int head_dim;
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

// The weight of a logit x is round(2^40 * 2^e), e = (x - top) * scale, and 0 where e < floor; -40 <= floor.
// octavo/sampling/weights.py defines it.
struct Softmax {
    float top;
    float scale;
    float floor;
};

constexpr int kWeightBits = 40;
constexpr int64_t kWeightBlock = 256;
constexpr int64_t kMaximaStride = 1024;  // logits that share 16 maxima

inline int64_t weight_blocks(int64_t n) { return (n + kWeightBlock - 1) / kWeightBlock; }
inline int64_t num_maxima(int64_t n) { return (n + kMaximaStride - 1) / kMaximaStride * 16; }

// What `octavo/formats/rounding.py` rounds groups of values to.
enum class Rounding { Int8, Int4, Int4ZeroPoints, Int4Minimums, Float8 };
enum class RoundingFault { None, NotFinite, TooLarge };

// Rows of floats, each whole groups of `size`: 32, 64 or 128, for Float8 32. Any of the last three may be
// null: what columns and rows are multiplied with, and the weights of the columns' errors.
struct RowsToRound {
    Encoding encoding;  // F32, F16 or BF16
    const uint8_t* data;
    int64_t cols;
    int64_t size;
    const float* column_factors;
    const float* row_factors;
    const float* importance;
};

// [groups][size] codes, [groups] scales, and zeros or minimums where the rounding has them, else null.
struct RoundedGroups {
    uint8_t* codes;
    float* scales;
    float* offsets;
};

// Passes over a row of logits.
struct SamplingKernels {
    // The largest value, NaN if there is one, and the largest of each of num_maxima(n) disjoint parts.
    float (*maxima)(const float* x, int64_t n, float* parts);
    // The sum of the weights, and of those of each block of 256.
    uint64_t (*sum_weights)(const float* x, int64_t n, const Softmax& softmax, uint64_t* blocks);
    void (*weights)(const float* x, int64_t n, const Softmax& softmax, uint64_t* out);
    // The logits that are at least `limit` and their places, in order; returns how many. There must be room
    // for n + 16.
    int64_t (*collect)(const float* x, int64_t n, float limit, int32_t* places, float* values);
    int64_t (*count_above)(const float* x, int64_t n, float limit);
};

static inline int64_t split_part_floats(int head_dim) { return kQueryRows * (int64_t{head_dim} + 2); }
// Of a split: [kQueryRows][kSplit] scores, and for int16 the weights and the queries.
static inline int64_t split_scratch_floats(int head_dim) {
    return kQueryRows * (kSplit + int64_t{kSplit} / 2 + 1 + (head_dim + 1) / 2);
}
static inline int64_t attention_scratch_floats(int head_dim) {
    return split_scratch_floats(head_dim) + 2 * split_part_floats(head_dim);
}

// What attention gives for the rows of a tile before the division: [kQueryRows][head_dim] outputs, and a
// row's largest score and sum of weights.
struct SplitPart {
    float* out;
    float* largest;
    float* total;

    SplitPart(float* memory, int head_dim)
        : out(memory), largest(memory + kQueryRows * int64_t{head_dim}), total(largest + kQueryRows) {}
    // The same without the first rows.
    SplitPart from_row(int row, int head_dim) const {
        SplitPart rest = *this;
        rest.out += row * int64_t{head_dim};
        rest.largest += row;
        rest.total += row;
        return rest;
    }
};

struct Kernels {
    const char* name;
    int tile_rows;
    // Quantises groups [first_group, first_group + groups) of the tile of `height` rows that starts at `row`;
    // with an order, column i of the result is column order[i] of x.
    void (*quantise_tile)(const float* x, int64_t stride, const int32_t* order, int64_t row, int64_t height,
                          int64_t k, int64_t first_group, int64_t groups, const QuantisedRows& out);
    void (*linear)(const PackedWeight& weight, int64_t first_panel, int64_t panels, const LinearInput& input,
                   int64_t first_row, int64_t rows, const LinearOutput& output);
    void (*rms_norm)(const float* x, const float* weight, float eps, int64_t n, float* y);
    void (*rope)(float* head, const float* table_row, int rotary_dim);
    void (*silu_mul)(const float* gate, const float* up, int64_t n, float* y);
    void (*add)(const float* x, const float* y, int64_t n, float* out);
    void (*write_kv)(const KVLayer& layer, int block, int slot, int kv_head, const float* k, const float* v);
    // Tiles of one KV head whose sequences share positions [0, shared), whole splits, which are read once;
    // together at most kQueryRows rows. scratch: attention_scratch_floats(head_dim) floats of the calling
    // thread.
    void (*attention)(const KVLayer& layer, const AttentionShape& shape, const AttentionTile* tiles,
                      int num_tiles, int shared, float* scratch);
    // The same in two stages, for a tile whose splits are shared out between threads: the part of positions
    // [start, start + kSplit), then the merge of all `count` parts in order, split_part_floats apart.
    void (*attention_split)(const KVLayer& layer, const AttentionShape& shape, const AttentionTile& tile,
                            int start, float* scratch, float* part);
    void (*attention_merge)(const AttentionShape& shape, const AttentionTile& tile, const float* parts,
                            int count, float* scratch);
    int64_t (*argmax)(const float* x, int64_t n);
    // Rows [first, first + count); scratch: count * cols floats.
    RoundingFault (*round_rows)(Rounding rounding, const RowsToRound& rows, int64_t first, int64_t count,
                                float* scratch, const RoundedGroups& out);
    SamplingKernels sampling;
};

const Kernels& portable_kernels();
#if defined(__x86_64__)
const Kernels& avx2_kernels();
const Kernels& avx512_kernels();
#elif defined(__aarch64__)
const Kernels& neon_kernels();
#endif

}  // namespace octavo
