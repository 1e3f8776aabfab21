// Attention within a split where keys and values are int16: twice the products of floats in an instruction.
//
// Sums of products are exact in 32 bits, so their order does not matter, and they cannot overflow. Queries
// and keys are scaled to a norm below 2^15.5: by Cauchy and Schwarz any sum of their products is below 2^31.
// Values stay below 2^14, and the weights of a split sum to less than 2^17. What a score loses is about 2^-17
// of the product of the norms, less than float16 keys cost.
#pragma once

#include "kernels/attention_split.h"

namespace octavo::OCTAVO_TIER {

// Parts of a split's scratch.
struct Int16Scratch {
    float* scores;     // [kQueryRows][kSplit]
    int16_t* weights;  // [kQueryRows][kSplit]
    float* units;      // [kQueryRows], of the queries
    int16_t* queries;  // [kQueryRows][key_dim]

    explicit Int16Scratch(float* scratch)
        : scores(scratch),
          weights(reinterpret_cast<int16_t*>(scores + kQueryRows * kSplit)),
          units(reinterpret_cast<float*>(weights + kQueryRows * kSplit)),
          queries(reinterpret_cast<int16_t*>(units + kQueryRows)) {}
};

static inline void quantise_queries(int key_dim, const Int16Scratch& scratch, QueryRows& rows) {
    for (int r = 0; r < rows.count; ++r) {
        int16_t* row = scratch.queries + r * int64_t{key_dim};
        scratch.units[r] = to_int16<Int16Range::Norm>(
            rows.q[r], key_dim,
            [&](int64_t i, int count, const int16_t* lanes) { __builtin_memcpy(row + i, lanes, 2 * count); });
    }
    rows.integers = scratch.queries;
    rows.units = scratch.units;
}

// scores[r][block lane] = (q[r] . K[:, lane]) x the lane's scale, for BLOCKS blocks and ROWS rows. `fetch`:
// asks for the values of these blocks.
template <int ROWS, int BLOCKS>
static inline void score_blocks_int16(const int16_t* q, const int16_t* const* keys,
                                      const float* const* key_scales, int key_dim, bool fetch,
                                      float* scores) {
    i32x16 sums[ROWS][BLOCKS];
    for (int r = 0; r < ROWS; ++r)
        for (int b = 0; b < BLOCKS; ++b) sums[r][b] = zero_i32();
    for (int d = 0; d < key_dim; d += 2) {
        i16x32 key[BLOCKS];
        for (int b = 0; b < BLOCKS; ++b) key[b] = load(keys[b] + d * 16);
        if (fetch)
            for (int b = 0; b < BLOCKS; ++b) fetch_line(keys[b] + key_dim * 16, d * 16);
        for (int r = 0; r < ROWS; ++r) {
            const auto pair = set_pair(q + r * key_dim + d);
            for (int b = 0; b < BLOCKS; ++b) sums[r][b] = add_pairs(pair, key[b], sums[r][b]);
        }
    }
    for (int b = 0; b < BLOCKS; ++b) {
        const f32x16 scale = load(key_scales[b]);
        for (int r = 0; r < ROWS; ++r) store(scores + r * kSplit + b * 16, mul(to_f32(sums[r][b]), scale));
    }
}

template <int BLOCKS>
static inline void score_rows_int16(int rows, const int16_t* q, const int16_t* const* keys,
                                    const float* const* key_scales, int key_dim, float* scores) {
    for_row_blocks(rows, [&](auto count, int row, bool last) {
        score_blocks_int16<count, BLOCKS>(q + row * key_dim, keys, key_scales, key_dim, last,
                                          scores + row * kSplit);
    });
}

// Weights of a row as integers of at most 32767 that sum to less than 2^17: times values below 2^14 the sums
// fit 32 bits. Returns what a unit stands for.
static inline float quantise_weights(const float* row, int first, int end, const RowWeights& weights,
                                     int16_t* out) {
    // 128 less for each of 256 is rounded by up to a half, and 45 for the sum's own rounding.
    const float by_sum = weights.scaled / 130900.0f, by_top = weights.top / 32767.0f;
    const float unit = by_sum > by_top ? by_sum : by_top;
    const f32x16 inverse = set1(unit > 0x1p-120f ? 1.0f / unit : 0.0f);
    for (int j = first; j < end; j += 16) store_int16(out + j, mul(load(row + j), inverse));
    return unit;
}

// out[r][column + 0..16 V) = sum over the pairs of positions of p[r][position] x value[position].
template <int ROWS, int V>
static inline void weigh_values_int16(const int16_t* p, const float* units,
                                      const SplitBlocks<int16_t>& blocks, int value_dim, int column,
                                      float* out) {
    i32x16 sums[ROWS][V];
    for (int r = 0; r < ROWS; ++r)
        for (int c = 0; c < V; ++c) sums[r][c] = zero_i32();
    for (int b = blocks.first; b < blocks.count; ++b) {
        const int pairs = least(blocks.end - b * 16 + 1, 16) / 2;
        for (int j = 0; j < pairs; ++j) {
            const int64_t place = 2 * (j * int64_t{value_dim} + column);
            i16x32 value[V];
            for (int c = 0; c < V; ++c) value[c] = load(blocks.values[b] + place + c * 32);
            for (int r = 0; r < ROWS; ++r) {
                const auto weights = set_pair(p + r * kSplit + b * 16 + 2 * j);
                for (int c = 0; c < V; ++c) sums[r][c] = add_pairs(weights, value[c], sums[r][c]);
            }
        }
    }
    for (int r = 0; r < ROWS; ++r)
        for (int c = 0; c < V; ++c)
            store(out + r * int64_t{value_dim} + column + c * 16, mul(to_f32(sums[r][c]), set1(units[r])));
}

template <int V>
static inline void weigh_rows_int16(int rows, const int16_t* p, const float* units,
                                    const SplitBlocks<int16_t>& blocks, int value_dim, int column,
                                    float* out) {
    for_row_blocks(rows, [&](auto count, int row, bool) {
        weigh_values_int16<count, V>(p + row * kSplit, units + row, blocks, value_dim, column,
                                     out + row * int64_t{value_dim});
    });
}

// Columns past whole vectors, for head dims that 16 does not divide.
static inline void weigh_tail_int16(int rows, const int16_t* p, const float* units,
                                    const SplitBlocks<int16_t>& blocks, int value_dim, int column,
                                    float* out) {
    for (int r = 0; r < rows; ++r)
        for (int d = column; d < value_dim; ++d) {
            int32_t sum = 0;
            for (int j = blocks.first * 16; j < blocks.end; ++j) {
                const int64_t place = 2 * (j % 16 / 2 * int64_t{value_dim} + d) + j % 2;
                sum += p[r * kSplit + j] * blocks.values[j / 16][place];
            }
            out[r * int64_t{value_dim} + d] = static_cast<float>(sum) * units[r];
        }
}

static inline void attend_split_int16(const KVLayer& layer, const AttentionShape& shape,
                                      const QueryRows& rows, int kv_head, const int32_t* block_table,
                                      int start, float* scratch, const SplitPart& part) {
    const int key_dim = shape.key_dim, value_dim = shape.value_dim;
    const SplitBlocks<int16_t> blocks(layer, rows, kv_head, block_table, start);
    const Int16Scratch in(scratch);

    int b = blocks.first;
    for (; b + kWide <= blocks.count; b += kWide)
        score_rows_int16<kWide>(rows.count, rows.integers, blocks.keys + b, blocks.key_scales + b, key_dim,
                                in.scores + b * 16);
    for (; b < blocks.count; ++b)
        score_rows_int16<1>(rows.count, rows.integers, blocks.keys + b, blocks.key_scales + b, key_dim,
                            in.scores + b * 16);

    float units[kQueryRows];
    for (int r = 0; r < rows.count; ++r) {
        float* row = in.scores + r * kSplit;
        const RowWeights weights =
            softmax(row, blocks, most(rows.low[r] - start, 0), least(rows.high[r] - start, kSplit),
                    base_two(shape.scale) * rows.units[r]);
        part.largest[r] = weights.largest;
        part.total[r] = weights.total;
        units[r] =
            quantise_weights(row, blocks.first * 16, blocks.count * 16, weights, in.weights + r * kSplit);
    }

    int column = 0;
    for (; column + 16 * kWide <= value_dim; column += 16 * kWide)
        weigh_rows_int16<kWide>(rows.count, in.weights, units, blocks, value_dim, column, part.out);
    for (; column + 16 <= value_dim; column += 16)
        weigh_rows_int16<1>(rows.count, in.weights, units, blocks, value_dim, column, part.out);
    if (column < value_dim)
        weigh_tail_int16(rows.count, in.weights, units, blocks, value_dim, column, part.out);
}

}  // namespace octavo::OCTAVO_TIER
