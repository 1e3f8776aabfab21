// int4 and int8 weights by int8 activations in plain C++: the same order as the other tiers.
#pragma once

#include "linear_float.h"

namespace octavo::portable {

template <int ROWS, Encoding E>
static inline void quantised_tile(const PackedWeight& weight, int64_t panel, const QuantisedRows& x,
                                  int64_t row, const LinearOutput& output) {
    const int64_t groups = weight.groups(), k = weight.k;
    constexpr int32_t bias = E == Encoding::Q8_0 ? -128 : E == Encoding::Q4_0 ? -8 : 0;
    for (int r = 0; r < ROWS; ++r) {
        const int8_t* q = x.q + (row + r) * k;
        const uint8_t* quants = weight.panel(panel);
        f32x16 acc = zero();
        for (int64_t g = 0; g < groups; ++g, q += kGroup) {
            const int64_t index = (row + r) * groups + g;
            int32_t sums[kPanel];
            for (int c = 0; c < kPanel; ++c) sums[c] = bias * x.sums[index];
            for (int j = 0; j < kGroup / 4; ++j)
                for (int c = 0; c < kPanel; ++c)
                    for (int i = 0; i < 4; ++i) {
                        int w;
                        if constexpr (E == Encoding::Q8_0)
                            w = quants[j * 64 + c * 4 + i];
                        else
                            w = quants[j / 2 * 64 + c * 4 + i] >> (j % 2 * 4) & 15;
                        sums[c] += w * q[j * 4 + i];
                    }
            quants += E == Encoding::Q8_0 ? 512 : 256;
            f32x16 dots = each_lane([&](int c) { return static_cast<float>(sums[c]); });
            f32x16 scale = mul(load(weight.scales(panel) + g * kPanel), set1(x.scales[index]));
            acc = fma(dots, scale, acc);
            if constexpr (E == Encoding::Q4_1)
                acc = fma(load(weight.minimums(panel) + g * kPanel), set1(x.offsets[index]), acc);
        }
        finish_output(output, row + r, panel * kPanel, weight.n, acc);
    }
}

constexpr int kTileRows = 4;

}  // namespace octavo::portable
