#include "weights/packed_weight.h"

#include <algorithm>
#include <cstring>

namespace octavo {

namespace {

void store_f16(uint8_t* p, float value) {
    const f16 half = to_f16(value);
    std::memcpy(p, &half, 2);
}

// A group of one column into its record.
void pack_group(Form form, const Group& group, int64_t column, uint8_t* record) {
    uint8_t* codes = record + column * 4;
    if (has_nibbles(form)) {
        for (int j = 0; j < 4; ++j)
            for (int i = 0; i < 4; ++i)
                codes[j * 64 + i] =
                    static_cast<uint8_t>(group.codes[8 * j + i] | group.codes[8 * j + 4 + i] << 4);
    } else {
        for (int j = 0; j < 8; ++j) std::memcpy(codes + j * 64, group.codes + 4 * j, 4);
    }
    uint8_t* scales = record + code_bytes(form);
    const int halves = has_halves(form) ? 2 : 1;
    for (int half = 0; half < halves; ++half) {
        store_f16(scales + (half * kPanel + column) * 2, group.scales[half]);
        if (has_minimum(form))
            store_f16(scales + ((halves + half) * kPanel + column) * 2, group.minimums[half]);
    }
}

// Transposes `columns` rows of k items, some k at a time so that what is written stays in the nearest cache.
template <typename Item>
void pack_items(const uint8_t* rows, int64_t columns, int64_t k, uint8_t* out) {
    constexpr int64_t kBlock = 64;
    for (int64_t first = 0; first < k; first += kBlock) {
        const int64_t last = std::min(first + kBlock, k);
        for (int64_t column = 0; column < columns; ++column) {
            const uint8_t* row = rows + column * k * static_cast<int64_t>(sizeof(Item));
            for (int64_t i = first; i < last; ++i)
                std::memcpy(out + (i * kPanel + column) * sizeof(Item), row + i * sizeof(Item), sizeof(Item));
        }
    }
}

}  // namespace

size_t PackedWeight::panel_bytes() const {
    if (!is_integer(form())) return row_bytes(encoding, k) * kPanel;
    return groups() * record_bytes(form());
}

void PackedWeight::pack_panel(int64_t index, const uint8_t* raw, uint8_t* out) const {
    const int64_t columns = std::min<int64_t>(kPanel, n - index * kPanel);
    if (columns < kPanel) std::memset(out, 0, panel_bytes());
    const size_t stride = row_bytes(encoding, k);
    if (form() == Form::F32) return pack_items<uint32_t>(raw + index * kPanel * stride, columns, k, out);
    if (form() == Form::F16 || form() == Form::BF16)
        return pack_items<uint16_t>(raw + index * kPanel * stride, columns, k, out);
    Group group;
    for (int64_t column = 0; column < columns; ++column) {
        const uint8_t* row = raw + (index * kPanel + column) * stride;
        if (is_integer(form())) {
            uint8_t* record = out;
            for (int64_t g = 0; g < groups(); ++g, record += record_bytes(form())) {
                read_group(encoding, row, g, group);
                pack_group(form(), group, column, record);
            }
            continue;
        }
        uint8_t* record = out;
        for (int64_t g = 0; g < groups(); ++g, record += kFloat8RecordBytes, row += 4 + kGroup) {
            for (int i = 0; i < kGroup; ++i) record[i * kPanel + column] = row[4 + i];
            std::memcpy(record + kGroup * kPanel + column * 4, row, 4);
        }
    }
}

}  // namespace octavo
