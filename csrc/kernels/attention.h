// Attention over a paged KV cache, flash style (Dao et al., 2022), one tile of query rows at a time.
//
// Positions are taken in splits of 256, aligned to position 0; a split's scores are softmaxed at once and
// merged into the running result in order. The split boundaries depend on positions alone, and so does the
// order of every sum within. Hence a query's result is the same however its tokens were chunked or batched.
#pragma once

#include <cmath>

#include "kernels/attention_float.h"
#include "kernels/attention_int16.h"

namespace octavo::OCTAVO_TIER {

// Adds the next split's part to what the ones before it gave; the order is that of the positions.
static inline void merge_part(int rows, int value_dim, const SplitPart& part, const SplitPart& merged) {
    float keep[kQueryRows], gain[kQueryRows];
    const f32x16 before = load_some(merged.largest, rows), now = load_some(part.largest, rows);
    const f32x16 top = max(before, now);
    store(keep, exp2(sub(before, top)));
    store(gain, exp2(sub(now, top)));
    for (int r = 0; r < rows; ++r) {
        if (part.total[r] == 0.0f) continue;
        float* out = merged.out + r * int64_t{value_dim};
        const float* fresh = part.out + r * int64_t{value_dim};
        if (merged.total[r] == 0.0f) {
            __builtin_memcpy(out, fresh, value_dim * sizeof(float));
            merged.largest[r] = part.largest[r];
            merged.total[r] = part.total[r];
            continue;
        }
        for_lanes(value_dim, [&](int64_t i, int count) {
            const f32x16 old = mul(load_some(out + i, count), set1(keep[r]));
            store_some(out + i, fma(load_some(fresh + i, count), set1(gain[r]), old), count);
        });
        merged.total[r] = std::fma(part.total[r], gain[r], merged.total[r] * keep[r]);
        merged.largest[r] = part.largest[r] > merged.largest[r] ? part.largest[r] : merged.largest[r];
    }
}

static inline void finish_tile(const AttentionShape& shape, const AttentionTile& tile,
                               const SplitPart& merged) {
    const int value_dim = shape.value_dim, heads = tile.num_heads;
    for (int r = 0; r < tile.num_tokens * heads; ++r) {
        float* out =
            tile.out + (r / heads) * tile.out_stride + (tile.first_head + r % heads) * int64_t{value_dim};
        f32x16 scale = set1(1.0f / merged.total[r]);
        for_lanes(value_dim, [&](int64_t i, int count) {
            store_some(out + i, mul(load_some(merged.out + r * int64_t{value_dim} + i, count), scale), count);
        });
    }
}

// Attention within positions [start, start + kSplit): for each row its part of the output, not yet divided,
// the largest score and the sum of the weights, which is 0 where the row sees nothing of the split.
static inline void attend_split(const KVLayer& layer, const AttentionShape& shape, const QueryRows& rows,
                                int kv_head, const int32_t* block_table, int start, float* scratch,
                                const SplitPart& part) {
    const auto attend = [&](auto kernel) {
        kernel(layer, shape, rows, kv_head, block_table, start, scratch, part);
    };
    switch (layer.type) {
        case KVType::F32:
            return attend(attend_split_floats<float>);
        case KVType::F16:
            return attend(attend_split_floats<f16>);
        case KVType::BF16:
            return attend(attend_split_floats<bf16>);
        case KVType::E4M3:
            return attend(attend_split_floats<e4m3>);
        case KVType::Int8:
            return attend(attend_split_floats<int8_t>);
        case KVType::Int16:
            return attend(attend_split_int16);
    }
}

// Rows of the tiles, which are of one KV head; `scratch` is that of a split.
static inline QueryRows rows_of(const KVLayer& layer, const AttentionShape& shape, const AttentionTile* tiles,
                                int num_tiles, float* scratch) {
    QueryRows rows;
    for (int i = 0; i < num_tiles; ++i) rows.add(shape, tiles[i]);
    if (layer.type == KVType::Int16) quantise_queries(shape.key_dim, Int16Scratch(scratch), rows);
    return rows;
}

static inline void attention(const KVLayer& layer, const AttentionShape& shape, const AttentionTile* tiles,
                             int num_tiles, int shared, float* scratch) {
    const SplitPart part(scratch + split_scratch_floats(shape.key_dim), shape.value_dim);
    SplitPart merged(part.out + split_part_floats(shape.value_dim), shape.value_dim);
    const QueryRows all = rows_of(layer, shape, tiles, num_tiles, scratch);
    for (int r = 0; r < all.count; ++r) merged.total[r] = 0.0f;
    for (int start = 0; start < shared; start += kSplit) {
        attend_split(layer, shape, all, tiles[0].kv_head, tiles[0].block_table, start, scratch, part);
        merge_part(all.count, shape.value_dim, part, merged);
    }
    for (int i = 0, row = 0; i < num_tiles; ++i) {
        const QueryRows rows = num_tiles == 1 ? all : all.of_tile(tiles[i], row, shape.key_dim);
        row += rows.count;
        const int first = most(rows.low[0] / kSplit * kSplit, shared);
        for (int start = first; start < rows.high[rows.count - 1]; start += kSplit) {
            attend_split(layer, shape, rows, tiles[i].kv_head, tiles[i].block_table, start, scratch, part);
            merge_part(rows.count, shape.value_dim, part, merged);
        }
        finish_tile(shape, tiles[i], merged);
        merged = merged.from_row(rows.count, shape.value_dim);
    }
}

static inline void attention_split(const KVLayer& layer, const AttentionShape& shape,
                                   const AttentionTile& tile, int start, float* scratch, float* part) {
    const QueryRows rows = rows_of(layer, shape, &tile, 1, scratch);
    attend_split(layer, shape, rows, tile.kv_head, tile.block_table, start, scratch,
                 SplitPart(part, shape.value_dim));
}

static inline void attention_merge(const AttentionShape& shape, const AttentionTile& tile, const float* parts,
                                   int count, float* scratch) {
    const int rows = tile.num_tokens * tile.num_heads;
    const SplitPart merged(scratch, shape.value_dim);
    for (int r = 0; r < rows; ++r) merged.total[r] = 0.0f;
    for (int i = 0; i < count; ++i) {
        float* part = const_cast<float*>(parts) + i * split_part_floats(shape.value_dim);
        merge_part(rows, shape.value_dim, SplitPart(part, shape.value_dim), merged);
    }
    finish_tile(shape, tile, merged);
}

}  // namespace octavo::OCTAVO_TIER
