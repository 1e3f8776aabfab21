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
#include "kv_items.h"

namespace octavo::OCTAVO_TIER {

// Asks for the cache line that item `i` of a block begins, if it begins one. A block of a head is too short
// for the processor to see a pattern, so keys and values are fetched a split ahead.
template <typename T>
static inline void fetch_line(const T* block, int64_t i) {
    if (i % (64 / static_cast<int64_t>(sizeof(T))) == 0) __builtin_prefetch(block + i, 0, 2);
}

// scores[r][block lane] = q[r] . K[:, lane] for BLOCKS blocks and ROWS rows; scores' rows are kSplit apart.
// FETCH: asks for the values of these blocks.
template <int ROWS, int BLOCKS, bool FETCH, typename T>
static inline void score_blocks(const float* const* q, const T* const* keys, int head_dim, float* scores) {
    f32x16 acc[ROWS][BLOCKS];
    for (int r = 0; r < ROWS; ++r)
        for (int b = 0; b < BLOCKS; ++b) acc[r][b] = zero();
    for (int d = 0; d < head_dim; ++d) {
        f32x16 key[BLOCKS];
        for (int b = 0; b < BLOCKS; ++b) key[b] = load(keys[b] + d * 16);
        if constexpr (FETCH)
            for (int b = 0; b < BLOCKS; ++b) fetch_line(keys[b] + head_dim * 16, d * 16);
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
    for (; r + 4 < rows; r += 4) score_blocks<4, BLOCKS, false>(q + r, keys, head_dim, scores + r * kSplit);
    q += r;
    scores += r * kSplit;
    switch (rows - r) {
        case 4:
            return score_blocks<4, BLOCKS, true>(q, keys, head_dim, scores);
        case 3:
            return score_blocks<3, BLOCKS, true>(q, keys, head_dim, scores);
        case 2:
            return score_blocks<2, BLOCKS, true>(q, keys, head_dim, scores);
        case 1:
            return score_blocks<1, BLOCKS, true>(q, keys, head_dim, scores);
    }
}

// out[r][0..16 V) = sum over positions of p[r][position] * value[position], positions in order.
// FETCH: asks for the keys of the next split, `next`, which may be null.
template <int ROWS, int V, bool FETCH, typename T>
static inline void weigh_values(const float* p, const T* const* values, const T* const* next, int first,
                                int last, int head_dim, int column, float* out) {
    f32x16 acc[ROWS][V];
    for (int r = 0; r < ROWS; ++r)
        for (int c = 0; c < V; ++c) acc[r][c] = zero();
    for (int j = first; j < last; ++j) {
        const int64_t row = (j % 16) * int64_t{head_dim} + column;
        f32x16 value[V];
        for (int c = 0; c < V; ++c) value[c] = load(values[j / 16] + row + c * 16);
        if constexpr (FETCH)
            if (next)
                for (int c = 0; c < V; ++c) fetch_line(next[j / 16], row + c * 16);
        for (int r = 0; r < ROWS; ++r) {
            f32x16 weight = set1(p[r * kSplit + j]);
            for (int c = 0; c < V; ++c) acc[r][c] = fma(weight, value[c], acc[r][c]);
        }
    }
    for (int r = 0; r < ROWS; ++r)
        for (int c = 0; c < V; ++c) store(out + r * int64_t{head_dim} + column + c * 16, acc[r][c]);
}

template <int V, typename T>
static inline void weigh_rows(int rows, const float* p, const T* const* values, const T* const* next,
                              int first, int last, int head_dim, int column, float* out) {
    int r = 0;
    for (; r + 4 < rows; r += 4)
        weigh_values<4, V, false>(p + r * kSplit, values, next, first, last, head_dim, column,
                                  out + r * int64_t{head_dim});
    p += r * kSplit;
    out += r * int64_t{head_dim};
    switch (rows - r) {
        case 4:
            return weigh_values<4, V, true>(p, values, next, first, last, head_dim, column, out);
        case 3:
            return weigh_values<3, V, true>(p, values, next, first, last, head_dim, column, out);
        case 2:
            return weigh_values<2, V, true>(p, values, next, first, last, head_dim, column, out);
        case 1:
            return weigh_values<1, V, true>(p, values, next, first, last, head_dim, column, out);
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
                const float value = item_to_float(values[j / 16][(j % 16) * int64_t{head_dim} + d]);
                sum = std::fma(p[r * kSplit + j], value, sum);
            }
            out[r * int64_t{head_dim} + d] = sum;
        }
}

// Rows of queries: where each one is, and the positions [low, high) that it sees.
struct QueryRows {
    int count = 0;
    const float* q[kQueryRows];
    int low[kQueryRows], high[kQueryRows];

