#include "packed_weight.h"

#include <algorithm>
#include <cstring>

namespace octavo {

size_t row_bytes(Encoding encoding, int64_t k) {
    switch (encoding) {
        case Encoding::F32:
            return k * 4;
        case Encoding::F16:
        case Encoding::BF16:
            return k * 2;
        case Encoding::Q8_0:
            return k / kGroup * 34;
        case Encoding::Q4_0:
            return k / kGroup * 18;
        case Encoding::Q4_1:
            return k / kGroup * 20;
    }
    return 0;
}

namespace {

f16 read_f16(const uint8_t* p) {
    f16 out;
    std::memcpy(&out, p, 2);
    return out;
}

// Bytes before a stored group's quants: the scale, and the minimum where there is one.
int header_bytes(Encoding encoding) { return encoding == Encoding::Q4_1 ? 4 : 2; }

int nibble(const uint8_t* quants, int i) { return i < 16 ? quants[i] & 15 : quants[i - 16] >> 4; }

}  // namespace

void decode_row(Encoding encoding, const uint8_t* row, int64_t k, float* out) {
    switch (encoding) {
        case Encoding::F32:
            std::memcpy(out, row, k * 4);
            return;
        case Encoding::F16:
            for (int64_t i = 0; i < k; ++i) out[i] = to_float(read_f16(row + 2 * i));
            return;
        case Encoding::BF16:
            for (int64_t i = 0; i < k; ++i) out[i] = to_float(bf16{read_f16(row + 2 * i).bits});
            return;
        case Encoding::Q8_0:
            for (int64_t g = 0; g < k / kGroup; ++g, row += 34) {
                float scale = to_float(read_f16(row));
                for (int i = 0; i < kGroup; ++i) *out++ = scale * static_cast<int8_t>(row[2 + i]);
            }
            return;
        case Encoding::Q4_0:
            for (int64_t g = 0; g < k / kGroup; ++g, row += 18) {
                float scale = to_float(read_f16(row));
                for (int i = 0; i < kGroup; ++i) *out++ = scale * (nibble(row + 2, i) - 8);
            }
            return;
        case Encoding::Q4_1:
            for (int64_t g = 0; g < k / kGroup; ++g, row += 20) {
                float scale = to_float(read_f16(row)), minimum = to_float(read_f16(row + 2));
                for (int i = 0; i < kGroup; ++i) *out++ = scale * nibble(row + 4, i) + minimum;
            }
            return;
    }
}

size_t PackedWeight::panel_bytes() const {
    if (!is_integer(encoding)) return row_bytes(encoding, k) * kPanel;
    return groups() * record_bytes(encoding);
}

void PackedWeight::pack_panel(int64_t index, const uint8_t* raw, uint8_t* out) const {
    const int64_t columns = std::min<int64_t>(kPanel, n - index * kPanel);
    if (columns < kPanel) std::memset(out, 0, panel_bytes());
    const size_t stride = row_bytes(encoding, k);
    for (int64_t column = 0; column < columns; ++column) {
        const uint8_t* row = raw + (index * kPanel + column) * stride;
        if (!is_integer(encoding)) {
            const size_t item = encoding == Encoding::F32 ? 4 : 2;
            for (int64_t i = 0; i < k; ++i)
                std::memcpy(out + (i * kPanel + column) * item, row + i * item, item);
            continue;
        }
        uint8_t* record = out;
        for (int64_t g = 0; g < groups(); ++g, record += record_bytes(encoding)) {
            uint8_t* scales = record + quant_bytes(encoding);
            std::memcpy(scales + column * 2, row, 2);
            if (encoding == Encoding::Q4_1) std::memcpy(scales + (kPanel + column) * 2, row + 2, 2);
            uint8_t* quants = record + column * 4;
            const uint8_t* stored = row + header_bytes(encoding);
            if (encoding == Encoding::Q8_0) {
                for (int i = 0; i < kGroup; ++i)
                    quants[i / 4 * 64 + i % 4] = static_cast<uint8_t>(stored[i] ^ 0x80);
            } else {
                for (int j = 0; j < 4; ++j)
                    for (int i = 0; i < 4; ++i)
                        quants[j * 64 + i] = static_cast<uint8_t>(nibble(stored, 8 * j + i) |
                                                                  nibble(stored, 8 * j + 4 + i) << 4);
            }
            row += row_bytes(encoding, kGroup);
        }
    }
}

}  // namespace octavo
