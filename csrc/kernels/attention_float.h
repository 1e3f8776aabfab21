// Attention within a split where keys and values are read as floats. A lane is one position of a block, so a
// score is a sum over key_dim in order; a weighted sum of values is one over positions in order.
#pragma once

#include <cmath>

#include "kernels/attention_split.h"

namespace octavo::OCTAVO_TIER {

// scores[r][block lane] = q[r] . K[:, lane] for BLOCKS blocks and ROWS rows; scores' rows are kSplit apart.
// `fetch`: asks for the values of these blocks.
template <int ROWS, int BLOCKS, typename T>
static inline void score_blocks(const float* const* q, const T* const* keys, int key_dim, bool fetch,
                                float* scores) {
    f32x16 acc[ROWS][BLOCKS];
    for (int r = 0; r < ROWS; ++r)
        for (int b = 0; b < BLOCKS; ++b) acc[r][b] = zero();
    for (int d = 0; d < key_dim; ++d) {
        f32x16 key[BLOCKS];
        for (int b = 0; b < BLOCKS; ++b) key[b] = load(keys[b] + d * 16);
        if (fetch)
            for (int b = 0; b < BLOCKS; ++b) fetch_line(keys[b] + key_dim * 16, d * 16);
        for (int r = 0; r < ROWS; ++r) {
            f32x16 value = set1(q[r][d]);
            for (int b = 0; b < BLOCKS; ++b) acc[r][b] = fma(value, key[b], acc[r][b]);
        }
    }
    for (int r = 0; r < ROWS; ++r)
        for (int b = 0; b < BLOCKS; ++b) store(scores + r * kSplit + b * 16, acc[r][b]);
}

template <int BLOCKS, typename T>
static inline void score_rows(int rows, const float* const* q, const T* const* keys, int key_dim,
                              float* scores) {
    for_row_blocks(rows, [&](auto count, int row, bool last) {
        score_blocks<count, BLOCKS>(q + row, keys, key_dim, last, scores + row * kSplit);
    });
}

// out[r][0..16 V) = sum over positions of p[r][position] * value[position], positions in order.
// Asks for the keys of the next split, `next`, unless it is null.
template <int ROWS, int V, typename T>
static inline void weigh_values(const float* p, const T* const* values, const T* const* next, int first,
                                int last, int value_dim, int column, float* out) {
    f32x16 acc[ROWS][V];
    for (int r = 0; r < ROWS; ++r)
        for (int c = 0; c < V; ++c) acc[r][c] = zero();
    for (int j = first; j < last; ++j) {
        const int64_t row = (j % 16) * int64_t{value_dim} + column;
        f32x16 value[V];
        for (int c = 0; c < V; ++c) value[c] = load(values[j / 16] + row + c * 16);
        if (next)
            for (int c = 0; c < V; ++c) fetch_line(next[j / 16], row + c * 16);
        for (int r = 0; r < ROWS; ++r) {
            f32x16 weight = set1(p[r * kSplit + j]);
            for (int c = 0; c < V; ++c) acc[r][c] = fma(weight, value[c], acc[r][c]);
        }
    }
    for (int r = 0; r < ROWS; ++r)
        for (int c = 0; c < V; ++c) store(out + r * int64_t{value_dim} + column + c * 16, acc[r][c]);
}

template <int V, typename T>
static inline void weigh_rows(int rows, const float* p, const T* const* values, const T* const* next,
                              int first, int last, int value_dim, int column, float* out) {
    for_row_blocks(rows, [&](auto count, int row, bool last_rows) {
        weigh_values<count, V>(p + row * kSplit, values, last_rows ? next : nullptr, first, last, value_dim,
                               column, out + row * int64_t{value_dim});
    });
}

// Columns past whole vectors, for head dims that 16 does not divide.
template <typename T>
static inline void weigh_tail(int rows, const float* p, const T* const* values, int first, int last,
                              int value_dim, int column, float* out) {
    for (int r = 0; r < rows; ++r)
        for (int d = column; d < value_dim; ++d) {
            float sum = 0.0f;
            for (int j = first; j < last; ++j) {
                const float value = item_to_float(values[j / 16][(j % 16) * int64_t{value_dim} + d]);
                sum = std::fma(p[r * kSplit + j], value, sum);
            }
            out[r * int64_t{value_dim} + d] = sum;
        }
}

// Multiplies the scores of a row by the scales of the positions' tokens.
static inline void apply_scales(const float* const* scales, int first_block, int blocks, float* row) {
    for (int b = first_block; b < blocks; ++b) store(row + b * 16, mul(load(row + b * 16), load(scales[b])));
}

template <typename T>
static inline void attend_split_floats(const KVLayer& layer, const AttentionShape& shape,
                                       const QueryRows& rows, int kv_head, const int32_t* block_table,
                                       int start, float* scores, const SplitPart& part) {
    const int key_dim = shape.key_dim, value_dim = shape.value_dim;
    const SplitBlocks<T> blocks(layer, rows, kv_head, block_table, start);

    int b = blocks.first;
    for (; b + kWide <= blocks.count; b += kWide)
        score_rows<kWide>(rows.count, rows.q, blocks.keys + b, key_dim, scores + b * 16);
    for (; b < blocks.count; ++b)
        score_rows<1>(rows.count, rows.q, blocks.keys + b, key_dim, scores + b * 16);

    for (int r = 0; r < rows.count; ++r) {
        float* row = scores + r * kSplit;
        if constexpr (kHasScales<T>) apply_scales(blocks.key_scales, blocks.first, blocks.count, row);
        const RowWeights weights = softmax(row, blocks, most(rows.low[r] - start, 0),
                                           least(rows.high[r] - start, kSplit), base_two(shape.scale));
        part.largest[r] = weights.largest;
        part.total[r] = weights.total;
    }

    const int first = blocks.first * 16;
    int column = 0;
    for (; column + 16 * kWide <= value_dim; column += 16 * kWide)
        weigh_rows<kWide>(rows.count, scores, blocks.values, blocks.next, first, blocks.end, value_dim,
                          column, part.out);
    for (; column + 16 <= value_dim; column += 16)
        weigh_rows<1>(rows.count, scores, blocks.values, blocks.next, first, blocks.end, value_dim, column,
                      part.out);
    if (column < value_dim)
        weigh_tail(rows.count, scores, blocks.values, first, blocks.end, value_dim, column, part.out);
}

}  // namespace octavo::OCTAVO_TIER