    void add(const AttentionShape& shape, const AttentionTile& tile) {
        for (int token = 0; token < tile.num_tokens; ++token)
            for (int head = tile.first_head; head < tile.first_head + tile.num_heads; ++head, ++count) {
                const int position = tile.first_position + token;
                q[count] = tile.q + token * tile.q_stride + head * shape.head_dim;
                low[count] = shape.window && position >= shape.window ? position + 1 - shape.window : 0;
                high[count] = position + 1;
            }
    }
};

static inline int least(int a, int b) { return a < b ? a : b; }
static inline int most(int a, int b) { return a > b ? a : b; }

// Multiplies the scores, or the weights, of a row by the scales of the positions' tokens.
static inline void apply_scales(const float* const* scales, int first_block, int blocks, float* row) {
    for (int b = first_block; b < blocks; ++b) store(row + b * 16, mul(load(row + b * 16), load(scales[b])));
}

// Attention within positions [start, start + kSplit): for each row its part of the output, not yet divided,
// the largest score and the sum of the weights, which is 0 where the row sees nothing of the split.
template <typename T>
static inline void attend_split_as(const KVLayer& layer, const AttentionShape& shape, const QueryRows& rows,
                                   int kv_head, const int32_t* block_table, int start, float* scores,
                                   const SplitPart& part) {
    const int head_dim = shape.head_dim;
    const int first = most(rows.low[0] - start, 0) / 16;
    const int end = least(rows.high[rows.count - 1] - start, kSplit), blocks = (end + 15) / 16;
    const T* keys[kSplit / 16];
    const T* values[kSplit / 16];
    const float* key_scales[kSplit / 16];
    const float* value_scales[kSplit / 16];
    for (int b = first; b < blocks; ++b) {
        keys[b] = reinterpret_cast<const T*>(layer.head(block_table[start / 16 + b], kv_head));
        values[b] = keys[b] + int64_t{head_dim} * 16;
        if constexpr (kHasScales<T>) {
            key_scales[b] = reinterpret_cast<const float*>(values[b] + int64_t{head_dim} * 16);
            value_scales[b] = key_scales[b] + 16;
        }
    }
    // The keys of the next split, where the rows see all of it: the last split may be short.
    const T* next_keys[kSplit / 16];
    const bool more = rows.high[rows.count - 1] >= start + 2 * kSplit;
    if (more)
        for (int i = first; i < blocks; ++i)
            next_keys[i] =
                reinterpret_cast<const T*>(layer.head(block_table[start / 16 + kSplit / 16 + i], kv_head));
    const T* const* next = more ? next_keys : nullptr;

    int b = first;
    for (; b + kWide <= blocks; b += kWide)
        score_rows<kWide>(rows.count, rows.q, keys + b, head_dim, scores + b * 16);
    for (; b < blocks; ++b) score_rows<1>(rows.count, rows.q, keys + b, head_dim, scores + b * 16);

    const float masked = -std::numeric_limits<float>::infinity();
    for (int r = 0; r < rows.count; ++r) {
        float* row = scores + r * kSplit;
        if constexpr (kHasScales<T>) apply_scales(key_scales, first, blocks, row);
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
        if constexpr (kHasScales<T>) apply_scales(value_scales, first, blocks, row);
    }

    int column = 0;
    for (; column + 16 * kWide <= head_dim; column += 16 * kWide)
        weigh_rows<kWide>(rows.count, scores, values, next, first * 16, end, head_dim, column, part.out);
    for (; column + 16 <= head_dim; column += 16)
        weigh_rows<1>(rows.count, scores, values, next, first * 16, end, head_dim, column, part.out);
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

static inline void attend_split(const KVLayer& layer, const AttentionShape& shape, const QueryRows& rows,
                                int kv_head, const int32_t* block_table, int start, float* scores,
                                const SplitPart& part) {
    switch (layer.type) {
        case KVType::F32:
            return attend_split_as<float>(layer, shape, rows, kv_head, block_table, start, scores, part);
        case KVType::F16:
            return attend_split_as<f16>(layer, shape, rows, kv_head, block_table, start, scores, part);
        case KVType::BF16:
            return attend_split_as<bf16>(layer, shape, rows, kv_head, block_table, start, scores, part);
        case KVType::E4M3:
            return attend_split_as<e4m3>(layer, shape, rows, kv_head, block_table, start, scores, part);
        case KVType::Int8:
            return attend_split_as<int8_t>(layer, shape, rows, kv_head, block_table, start, scores, part);
    }
}

static inline void attention(const KVLayer& layer, const AttentionShape& shape, const AttentionTile* tiles,
                             int num_tiles, int shared, float* scratch) {
    float* scores = scratch;
    const SplitPart part(scores + kQueryRows * kSplit, shape.head_dim);
    SplitPart merged(part.out + split_part_floats(shape.head_dim), shape.head_dim);
    QueryRows all;
    for (int i = 0; i < num_tiles; ++i) all.add(shape, tiles[i]);
    for (int r = 0; r < all.count; ++r) merged.total[r] = 0.0f;
    for (int start = 0; start < shared; start += kSplit) {
        attend_split(layer, shape, all, tiles[0].kv_head, tiles[0].block_table, start, scores, part);
        merge_part(all.count, shape.head_dim, part, merged);
    }
    for (int i = 0; i < num_tiles; ++i) {
        QueryRows rows;
        rows.add(shape, tiles[i]);
        const int first = most(rows.low[0] / kSplit * kSplit, shared);
        for (int start = first; start < rows.high[rows.count - 1]; start += kSplit) {
            attend_split(layer, shape, rows, tiles[i].kv_head, tiles[i].block_table, start, scores, part);
            merge_part(rows.count, shape.head_dim, part, merged);
        }
        finish_tile(shape, tiles[i], merged);
        merged = merged.from_row(rows.count, shape.head_dim);
    }
}

static inline void attention_split(const KVLayer& layer, const AttentionShape& shape,
                                   const AttentionTile& tile, int start, float* scratch, float* part) {
    QueryRows rows;
    rows.add(shape, tile);
    attend_split(layer, shape, rows, tile.kv_head, tile.block_table, start, scratch,
                 SplitPart(part, shape.head_dim));
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
