// How a tensor's values are stored in a checkpoint; octavo/formats/tensor.py has the same names, and
// block_quants.py, k_quants.py and codebook_quants.py say what the bytes mean.
#pragma once

#include <cstddef>
#include <cstdint>

namespace octavo {

// Values of a quantised tensor that are taken apart at a time.
constexpr int kGroup = 32;

enum class Encoding {
    F32,
    F16,
    BF16,
    F8_E4M3,  // a float32 scale, then 32 bytes
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    U8_1,
    Q2_K,
    Q4_K,
    Q5_K,
    Q6_K,
    IQ4_NL,
    IQ4_XS,
    MXFP4,
    NF4,
    FP4
};

// Whether its groups come to integer codes.
constexpr bool has_codes(Encoding encoding) { return encoding > Encoding::F8_E4M3; }

// What a 4-bit code of IQ4_NL and IQ4_XS stands for, twice what one of MXFP4 does, and the nearest integers
// to 112 times what one of bitsandbytes' NF4 and 120 times what one of its FP4 does.
constexpr int8_t kIQ4Values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
constexpr int8_t kMXFP4Values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
constexpr int8_t kNF4Values[16] = {-112, -78, -59, -44, -32, -21, -10, 0, 9, 18, 28, 38, 49, 63, 81, 112};
constexpr int8_t kFP4Values[16] = {0, 1, 80, 120, 40, 60, 20, 30, 0, -1, -80, -120, -40, -60, -20, -30};

// What the codes of an encoding pick from; null where they are numbers.
constexpr const int8_t* table_of(Encoding encoding) {
    switch (encoding) {
        case Encoding::IQ4_NL:
        case Encoding::IQ4_XS:
            return kIQ4Values;
        case Encoding::MXFP4:
            return kMXFP4Values;
        case Encoding::NF4:
            return kNF4Values;
        case Encoding::FP4:
            return kFP4Values;
        default:
            return nullptr;
    }
}

// value i = scales[i / 16] * (what codes[i] stands for) + minimums[i / 16]
struct Group {
    uint8_t codes[kGroup];  // as PackedWeight's forms store them
    float scales[2];
    float minimums[2];
};

size_t row_bytes(Encoding encoding, int64_t k);

// Group `index` of a row of a tensor that has codes.
void read_group(Encoding encoding, const uint8_t* row, int64_t index, Group& out);

// One row of a tensor as floats: exactly what NumPy makes of it.
void decode_row(Encoding encoding, const uint8_t* row, int64_t k, float* out);

}  // namespace octavo
