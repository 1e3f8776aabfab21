// Linear weights laid out for the kernels: panels of 16 output columns, K order kept within each.
//
//   float   [panel][K][16] items of float, f16 or bf16
//   int4    [panel][K / 32] { [4][16][4] bytes; [16] f16 scales; [16] f16 minimums (Q4_1) }
//           byte (j, column, i) holds k = 8 j + i in its low nibble and k = 8 j + 4 + i in its high one
//   int8    [panel][K / 32] { [8][16][4] bytes q + 128; [16] f16 scales }
//
// A panel is read from its first byte to its last, and the next one follows it.
// Four consecutive k of one column lie in one 32-bit lane, what vpdpbusd and vpmaddubsw reduce over.
#pragma once

#include <cstddef>
#include <cstdint>

#include "half.h"

namespace octavo {

constexpr int kPanel = 16;
constexpr int kGroup = 32;

enum class Encoding { F32, F16, BF16, Q8_0, Q4_0, Q4_1 };

constexpr bool is_integer(Encoding encoding) { return encoding > Encoding::BF16; }

// Bytes of the quants, and of the whole record, of one panel and group.
constexpr int quant_bytes(Encoding encoding) { return encoding == Encoding::Q8_0 ? 512 : 256; }
constexpr int record_bytes(Encoding encoding) {
    return quant_bytes(encoding) + kPanel * 2 * (encoding == Encoding::Q4_1 ? 2 : 1);
}

size_t row_bytes(Encoding encoding, int64_t k);

// One row of a raw tensor as floats.
void decode_row(Encoding encoding, const uint8_t* row, int64_t k, float* out);

struct PackedWeight {
    Encoding encoding;
    int64_t n;  // output columns
    int64_t k;
    const uint8_t* data;  // panels

    int64_t panels() const { return (n + kPanel - 1) / kPanel; }
    int64_t groups() const { return k / kGroup; }
    size_t panel_bytes() const;
    size_t bytes() const { return panels() * panel_bytes(); }

    const uint8_t* panel(int64_t index) const { return data + index * panel_bytes(); }

    // Fills `out` with panel `index` from the raw rows of the tensor; columns past n become zeros.
    void pack_panel(int64_t index, const uint8_t* raw, uint8_t* out) const;
};

}  // namespace octavo
