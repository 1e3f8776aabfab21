// Linear weights laid out for the kernels: panels of 16 output columns, K order kept within each.
//
//   floats        [panel][K][16] items of float, f16 or bf16
//   E4M3          [panel][K / 32] { [32][16] bytes; [16] float32 scales }
//   8-bit codes   [panel][K / 32] { [8][16][4] bytes; scales }
//   4-bit codes   [panel][K / 32] { [4][16][4] bytes; scales }
//                 byte (j, column, i) holds k = 8 j + i in its low nibble and k = 8 j + 4 + i in its high one
//   scales        [16] f16, then those of k = 16 to 31 where the form has halves, then as many minimums where
//                 it has them
//
// A panel is read from its first byte to its last, and the next one follows it.
// Four consecutive k of one column lie in one 32-bit lane, what vpdpbusd and vpmaddubsw reduce over.
#pragma once

#include "weights/encoding.h"
#include "weights/half.h"

namespace octavo {

constexpr int kPanel = 16;

enum class Form {
    F32,
    F16,
    BF16,
    Float8,       // E4M3
    Int8,         // codes are q + 128
    Int8Halves,   // the same, with a scale for each 16 k
    Int8Minimum,  // codes are q, 0 to 255
    Int4,         // codes are q + 8
    Int4Minimum,  // codes are q, 0 to 15
    Int4HalvesMinimum,
    Table4  // codes pick from the encoding's table
};

constexpr Form form_of(Encoding encoding) {
    switch (encoding) {
        case Encoding::F32:
            return Form::F32;
        case Encoding::F16:
            return Form::F16;
        case Encoding::BF16:
            return Form::BF16;
        case Encoding::F8_E4M3:
            return Form::Float8;
        case Encoding::Q4_0:
            return Form::Int4;
        case Encoding::Q4_1:
        case Encoding::Q4_K:
            return Form::Int4Minimum;
        case Encoding::Q5_0:
        case Encoding::Q8_0:
            return Form::Int8;
        case Encoding::Q5_1:
        case Encoding::Q5_K:
        case Encoding::U8_1:
            return Form::Int8Minimum;
        case Encoding::Q6_K:
            return Form::Int8Halves;
        case Encoding::Q2_K:
            return Form::Int4HalvesMinimum;
        case Encoding::IQ4_NL:
        case Encoding::IQ4_XS:
        case Encoding::MXFP4:
        case Encoding::NF4:
        case Encoding::FP4:
            return Form::Table4;
    }
    return Form::F32;
}

constexpr bool is_integer(Form form) { return form > Form::Float8; }
constexpr bool has_nibbles(Form form) { return form >= Form::Int4; }
constexpr bool has_minimum(Form form) {
    return form == Form::Int8Minimum || form == Form::Int4Minimum || form == Form::Int4HalvesMinimum;
}
constexpr bool has_halves(Form form) { return form == Form::Int8Halves || form == Form::Int4HalvesMinimum; }
constexpr bool has_table(Form form) { return form == Form::Table4; }
constexpr int num_scales(Form form) { return (has_halves(form) ? 2 : 1) * (has_minimum(form) ? 2 : 1); }

// What a code of a form without a table stands for.
constexpr int number_of(Form form, int code) {
    return code - (form == Form::Int4 ? 8 : has_minimum(form) ? 0 : 128);
}

// Bytes of the codes, and of the whole record, of one panel and group.
constexpr int code_bytes(Form form) { return has_nibbles(form) ? 256 : 512; }
constexpr int kFloat8RecordBytes = kGroup * kPanel + kPanel * 4;
constexpr int record_bytes(Form form) { return code_bytes(form) + kPanel * 2 * num_scales(form); }

struct PackedWeight {
    Encoding encoding;  // of the raw tensor
    int64_t n;          // output columns
    int64_t k;
    const uint8_t* data;             // panels
    const int32_t* order = nullptr;  // [k]: the column of the input that each k meets, null for its own

    Form form() const { return form_of(encoding); }
    int64_t panels() const { return (n + kPanel - 1) / kPanel; }
    int64_t groups() const { return k / kGroup; }
    size_t panel_bytes() const;
    size_t bytes() const { return panels() * panel_bytes(); }

    const uint8_t* panel(int64_t index) const { return data + index * panel_bytes(); }

    // Fills `out` with panel `index` from the raw rows of the tensor; columns past n become zeros. Scales and
    // minimums are rounded to f16.
    void pack_panel(int64_t index, const uint8_t* raw, uint8_t* out) const;
};

}  // namespace octavo
