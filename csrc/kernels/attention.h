// Attention over a paged KV cache, flash style (Dao et al., 2022), one tile of query rows at a time.
//
// Positions are taken in splits of 256, aligned to position 0; a split's scores are softmaxed at once and
// merged into the running result in order. A lane is one position of a block, so a score is a sum over
// head_dim in order; the split boundaries depend on positions alone. Hence a query's result is the same
// however its tokens were chunked or batched.
#pragma once

#include <cmath>
#include <limits>

#include "elementwise.h"

namespace octavo::OCTAVO_TIER {

template <typename T>
static inline T convert(float value) {
    if constexpr (sizeof(T) == 4) {
        return value;
    } else {
        // Saturating: an infinity in a value row would reach the tokens before it as 0 x inf.
        value = value > 65504.0f ? 65504.0f : value < -65504.0f ? -65504.0f : value;
#if defined(__F16C__)
        return {static_cast<uint16_t>(_cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT))};
#else
        return to_f16(value);
#endif
    }
}

template <typename T>
static inline void write_kv_as(const KVLayer& layer, int block, int slot, int kv_head, const float* k,
                               const float* v) {
    T* head = reinterpret_cast<T*>(layer.data) +
              (int64_t{block} * layer.num_kv_heads + kv_head) * layer.head_items();
    T* value = head + int64_t{layer.head_dim} * 16 + int64_t{slot} * layer.head_dim;
    for (int d = 0; d < layer.head_dim; ++d) head[d * 16 + slot] = convert<T>(k[d]);
    for (int d = 0; d < layer.head_dim; ++d) value[d] = convert<T>(v[d]);
}

static inline void write_kv(const KVLayer& layer, int block, int slot, int kv_head, const float* k,
                            const float* v) {
    if (layer.half)
        write_kv_as<f16>(layer, block, slot, kv_head, k, v);
    else
        write_kv_as<float>(layer, block, slot, kv_head, k, v);
}

// scores[r][block lane] = q[r] . K[:, lane] for BLOCKS blocks and ROWS rows; scores' rows are kSplit apart.
template <int ROWS, int BLOCKS, typename T>
static inline void score_blocks(const float* const* q, const T* const* keys, int head_dim, float* scores) {
    f32x16 acc[ROWS][BLOCKS];
    for (int r = 0; r < ROWS; ++r)
        for (int b = 0; b < BLOCKS; ++b) acc[r][b] = zero();
    for (int d = 0; d < head_dim; ++d) {
        f32x16 key[BLOCKS];
        for (int b = 0; b < BLOCKS; ++b) key[b] = load(keys[b] + d * 16);
        for (int r = 0; r < ROWS; ++r) {
            f32x16 value = set1(q[r][d]);
            for (int b = 0; b < BLOCKS; ++b) acc[r][b] = fma(value, key[b], acc[r][b]);
        }
    }
    for (int r = 0; r < ROWS; ++r)
        for (int b = 0; b < BLOCKS; ++b) store(scores + r * kSplit + b * 16, acc[r][b]);
}

template <int BLOCKS, typename T>
static inline void score_rows(int rows, const float* const* q, const T* const* keys, int head_dim,
                              float* scores) {
    int r = 0;
    for (; r + 4 <= rows; r += 4) score_blocks<4, BLOCKS>(q + r, keys, head_dim, scores + r * kSplit);
    switch (rows - r) {
        case 3:
            score_blocks<3, BLOCKS>(q + r, keys, head_dim, scores + r * kSplit);
            break;
        case 2:
            score_blocks<2, BLOCKS>(q + r, keys, head_dim, scores + r * kSplit);
            break;
        case 1:
            score_blocks<1, BLOCKS>(q + r, keys, head_dim, scores + r * kSplit);
            break;
        default:
            break;
    }
}

// out[r][0..16 V) = sum over positions of p[r][position] * value[position], positions in order.
template <int ROWS, int V, typename T>
static inline void weigh_values(const float* p, const T* const* values, int first, int last, int head_dim,
                                int column, float* out) {
    f32x16 acc[ROWS][V];
    for (int r = 0; r < ROWS; ++r)
        for (int c = 0; c < V; ++c) acc[r][c] = zero();
    for (int j = first; j < last; ++j) {
        const T* row = values[j / 16] + (j % 16) * int64_t{head_dim} + column;
        f32x16 value[V];
        for (int c = 0; c < V; ++c) value[c] = load(row + c * 16);
        for (int r = 0; r < ROWS; ++r) {
            f32x16 weight = set1(p[r * kSplit + j]);
            for (int c = 0; c < V; ++c) acc[r][c] = fma(weight, value[c], acc[r][c]);
        }
    }
    for (int r = 0; r < ROWS; ++r)
        for (int c = 0; c < V; ++c) store(out + r * int64_t{head_dim} + column + c * 16, acc[r][c]);
}

