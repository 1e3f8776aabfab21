#include "weights/encoding.h"

#include <cmath>
#include <cstring>

#include "weights/half.h"
#include "weights/packed_weight.h"

namespace octavo {

namespace {

constexpr int kSuperGroups = 8;  // groups in a block of 256

struct Block {
    int values, bytes;
};

constexpr Block block_of(Encoding encoding) {
    switch (encoding) {
        case Encoding::F32:
            return {1, 4};
        case Encoding::F16:
        case Encoding::BF16:
            return {1, 2};
        case Encoding::F8_E4M3:
            return {32, 36};
        case Encoding::Q4_0:
        case Encoding::IQ4_NL:
        case Encoding::NF4:
        case Encoding::FP4:
            return {32, 18};
        case Encoding::Q4_1:
            return {32, 20};
        case Encoding::Q5_0:
            return {32, 22};
        case Encoding::Q5_1:
            return {32, 24};
        case Encoding::Q8_0:
            return {32, 34};
        case Encoding::U8_1:
            return {32, 36};
        case Encoding::Q2_K:
            return {256, 84};
        case Encoding::Q4_K:
            return {256, 144};
        case Encoding::Q5_K:
            return {256, 176};
        case Encoding::Q6_K:
            return {256, 210};
        case Encoding::IQ4_XS:
            return {256, 136};
        case Encoding::MXFP4:
            return {32, 17};
    }
    return {1, 0};
}

float half_at(const uint8_t* p) {
    f16 out;
    std::memcpy(&out, p, 2);
    return to_float(out);
}

// The first 16 codes in the low nibbles, the others in the high ones.
void split_nibbles(const uint8_t* packed, uint8_t* codes) {
    for (int i = 0; i < 16; ++i) {
        codes[i] = packed[i] & 15;
        codes[16 + i] = packed[i] >> 4;
    }
}

void add_fifth_bits(const uint8_t* bits, uint8_t* codes) {
    for (int i = 0; i < kGroup; ++i) codes[i] |= (bits[i / 8] >> i % 8 & 1) << 4;
}

// A six-bit scale and minimum of Q4_K and Q5_K, times d and dmin.
void read_k_scales(const uint8_t* block, int group, Group& out) {
    const uint8_t *first = block + 4, *second = block + 8, *third = block + 12;
    int scale, minimum;
    if (group < 4) {
        scale = first[group] & 63;
        minimum = second[group] & 63;
    } else {
        const int i = group - 4;
        scale = (third[i] & 15) | (first[i] >> 2 & 48);
        minimum = third[i] >> 4 | (second[i] >> 2 & 48);
    }
    out.scales[0] = half_at(block) * static_cast<float>(scale);
    out.minimums[0] = -(half_at(block + 2) * static_cast<float>(minimum));
}

// Two groups share the 32 bytes that begin at `packed`: low nibbles, then high ones.
void read_k_nibbles(const uint8_t* packed, int group, uint8_t* codes) {
    const uint8_t* run = packed + group / 2 * 32;
    for (int i = 0; i < kGroup; ++i) codes[i] = run[i] >> group % 2 * 4 & 15;
}

void read_q2_k(const uint8_t* block, int group, Group& out) {
    const uint8_t* run = block + 16 + group / 4 * 32;
    for (int i = 0; i < kGroup; ++i) out.codes[i] = run[i] >> group % 4 * 2 & 3;
    const float d = half_at(block + 80), dmin = half_at(block + 82);
    for (int half = 0; half < 2; ++half) {
        const uint8_t both = block[2 * group + half];
        out.scales[half] = d * static_cast<float>(both & 15);
        out.minimums[half] = -(dmin * static_cast<float>(both >> 4));
    }
}

void read_q6_k(const uint8_t* block, int group, Group& out) {
    const uint8_t* low = block + group / 4 * 64 + group % 2 * 32;
    const uint8_t* high = block + 128 + group / 4 * 32;
    for (int i = 0; i < kGroup; ++i) {
        const int code = (low[i] >> group % 4 / 2 * 4 & 15) | (high[i] >> group % 4 * 2 & 3) << 4;
        out.codes[i] = static_cast<uint8_t>(code - 32 + 128);
    }
    const float d = half_at(block + 208);
    for (int half = 0; half < 2; ++half)
        out.scales[half] = d * static_cast<float>(static_cast<int8_t>(block[192 + 2 * group + half]));
}

void read_iq4_xs(const uint8_t* block, int group, Group& out) {
    const int high = (block[2] | block[3] << 8) >> 2 * group & 3;
    const int low = block[4 + group / 2] >> group % 2 * 4 & 15;
    out.scales[0] = half_at(block) * static_cast<float>((low | high << 4) - 32);
    split_nibbles(block + 8 + group * 16, out.codes);
}

}  // namespace

size_t row_bytes(Encoding encoding, int64_t k) {
    const Block block = block_of(encoding);
    return static_cast<size_t>(k / block.values * block.bytes);
}

void read_group(Encoding encoding, const uint8_t* row, int64_t index, Group& out) {
    const Block size = block_of(encoding);
    const int64_t groups = size.values / kGroup;
    const uint8_t* block = row + index / groups * size.bytes;
    const int group = static_cast<int>(index % groups);
    out.minimums[0] = 0;
    if (encoding != Encoding::MXFP4) out.scales[0] = half_at(block);
    switch (encoding) {
        case Encoding::Q4_0:
        case Encoding::IQ4_NL:
        case Encoding::NF4:
        case Encoding::FP4:
            split_nibbles(block + 2, out.codes);
            break;
        case Encoding::Q4_1:
            out.minimums[0] = half_at(block + 2);
            split_nibbles(block + 4, out.codes);
            break;
        case Encoding::Q5_0:
            split_nibbles(block + 6, out.codes);
            add_fifth_bits(block + 2, out.codes);
            for (uint8_t& code : out.codes) code += 128 - 16;
            break;
        case Encoding::Q5_1:
            out.minimums[0] = half_at(block + 2);
            split_nibbles(block + 8, out.codes);
            add_fifth_bits(block + 4, out.codes);
            break;
        case Encoding::Q8_0:
            for (int i = 0; i < kGroup; ++i) out.codes[i] = block[2 + i] ^ 0x80;
            break;
        case Encoding::U8_1:
            out.minimums[0] = half_at(block + 2);
            std::memcpy(out.codes, block + 4, kGroup);
            break;
        case Encoding::Q2_K:
            return read_q2_k(block, group, out);
        case Encoding::Q4_K:
            read_k_scales(block, group, out);
            read_k_nibbles(block + 16, group, out.codes);
            break;
        case Encoding::Q5_K:
            read_k_scales(block, group, out);
            read_k_nibbles(block + 48, group, out.codes);
            for (int i = 0; i < kGroup; ++i) out.codes[i] |= (block[16 + i] >> group & 1) << 4;
            break;
        case Encoding::Q6_K:
            out.minimums[1] = 0;
            return read_q6_k(block, group, out);
        case Encoding::IQ4_XS:
            read_iq4_xs(block, group, out);
            break;
        case Encoding::MXFP4:  // half of 2^(e - 127): the values are doubled
            out.scales[0] = std::ldexp(1.0f, block[0] - 128);
            split_nibbles(block + 1, out.codes);
            break;
        default:
            break;
    }
    out.scales[1] = out.scales[0];
    out.minimums[1] = out.minimums[0];
}

void decode_row(Encoding encoding, const uint8_t* row, int64_t k, float* out) {
    if (encoding == Encoding::F32) {
        std::memcpy(out, row, k * 4);
        return;
    }
    if (encoding == Encoding::F8_E4M3) {
        for (int64_t g = 0; g < k / kGroup; ++g, row += row_bytes(encoding, kGroup)) {
            float scale;
            std::memcpy(&scale, row, 4);
            for (int i = 0; i < kGroup; ++i) *out++ = to_float(e4m3{row[4 + i]}) * scale;
        }
        return;
    }
    if (!has_codes(encoding)) {
        for (int64_t i = 0; i < k; ++i) {
            f16 half;
            std::memcpy(&half, row + 2 * i, 2);
            out[i] = encoding == Encoding::F16 ? to_float(half) : to_float(bf16{half.bits});
        }
        return;
    }
    const Form form = form_of(encoding);
    const int8_t* table = table_of(encoding);
    Group group;
    for (int64_t g = 0; g < k / kGroup; ++g) {
        read_group(encoding, row, g, group);
        for (int i = 0; i < kGroup; ++i) {
            const int number = table ? table[group.codes[i]] : number_of(form, group.codes[i]);
            const float value = group.scales[i / 16] * static_cast<float>(number);
            *out++ = has_minimum(form) ? value + group.minimums[i / 16] : value;
        }
    }
}

}  // namespace octavo
