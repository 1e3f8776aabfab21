// 4-bit and 8-bit weights by int8 activations with sdot, which adds four products to each of four lanes and
// takes the four activations of a row from any lane of a register: a lane is a row of the tile.
//
// Bound: two sdot a cycle (Neoverse N1; four on V1), 16 multiply-adds each. A group of 32 k takes 8 of them
// for each row and four columns, and its scaling three float operations on the same ports: 73% of the integer
// peak, less what makes bytes of nibbles. Eight rows share that.
#pragma once

#include <utility>

#include "kernels/linear_float.h"

namespace octavo::neon {

// f(0) ... f(COUNT - 1), each number known to the compiler: a lane must be.
template <int COUNT, typename F>
static inline void unrolled(F f) {
    [&]<int... I>(std::integer_sequence<int, I...>) {
        (f(std::integral_constant<int, I>()), ...);
    }(std::make_integer_sequence<int, COUNT>());
}

static inline float32x4_t load_four(const f16* p) {
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(&p->bits)));
}

// Four k of four columns as signed bytes: vector J of the eight of a group. They are what the codes stand
// for, but 8 more for Int4 and 128 less for Int8Minimum.
template <Form F, int J>
static inline int8x16_t signed_weights(const uint8_t* codes, int column, int8x16_t table) {
    if constexpr (has_nibbles(F)) {
        const uint8x16_t both = vld1q_u8(codes + J / 2 * 64 + column * 4);
        const uint8x16_t nibbles = J % 2 ? vshrq_n_u8(both, 4) : vandq_u8(both, vdupq_n_u8(15));
        if constexpr (has_table(F)) return vqtbl1q_s8(table, nibbles);
        return vreinterpretq_s8_u8(nibbles);
    }
    return vreinterpretq_s8_u8(veorq_u8(vld1q_u8(codes + J * 64 + column * 4), vdupq_n_u8(0x80)));
}

// What the sum of group `index` of a row starts from: it undoes the difference.
template <Form F>
static inline int32x4_t start_of_sum(const QuantisedRows& x, int64_t index) {
    if constexpr (F == Form::Int4) return vdupq_n_s32(x.biases[index]);
    if constexpr (F == Form::Int8Minimum) return vdupq_n_s32(-16 * x.biases[index]);
    return vdupq_n_s32(0);
}

// sums[row][i] = the integer dot products of vectors [FIRST, FIRST + COUNT) of a group's eight, for columns
// [column + 4 i, column + 4 i + 4).
template <int ROWS, int WIDTH, int FIRST, int COUNT, Form F>
static inline void dot(const uint8_t* codes, const int8_t* q, int column, int8x16_t table,
                       int32x4_t (&sums)[ROWS][WIDTH]) {
    unrolled<COUNT>([&](auto j) {
        constexpr int kVector = FIRST + decltype(j)::value;
        int8x16_t w[WIDTH];
        for (int i = 0; i < WIDTH; ++i) w[i] = signed_weights<F, kVector>(codes, column + 4 * i, table);
        unrolled<ROWS>([&](auto r) {
            constexpr int kWord = kVector * ROWS + decltype(r)::value;
            const int8x16_t four = vld1q_s8(q + kWord / 4 * 16);
            for (int i = 0; i < WIDTH; ++i) sums[r][i] = vdotq_laneq_s32(sums[r][i], w[i], four, kWord % 4);
        });
        // The compiler would take one sum after the other, each waiting for itself.
        unrolled<ROWS * WIDTH>([&](auto i) {
            int32x4_t sum = sums[i / WIDTH][i % WIDTH];
            asm volatile("" : "+w"(sum));
            sums[i / WIDTH][i % WIDTH] = sum;
        });
    });
}

template <int ROWS, int PANELS, Form F>
static inline void quantised_tile(const PackedWeight& weight, int64_t panel, const QuantisedRows& x,
                                  int64_t row, int64_t fetch_ahead, const LinearOutput& output) {
    // A group has one sum, or one for each half.
    constexpr int kSums = has_halves(F) ? 2 : 1, kVectors = 8 / kSums;
    // Of the sums of more rows half a panel fills the registers.
    constexpr int kWidth = ROWS > 2 ? 2 : 4;
    const int64_t groups = weight.groups();
    const uint8_t* record = weight.panel(panel);
    const int8_t* q = x.q + row * weight.k;
    int64_t index = row * groups;  // of the group and the first row
    int8x16_t table = vdupq_n_s8(0);
    if constexpr (has_table(F)) table = vld1q_s8(table_of(weight.encoding));
    float acc[ROWS][kPanel] = {};  // in the first-level cache
    for (int64_t g = 0; g < groups; ++g) {
        for (int line = 0; line < record_bytes(F); line += 64)
            __builtin_prefetch(record + fetch_ahead + line);
        const f16* scales = reinterpret_cast<const f16*>(record + code_bytes(F));
        for (int column = 0; column < kPanel; column += 4 * kWidth)
            unrolled<kSums>([&](auto s) {
                constexpr int kHalf = decltype(s)::value;
                asm volatile("" : "+r"(q));  // which keeps the compiler from loading all of it beforehand
                int32x4_t sums[ROWS][kWidth];
                for (int r = 0; r < ROWS; ++r)
                    for (int i = 0; i < kWidth; ++i) sums[r][i] = start_of_sum<F>(x, index + r);
                dot<ROWS, kWidth, kHalf * kVectors, kVectors, F>(record, q, column, table, sums);
                for (int i = 0; i < kWidth; ++i) {
                    const float32x4_t d = load_four(scales + kHalf * kPanel + column + 4 * i);
                    for (int r = 0; r < ROWS; ++r) {
                        float* total = acc[r] + column + 4 * i;
                        const float32x4_t scale = vmulq_n_f32(d, x.scales[index + r]);
                        vst1q_f32(total, vfmaq_f32(vld1q_f32(total), vcvtq_f32_s32(sums[r][i]), scale));
                    }
                }
            });
        if constexpr (has_minimum(F))
            for (int s = 0; s < kSums; ++s)
                for (int column = 0; column < kPanel; column += 4) {
                    const float32x4_t m = load_four(scales + (kSums + s) * kPanel + column);
                    for (int r = 0; r < ROWS; ++r) {
                        const float offset =
                            kSums == 2 ? x.offset_of_half(index + r, s) : x.offsets[index + r];
                        float* total = acc[r] + column;
                        vst1q_f32(total, vfmaq_n_f32(vld1q_f32(total), m, offset));
                    }
                }
        record += record_bytes(F);
        q += kGroup * ROWS;
        index += ROWS;
    }
    for (int r = 0; r < ROWS; ++r) finish_output(output, row + r, panel * kPanel, weight.n, load(acc[r]));
}

}  // namespace octavo::neon