template <int V, typename T>
static inline void weigh_rows(int rows, const float* p, const T* const* values, int first, int last,
                              int head_dim, int column, float* out) {
    int r = 0;
    for (; r + 4 <= rows; r += 4)
        weigh_values<4, V>(p + r * kSplit, values, first, last, head_dim, column,
                           out + r * int64_t{head_dim});
    p += r * kSplit;
    out += r * int64_t{head_dim};
    switch (rows - r) {
        case 3:
            weigh_values<3, V>(p, values, first, last, head_dim, column, out);
            break;
        case 2:
            weigh_values<2, V>(p, values, first, last, head_dim, column, out);
            break;
        case 1:
            weigh_values<1, V>(p, values, first, last, head_dim, column, out);
            break;
        default:
            break;
    }
}

// Columns past whole vectors, for head dims that 16 does not divide.
template <typename T>
static inline void weigh_tail(int rows, const float* p, const T* const* values, int first, int last,
                              int head_dim, int column, float* out) {
    for (int r = 0; r < rows; ++r)
        for (int d = column; d < head_dim; ++d) {
            float sum = 0.0f;
            for (int j = first; j < last; ++j) {
                T item = values[j / 16][(j % 16) * int64_t{head_dim} + d];
                float value;
                if constexpr (sizeof(T) == 4)
                    value = item;
                else
                    value = to_float(item);
                sum = std::fma(p[r * kSplit + j], value, sum);
            }
            out[r * int64_t{head_dim} + d] = sum;
        }
}

// The rows of a tile: where each one's query is, and the positions [low, high) that it sees.
struct TileRows {
    int count;
    const float* q[kQueryRows];
    int low[kQueryRows], high[kQueryRows];

    TileRows(const AttentionShape& shape, const AttentionTile& tile)
        : count(tile.num_tokens * tile.num_heads) {
        for (int r = 0; r < count; ++r) {
            const int token = r / tile.num_heads, position = tile.first_position + token;
            q[r] = tile.q + token * tile.q_stride + (tile.first_head + r % tile.num_heads) * shape.head_dim;
            low[r] = shape.window && position >= shape.window ? position + 1 - shape.window : 0;
            high[r] = position + 1;
        }
    }
};

static inline int least(int a, int b) { return a < b ? a : b; }
static inline int most(int a, int b) { return a > b ? a : b; }

// Attention within positions [start, start + kSplit): for each row its part of the output, not yet divided,
// the largest score and the sum of the weights, which is 0 where the row sees nothing of the split.
template <typename T>
static inline void attend_split(const KVLayer& layer, const AttentionShape& shape, const AttentionTile& tile,
                                const TileRows& rows, int start, float* scores, const SplitPart& part) {
    const int head_dim = shape.head_dim;
    const int first = most(rows.low[0] - start, 0) / 16;
    const int end = least(rows.high[rows.count - 1] - start, kSplit), blocks = (end + 15) / 16;
    const T* keys[kSplit / 16];
    const T* values[kSplit / 16];
    for (int b = first; b < blocks; ++b) {
        const int64_t block = tile.block_table[start / 16 + b];
        keys[b] = reinterpret_cast<const T*>(layer.data) +
                  (block * layer.num_kv_heads + tile.kv_head) * layer.head_items();
        values[b] = keys[b] + int64_t{head_dim} * 16;
    }
    int b = first;
    for (; b + kWide <= blocks; b += kWide)
        score_rows<kWide>(rows.count, rows.q, keys + b, head_dim, scores + b * 16);
    for (; b < blocks; ++b) score_rows<1>(rows.count, rows.q, keys + b, head_dim, scores + b * 16);

    const float masked = -std::numeric_limits<float>::infinity();
    for (int r = 0; r < rows.count; ++r) {
        float* row = scores + r * kSplit;
        const int from = most(rows.low[r] - start, 0), to = least(rows.high[r] - start, kSplit);
        for (int j = first * 16; j < least(from, blocks * 16); ++j) row[j] = masked;
        for (int j = most(to, first * 16); j < blocks * 16; ++j) row[j] = masked;
        f32x16 top = set1(masked);
        for (int j = first * 16; j < blocks * 16; j += 16) top = max(top, load(row + j));
        part.largest[r] = reduce_max(top) * shape.scale;
        f32x16 shift = set1(from < to ? part.largest[r] : 0.0f), sum = zero(), scale = set1(shape.scale);
        for (int j = first * 16; j < blocks * 16; j += 16) {
            f32x16 p = exp(sub(mul(load(row + j), scale), shift));
            store(row + j, p);
            sum = add(sum, p);
        }
        part.total[r] = reduce_add(sum);
    }

    int column = 0;
    for (; column + 16 * kWide <= head_dim; column += 16 * kWide)
        weigh_rows<kWide>(rows.count, scores, values, first * 16, end, head_dim, column, part.out);
    for (; column + 16 <= head_dim; column += 16)
        weigh_rows<1>(rows.count, scores, values, first * 16, end, head_dim, column, part.out);
    if (column < head_dim)
        weigh_tail(rows.count, scores, values, first * 16, end, head_dim, column, part.out);
}

