// 4-bit and 8-bit weights by int8 activations in plain C++: the same order as the other tiers.
#pragma once

#include "kernels/linear_float.h"

namespace octavo::portable {

template <int ROWS, int PANELS, Form F>
static inline void quantised_tile(const PackedWeight& weight, int64_t panel, const QuantisedRows& x,
                                  int64_t row, int64_t /*fetch_ahead*/, const LinearOutput& output) {
    const int64_t groups = weight.groups();
    constexpr int kSums = has_halves(F) ? 2 : 1, kQuads = 8 / kSums;
    const int8_t* table = table_of(weight.encoding);
    for (int r = 0; r < ROWS; ++r) {
        const int8_t* q = x.q + row * weight.k + r * 4;
        const uint8_t* record = weight.panel(panel);
        int64_t index = row * groups + r;
        f32x16 acc = zero();
        for (int64_t g = 0; g < groups; ++g, record += record_bytes(F), index += ROWS) {
            const f16* scales = reinterpret_cast<const f16*>(record + code_bytes(F));
            for (int s = 0; s < kSums; ++s) {
                int32_t sums[kPanel] = {};
                for (int j = s * kQuads; j < (s + 1) * kQuads; ++j, q += ROWS * 4)
                    for (int c = 0; c < kPanel; ++c)
                        for (int i = 0; i < 4; ++i) {
                            int code;
                            if constexpr (has_nibbles(F))
                                code = record[j / 2 * 64 + c * 4 + i] >> (j % 2 * 4) & 15;
                            else
                                code = record[j * 64 + c * 4 + i];
                            sums[c] += (has_table(F) ? table[code] : number_of(F, code)) * q[i];
                        }
                f32x16 dots = each_lane([&](int c) { return static_cast<float>(sums[c]); });
                acc = fma(dots, mul(load(scales + s * kPanel), set1(x.scales[index])), acc);
            }
            if constexpr (has_minimum(F))
                for (int s = 0; s < kSums; ++s) {
                    const float offset = kSums == 2 ? x.offset_of_half(index, s) : x.offsets[index];
                    acc = fma(load(scales + (kSums + s) * kPanel), set1(offset), acc);
                }
        }
        finish_output(output, row + r, panel * kPanel, weight.n, acc);
    }
}

}  // namespace octavo::portable
