// int4 and int8 weights by int8 activations in plain C++: the same order as the other tiers.
#pragma once

#include "linear_float.h"

namespace octavo::portable {

template <int ROWS, int PANELS, Encoding E>
static inline void quantised_tile(const PackedWeight& weight, int64_t panel, const QuantisedRows& x,
                                  int64_t row, const LinearOutput& output) {
    const int64_t groups = weight.groups();
    constexpr int32_t bias = E == Encoding::Q8_0 ? 16 : E == Encoding::Q4_0 ? 1 : 0;
    for (int r = 0; r < ROWS; ++r) {
        const int8_t* q = x.q + row * weight.k + r * 4;
        const uint8_t* record = weight.panel(panel);
        int64_t index = row * groups + r;
        f32x16 acc = zero();
        for (int64_t g = 0; g < groups; ++g, record += record_bytes(E), index += ROWS) {
            int32_t sums[kPanel];
            for (int c = 0; c < kPanel; ++c) sums[c] = bias * x.biases[index];
            for (int j = 0; j < kGroup / 4; ++j, q += ROWS * 4)
                for (int c = 0; c < kPanel; ++c)
                    for (int i = 0; i < 4; ++i) {
                        int w;
                        if constexpr (E == Encoding::Q8_0)
                            w = record[j * 64 + c * 4 + i];
                        else
                            w = record[j / 2 * 64 + c * 4 + i] >> (j % 2 * 4) & 15;
                        sums[c] += w * q[i];
                    }
            const f16* scales = reinterpret_cast<const f16*>(record + quant_bytes(E));
            f32x16 dots = each_lane([&](int c) { return static_cast<float>(sums[c]); });
            acc = fma(dots, mul(load(scales), set1(x.scales[index])), acc);
            if constexpr (E == Encoding::Q4_1) acc = fma(load(scales + kPanel), set1(x.offsets[index]), acc);
        }
        finish_output(output, row + r, panel * kPanel, weight.n, acc);
    }
}

}  // namespace octavo::portable