// Adds the next split's part to what the ones before it gave; the order is that of the positions.
static inline void merge_part(int rows, int head_dim, const SplitPart& part, const SplitPart& merged) {
    for (int r = 0; r < rows; ++r) {
        if (part.total[r] == 0.0f) continue;
        float* out = merged.out + r * int64_t{head_dim};
        const float* fresh = part.out + r * int64_t{head_dim};
        if (merged.total[r] == 0.0f) {
            __builtin_memcpy(out, fresh, head_dim * sizeof(float));
            merged.largest[r] = part.largest[r];
            merged.total[r] = part.total[r];
            continue;
        }
        const float top = part.largest[r] > merged.largest[r] ? part.largest[r] : merged.largest[r];
        float kept[16], gained[16];
        store(kept, exp(set1(merged.largest[r] - top)));
        store(gained, exp(set1(part.largest[r] - top)));
        f32x16 keep = set1(kept[0]), gain = set1(gained[0]);
        for_lanes(head_dim, [&](int64_t i, int count) {
            f32x16 old = mul(load_some(out + i, count), keep);
            store_some(out + i, fma(load_some(fresh + i, count), gain, old), count);
        });
        merged.total[r] = std::fma(part.total[r], gained[0], merged.total[r] * kept[0]);
        merged.largest[r] = top;
    }
}

static inline void finish_tile(const AttentionShape& shape, const AttentionTile& tile,
                               const SplitPart& merged) {
    const int head_dim = shape.head_dim, heads = tile.num_heads;
    for (int r = 0; r < tile.num_tokens * heads; ++r) {
        float* out =
            tile.out + (r / heads) * tile.out_stride + (tile.first_head + r % heads) * int64_t{head_dim};
        f32x16 scale = set1(1.0f / merged.total[r]);
        for_lanes(head_dim, [&](int64_t i, int count) {
            store_some(out + i, mul(load_some(merged.out + r * int64_t{head_dim} + i, count), scale), count);
        });
    }
}

static inline void attend_split(const KVLayer& layer, const AttentionShape& shape, const AttentionTile& tile,
                                const TileRows& rows, int start, float* scores, const SplitPart& part) {
    if (layer.half)
        attend_split<f16>(layer, shape, tile, rows, start, scores, part);
    else
        attend_split<float>(layer, shape, tile, rows, start, scores, part);
}

static inline void attention(const KVLayer& layer, const AttentionShape& shape, const AttentionTile& tile,
                             float* scratch) {
    const TileRows rows(shape, tile);
    float* scores = scratch;
    const SplitPart part(scores + kQueryRows * kSplit, shape.head_dim);
    const SplitPart merged(part.out + split_part_floats(shape.head_dim), shape.head_dim);
    for (int r = 0; r < rows.count; ++r) merged.total[r] = 0.0f;
    for (int start = rows.low[0] / kSplit * kSplit; start < rows.high[rows.count - 1]; start += kSplit) {
        attend_split(layer, shape, tile, rows, start, scores, part);
        merge_part(rows.count, shape.head_dim, part, merged);
    }
    finish_tile(shape, tile, merged);
}

static inline void attention_split(const KVLayer& layer, const AttentionShape& shape,
                                   const AttentionTile& tile, int start, float* scratch, float* part) {
    attend_split(layer, shape, tile, TileRows(shape, tile), start, scratch, SplitPart(part, shape.head_dim));
}

static inline void attention_merge(const AttentionShape& shape, const AttentionTile& tile, const float* parts,
                                   int count, float* scratch) {
    const int rows = tile.num_tokens * tile.num_heads;
    const SplitPart merged(scratch, shape.head_dim);
    for (int r = 0; r < rows; ++r) merged.total[r] = 0.0f;
    for (int i = 0; i < count; ++i) {
        float* part = const_cast<float*>(parts) + i * split_part_floats(shape.head_dim);
        merge_part(rows, shape.head_dim, SplitPart(part, shape.head_dim), merged);
    }
    finish_tile(shape, tile, merged);
}

}  // namespace octavo::OCTAVO_TIER
