// What attention within a split of the context is for every type of the KV cache.
#pragma once

#include <limits>
#include <type_traits>

#include "kernels/kv_items.h"

namespace octavo::OCTAVO_TIER {

// Asks for the cache line that item `i` of a block begins, if it begins one. A block of a head is too short
// for the processor to see a pattern, so keys and values are fetched a split ahead.
template <typename T>
static inline void fetch_line(const T* block, int64_t i) {
    if (i % (64 / static_cast<int64_t>(sizeof(T))) == 0) __builtin_prefetch(block + i, 0, 2);
}

static inline int least(int a, int b) { return a < b ? a : b; }
static inline int most(int a, int b) { return a > b ? a : b; }

// Rows of queries that are computed together: with kWide vectors beside each other their sums take 24 of 32
// registers, or 8 of 16.
constexpr int kRowsBeside = kWide > 1 ? 5 : 4;

template <int MOST, typename F>
static inline void with_rows(int rows, F f) {
    if constexpr (MOST > 0) {
        if (rows == MOST)
            f(std::integral_constant<int, MOST>());
        else
            with_rows<MOST - 1>(rows, f);
    }
}

// Calls f(how many, first row, whether they are the last ones) for blocks of rows as equal as can be.
template <typename F>
static inline void for_row_blocks(int rows, F f) {
    int row = 0;
    for (int blocks = (rows + kRowsBeside - 1) / kRowsBeside; blocks > 0; --blocks) {
        const int count = (rows - row + blocks - 1) / blocks;
        with_rows<kRowsBeside>(count, [&](auto each) { f(each, row, blocks == 1); });
        row += count;
    }
}

// Rows of queries: where each one is, and the positions [low, high) that it sees.
struct QueryRows {
    int count = 0;
    const float* q[kQueryRows];
    int low[kQueryRows], high[kQueryRows];
    // For an int16 cache: the queries as [count][key_dim], and what a unit of each stands for.
    const int16_t* integers = nullptr;
    const float* units = nullptr;

    void add(const AttentionShape& shape, const AttentionTile& tile) {
        for (int token = 0; token < tile.num_tokens; ++token)
            for (int head = tile.first_head; head < tile.first_head + tile.num_heads; ++head, ++count) {
                const int position = tile.first_position + token;
                q[count] = tile.q + token * tile.q_stride + head * shape.key_dim;
                low[count] = shape.window && position >= shape.window ? position + 1 - shape.window : 0;
                high[count] = position + 1;
            }
    }
    // Rows [row, row + n), n those of the tile.
    QueryRows of_tile(const AttentionTile& tile, int row, int key_dim) const {
        QueryRows rows;
        rows.count = tile.num_tokens * tile.num_heads;
        for (int r = 0; r < rows.count; ++r) {
            rows.q[r] = q[row + r];
            rows.low[r] = low[row + r];
            rows.high[r] = high[row + r];
        }
        rows.integers = integers + row * int64_t{key_dim};
        rows.units = units + row;
        return rows;
    }
};

// Whether it asks for the keys of the next split while it weighs the values of this one.
template <typename T>
constexpr bool kFetchesKeys = true;
template <>
inline constexpr bool kFetchesKeys<int16_t> = false;

// The blocks of a split that the rows see anything of: [first, count), counted from the split's first one.
template <typename T>
struct SplitBlocks {
    int first, count;
    int end;  // positions [16 first, end) of the split
    const T* keys[kSplit / 16];
    const T* values[kSplit / 16];
    const float* key_scales[kSplit / 16];
    const float* value_scales[kSplit / 16];
    float last_scales[16];
    const T* next_keys[kSplit / 16];
    const T* const* next;  // the keys of the next split, or null

    SplitBlocks(const KVLayer& layer, const QueryRows& rows, int kv_head, const int32_t* block_table,
                int start) {
        const int last = rows.high[rows.count - 1];
        const int64_t items = int64_t{layer.key_dim} * 16;
        const auto block = [&](int b) {
            return reinterpret_cast<const T*>(layer.head(block_table[start / 16 + b], kv_head));
        };
        first = most(rows.low[0] - start, 0) / 16;
        end = least(last - start, kSplit);
        count = (end + 15) / 16;
        for (int b = first; b < count; ++b) {
            keys[b] = block(b);
            values[b] = keys[b] + items;
            if constexpr (kHasScales<T>) {
                key_scales[b] = layer.head_scales(block_table[start / 16 + b], kv_head);
                value_scales[b] = key_scales[b] + 16;
            }
        }
        if constexpr (kHasScales<T>)
            if (end % 16) {
                // What is behind the last token may be the items of another layer, and a scale of it NaN.
                for (int i = 0; i < 16; ++i)
                    last_scales[i] = i < end % 16 ? value_scales[count - 1][i] : 0.0f;
                value_scales[count - 1] = last_scales;
            }
        // Where the rows see all of the next split: the last one may be short.
        const bool more = last >= start + 2 * kSplit;
        if (more)
            for (int b = first; b < count; ++b) {
                if constexpr (kFetchesKeys<T>) next_keys[b] = block(kSplit / 16 + b);
                if constexpr (kHasScales<T>) {
                    const float* scales = layer.head_scales(block_table[(start + kSplit) / 16 + b], kv_head);
                    __builtin_prefetch(scales, 0, 2);
                    __builtin_prefetch(scales + 16, 0, 2);
                }
            }
        next = more ? next_keys : nullptr;
    }
};

// The scale of scores whose weights are powers of 2 instead of e.
static inline float base_two(float scale) { return scale * 1.44269504f; }

// The weights of a row: 2^(score x scale - largest).
struct RowWeights {
    float largest;  // scaled score
    float total;    // 0 where the row sees nothing
    float scaled;   // sum of what is left in the row
    float top;      // the largest of it
};

// Makes weights of the row's scores of blocks [first, count); they are 0 outside of [from, to), what the row
// sees. Integers: each weight is left multiplied by the scale of its token's values.
template <typename T>
static inline RowWeights softmax(float* row, const SplitBlocks<T>& blocks, int from, int to, float scale) {
    const int first = blocks.first * 16, end = blocks.count * 16;
    const float masked = -std::numeric_limits<float>::infinity();
    for (int j = first; j < least(from, end); ++j) row[j] = masked;
    for (int j = most(to, first); j < end; ++j) row[j] = masked;
    f32x16 top = set1(masked);
    for (int j = first; j < end; j += 16) top = max(top, load(row + j));
    const float largest = reduce_max(top) * scale;
    const f32x16 shift = set1(from < to ? -largest : 0.0f), factor = set1(scale);
    f32x16 total = zero(), scaled = zero(), most_scaled = zero();
    for (int j = first; j < end; j += 16) {
        f32x16 weight = exp2(fma(load(row + j), factor, shift));
        total = add(total, weight);
        if constexpr (kHasScales<T>) {
            weight = mul(weight, load(blocks.value_scales[j / 16]));
            scaled = add(scaled, weight);
            most_scaled = max(most_scaled, weight);
        }
        store(row + j, weight);
    }
    if constexpr (!kHasScales<T>) return {largest, reduce_add(total), 0.0f, 0.0f};
    return {largest, reduce_add(total), reduce_add(scaled), reduce_max(most_scaled)};
}

}  // namespace octavo::OCTAVO_TIER
