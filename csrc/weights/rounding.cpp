#include "weights/rounding.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "weights/half.h"

namespace octavo {

namespace {

// Values that are rounded at a time: their floats stay in a core's cache.
constexpr int64_t kChunkValues = 1 << 14;

void check(RoundingFault fault) {
    if (fault == RoundingFault::NotFinite) throw std::domain_error("has values that are not finite");
    if (fault == RoundingFault::TooLarge)
        throw std::domain_error("has values that are too large for a float16 scale");
}

uint8_t* put_half(uint8_t* out, float value) {
    const f16 half = to_f16(value);
    std::memcpy(out, &half, 2);
    return out + 2;
}

uint8_t* put_nibbles(uint8_t* out, const uint8_t* codes, int offset) {
    for (int i = 0; i < kGroup / 2; ++i)
        out[i] = static_cast<uint8_t>((codes[i] + offset) | (codes[i + kGroup / 2] + offset) << 4);
    return out + kGroup / 2;
}

uint8_t* put_block(Rounding rounding, uint8_t* out, const uint8_t* codes, float scale, float offset) {
    switch (rounding) {
        case Rounding::Int4:
            return put_nibbles(put_half(out, scale), codes, 8);
        case Rounding::Int4Minimums:
            return put_nibbles(put_half(put_half(out, scale), offset), codes, 0);
        case Rounding::Float8:
            std::memcpy(out, &scale, 4);
            out += 4;
            break;
        default:
            out = put_half(out, scale);
    }
    std::memcpy(out, codes, kGroup);
    return out + kGroup;
}

}  // namespace

PackedWeight panels_of(Rounding rounding, int64_t count, int64_t cols) {
    const auto encoding = [&] {
        switch (rounding) {
            case Rounding::Int8:
                return Encoding::Q8_0;
            case Rounding::Int4:
                return Encoding::Q4_0;
            case Rounding::Int4Minimums:
                return Encoding::Q4_1;
            case Rounding::Float8:
                return Encoding::F8_E4M3;
            default:
                throw std::invalid_argument("no kernel runs zero points");
        }
    };
    return {encoding(), count, cols, nullptr};
}

void round_to_groups(const Kernels& kernels, Rounding rounding, const RowsToRound& rows, int64_t count,
                     const RoundedGroups& out) {
    const int64_t in_row = rows.cols / rows.size;
    const int64_t step = std::max<int64_t>(1, kChunkValues / rows.cols);
    std::vector<float> scratch(std::min(step, count) * rows.cols);
    for (int64_t first = 0; first < count; first += step) {
        float* offsets = out.offsets ? out.offsets + first * in_row : nullptr;
        check(kernels.rounding.round_rows(
            rounding, rows, first, std::min(step, count - first), scratch.data(),
            {out.codes + first * rows.cols, out.scales + first * in_row, offsets}));
    }
}

void round_to_panels(const Kernels& kernels, Rounding rounding, const RowsToRound& rows, int64_t count,
                     const int32_t* order, uint8_t* out) {
    const int64_t groups = rows.cols / kGroup;
    std::vector<float> scratch(rows.cols), scales(groups), offsets(groups);
    std::vector<uint8_t> codes(rows.cols),
        blocks(kPanel * row_bytes(panels_of(rounding, 1, rows.cols).encoding, rows.cols));
    for (int64_t first = 0; first < count; first += kPanel) {
        const PackedWeight panel = panels_of(rounding, std::min<int64_t>(kPanel, count - first), rows.cols);
        uint8_t* block = blocks.data();
        for (int64_t row = first; row < first + panel.n; ++row) {
            check(kernels.rounding.round_rows(rounding, rows, order ? order[row] : row, 1, scratch.data(),
                                              {codes.data(), scales.data(), offsets.data()}));
            for (int64_t group = 0; group < groups; ++group)
                block =
                    put_block(rounding, block, codes.data() + group * kGroup, scales[group], offsets[group]);
        }
        panel.pack_panel(0, blocks.data(), out);
        out += panel.panel_bytes();
    }
}

}  // namespace octavo
