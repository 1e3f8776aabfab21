// Attention over a paged KV cache, flash style (Dao et al., 2022), one tile of query rows at a time.
//
// Positions are taken in splits of 256, aligned to position 0; a split's scores are softmaxed at once and
// merged into the running result in order. A lane is one position of a block, so a score is a sum over
// head_dim in order; the split boundaries depend on positions alone. Hence a query's result is the same
// however its tokens were chunked or batched.
#pragma once

#include <algorithm>
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

template <typename T>
static inline void attend_tile(const KVLayer& layer, const AttentionShape& shape, const AttentionTile& tile,
                               float* scratch) {
    const int head_dim = shape.head_dim, heads = tile.num_heads;
    const int rows = tile.num_tokens * heads;
    float* scores = scratch;                                // [rows][kSplit]
    float* part = scores + kQueryRows * kSplit;             // [rows][head_dim]
    float* result = part + kQueryRows * int64_t{head_dim};  // [rows][head_dim]
    const float* q[kQueryRows];
    int low[kQueryRows], high[kQueryRows];  // each row sees positions [low, high)
    float largest[kQueryRows], total[kQueryRows];
    for (int r = 0; r < rows; ++r) {
        const int token = r / heads, position = tile.first_position + token;
        q[r] = tile.q + token * tile.q_stride + (tile.first_head + r % heads) * head_dim;
        high[r] = position + 1;
        low[r] = shape.window ? std::max(0, position + 1 - shape.window) : 0;
        largest[r] = -std::numeric_limits<float>::infinity();
        total[r] = 0.0f;
    }
    const int lowest = low[0], highest = high[rows - 1];
    const T* base = reinterpret_cast<const T*>(layer.data);

    for (int start = lowest / kSplit * kSplit; start < highest; start += kSplit) {
        const int first = std::max(lowest - start, 0) / 16, end = std::min(highest - start, kSplit);
        const int blocks = (end + 15) / 16;
        const T* keys[kSplit / 16];
        const T* values[kSplit / 16];
        for (int b = first; b < blocks; ++b) {
            int64_t block = tile.block_table[start / 16 + b];
            keys[b] = base + (block * layer.num_kv_heads + tile.kv_head) * layer.head_items();
            values[b] = keys[b] + int64_t{head_dim} * 16;
        }
        int b = first;
        for (; b + kWide <= blocks; b += kWide)
            score_rows<kWide>(rows, q, keys + b, head_dim, scores + b * 16);
        for (; b < blocks; ++b) score_rows<1>(rows, q, keys + b, head_dim, scores + b * 16);

        float part_largest[kQueryRows], part_total[kQueryRows];
        for (int r = 0; r < rows; ++r) {
            float* row = scores + r * kSplit;
            const int from = std::max(low[r] - start, 0), to = std::min(high[r] - start, kSplit);
            const float masked = -std::numeric_limits<float>::infinity();
            for (int j = first * 16; j < std::min(from, blocks * 16); ++j) row[j] = masked;
            for (int j = std::max(to, first * 16); j < blocks * 16; ++j) row[j] = masked;
            f32x16 top = set1(masked);
            for (int j = first * 16; j < blocks * 16; j += 16) top = max(top, load(row + j));
            part_largest[r] = reduce_max(top) * shape.scale;
            // A row that sees nothing of this split has weights of zero, and is not merged below.
            f32x16 shift = set1(from < to ? part_largest[r] : 0.0f), sum = zero(), scale = set1(shape.scale);
            for (int j = first * 16; j < blocks * 16; j += 16) {
                f32x16 p = exp(sub(mul(load(row + j), scale), shift));
                store(row + j, p);
                sum = add(sum, p);
            }
            part_total[r] = reduce_add(sum);
        }

        int column = 0;
        for (; column + 16 * kWide <= head_dim; column += 16 * kWide)
            weigh_rows<kWide>(rows, scores, values, first * 16, end, head_dim, column, part);
        for (; column + 16 <= head_dim; column += 16)
            weigh_rows<1>(rows, scores, values, first * 16, end, head_dim, column, part);
        if (column < head_dim) weigh_tail(rows, scores, values, first * 16, end, head_dim, column, part);

        for (int r = 0; r < rows; ++r) {
            if (low[r] >= start + kSplit || high[r] <= start) continue;
            float* merged = result + r * int64_t{head_dim};
            const float* fresh = part + r * int64_t{head_dim};
            if (total[r] == 0.0f) {
                std::copy(fresh, fresh + head_dim, merged);
                largest[r] = part_largest[r];
                total[r] = part_total[r];
                continue;
            }
            const float top = std::max(largest[r], part_largest[r]);
            float kept[16], gained[16];
            store(kept, exp(set1(largest[r] - top)));
            store(gained, exp(set1(part_largest[r] - top)));
            f32x16 keep = set1(kept[0]), gain = set1(gained[0]);
            for_lanes(head_dim, [&](int64_t i, int count) {
                f32x16 old = mul(load_some(merged + i, count), keep);
                store_some(merged + i, fma(load_some(fresh + i, count), gain, old), count);
            });
            total[r] = std::fma(part_total[r], gained[0], total[r] * kept[0]);
            largest[r] = top;
        }
    }

    for (int r = 0; r < rows; ++r) {
        float* out =
            tile.out + (r / heads) * tile.out_stride + (tile.first_head + r % heads) * int64_t{head_dim};
        f32x16 scale = set1(1.0f / total[r]);
        for_lanes(head_dim, [&](int64_t i, int count) {
            store_some(out + i, mul(load_some(result + r * int64_t{head_dim} + i, count), scale), count);
        });
    }
}

static inline void attention(const KVLayer& layer, const AttentionShape& shape, const AttentionTile& tile,
                             float* scratch) {
    if (layer.half)
        attend_tile<f16>(layer, shape, tile, scratch);
    else
        attend_tile<float>(layer, shape, tile, scratch);
}

}  // namespace octavo::OCTAVO_TIER
