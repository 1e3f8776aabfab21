// From floats to codes and scales: octavo/formats/rounding.py says what each rounding is.
//
// Sixteen groups are rounded beside each other, a lane each: no sum depends on how wide a vector is. The
// order of the sums is NumPy's, so that its result is this one, bit for bit.
#pragma once

#include <algorithm>
#include <cmath>

#include "kernels/simd/simd.h"
#include "kernels/tables/rounding.h"

namespace octavo::OCTAVO_TIER {

constexpr int kMostGroup = 128;
constexpr float kE4M3Max = 448.0f;

static inline f32x16 min(f32x16 a, f32x16 b) { return sub(zero(), max(sub(zero(), a), sub(zero(), b))); }
static inline f32x16 clip(f32x16 a, float low, float high) { return min(max(a, set1(low)), set1(high)); }

// 1 / scale, and 0 where that is not finite.
static inline f32x16 inverse_of(f32x16 scale) {
    return where_above(abs(scale), 0x1p-128f, div(set1(1.0f), scale));
}

// Rounded to float16. `fault` becomes NaN in a lane that float16 cannot hold, and stays so.
static inline f32x16 to_half(f32x16 a, f32x16& fault) {
    f16 halves[16];
    store(halves, a);
    const f32x16 rounded = load(halves);
    fault = add(fault, sub(rounded, rounded));
    return rounded;
}

// Without a name, as a member function that is not inlined would be a symbol that others may replace.
namespace {

// Lanes of `better` wherever it `wins` over `best`: what a search over candidates keeps of each group.
struct Kept {
    alignas(64) float values[16] = {};

    void keep(const bool* wins, f32x16 better) {
        alignas(64) float candidates[16];
        store(candidates, better);
        for (int lane = 0; lane < 16; ++lane) values[lane] = wins[lane] ? candidates[lane] : values[lane];
    }
    f32x16 lanes() const { return load(values); }
};

// NumPy's sum of a run of 8 to 128 floats: eight sums that take turns, then theirs.
struct PairwiseSum {
    f32x16 sums[8];

    void add_at(int k, f32x16 a) { sums[k % 8] = k < 8 ? a : add(sums[k % 8], a); }
    f32x16 total() const {
        return add(add(add(sums[0], sums[1]), add(sums[2], sums[3])),
                   add(add(sums[4], sums[5]), add(sums[6], sums[7])));
    }
};

// Up to 16 groups, the value k of each in the lanes of row k; those that are missing are zeros.
struct Tile {
    int size;
    bool weighed;
    alignas(64) float values[kMostGroup][16];
    alignas(64) float weights[kMostGroup][16];
    // What becomes of them: the offsets are zeros or minimums.
    alignas(64) float codes[kMostGroup][16];
    f32x16 scales, offsets{}, fault;

    f32x16 at(int k) const { return load(values[k]); }
    f32x16 weighted(int k, f32x16 a) const { return weighed ? mul(a, load(weights[k])) : a; }
    f32x16 largest() const {
        f32x16 most = at(0);
        for (int k = 1; k < size; ++k) most = max(most, at(k));
        return most;
    }
    f32x16 least() const {
        f32x16 least = at(0);
        for (int k = 1; k < size; ++k) least = min(least, at(k));
        return least;
    }
    f32x16 magnitude() const {
        f32x16 most = abs(at(0));
        for (int k = 1; k < size; ++k) most = max(most, abs(at(k)));
        return most;
    }
};

}  // namespace

// The value of each group that is furthest from zero, the first of two that are.
static inline f32x16 furthest(const Tile& tile) {
    alignas(64) float low[16], high[16], found[16];
    store(low, tile.least());
    store(high, tile.largest());
    for (int lane = 0; lane < 16; ++lane) {
        found[lane] = high[lane] > -low[lane] ? high[lane] : low[lane];
        if (high[lane] == -low[lane])
            for (int k = tile.size; k-- > 0;)
                if (std::abs(tile.values[k][lane]) == high[lane]) found[lane] = tile.values[k][lane];
    }
    return load(found);
}

static void round_int4(Tile& tile) {
    constexpr float reaches[] = {7.0f, 7.5f, 8.0f, 8.4f, 8.8f, 9.4f};
    const f32x16 far = furthest(tile);
    Kept best;
    float most[16];
    std::fill_n(most, 16, -1.0f);
    for (float reach : reaches) {
        // Where it overflows, all codes are as good as zero.
        const f32x16 inverse = where_above(abs(far), 0x1p-124f, div(set1(-reach), far));
        PairwiseSum alongs, squares;
        for (int k = 0; k < tile.size; ++k) {
            const f32x16 code = clip(round_even(mul(tile.at(k), inverse)), -8.0f, 7.0f);
            const f32x16 weighted = tile.weighted(k, code);
            alongs.add_at(k, mul(weighted, tile.at(k)));
            squares.add_at(k, mul(weighted, code));
        }
        const f32x16 along = alongs.total(), square = squares.total();
        alignas(64) float gain[16];
        store(gain, where_above(square, 0.0f, div(mul(along, along), square)));
        bool wins[16];
        for (int lane = 0; lane < 16; ++lane) {
            wins[lane] = gain[lane] > most[lane];
            most[lane] = wins[lane] ? gain[lane] : most[lane];
        }
        best.keep(wins, where_above(square, 0.0f, div(along, square)));
    }
    tile.scales = to_half(best.lanes(), tile.fault);
    const f32x16 inverse = inverse_of(tile.scales);
    for (int k = 0; k < tile.size; ++k)
        store(tile.codes[k], clip(round_even(mul(tile.at(k), inverse)), -8.0f, 7.0f));
}

// What a candidate's scale and offset leave, weighed: `missed(k)` is the error of value k.
template <typename Missed>
static inline f32x16 error_of(const Tile& tile, Missed missed) {
    PairwiseSum sum;
    for (int k = 0; k < tile.size; ++k) {
        const f32x16 off = missed(k);
        sum.add_at(k, tile.weighted(k, mul(off, off)));
    }
    return sum.total();
}

static inline void take_lower(f32x16 error, float* least, bool* wins) {
    alignas(64) float own[16];
    store(own, error);
    for (int lane = 0; lane < 16; ++lane) {
        wins[lane] = own[lane] < least[lane];
        least[lane] = wins[lane] ? own[lane] : least[lane];
    }
}

constexpr double kShrinks[] = {1.0, 0.95, 0.9, 0.85, 0.8};

static void round_int4_zero_points(Tile& tile) {
    const f32x16 least = min(tile.least(), zero()), largest = max(tile.largest(), zero());
    Kept best_scales, best_zeros;
    float error[16];
    std::fill_n(error, 16, __builtin_inff());
    for (double shrink : kShrinks) {
        const f32x16 scale =
            to_half(mul(sub(largest, least), set1(static_cast<float>(shrink / 15))), tile.fault);
        const f32x16 inverse = inverse_of(scale);
        const f32x16 low = mul(sub(zero(), least), set1(static_cast<float>(shrink)));
        const f32x16 offset = clip(round_even(mul(low, inverse)), 0.0f, 15.0f);
        bool wins[16];
        take_lower(error_of(tile,
                            [&](int k) {
                                const f32x16 code = add(round_even(mul(tile.at(k), inverse)), offset);
                                return sub(mul(sub(clip(code, 0.0f, 15.0f), offset), scale), tile.at(k));
                            }),
                   error, wins);
        best_scales.keep(wins, scale);
        best_zeros.keep(wins, offset);
    }
    tile.scales = best_scales.lanes();
    tile.offsets = best_zeros.lanes();
    const f32x16 inverse = inverse_of(tile.scales);
    for (int k = 0; k < tile.size; ++k)
        store(tile.codes[k], clip(add(round_even(mul(tile.at(k), inverse)), tile.offsets), 0.0f, 15.0f));
}

static void round_int4_minimums(Tile& tile) {
    const f32x16 least = tile.least(), span = sub(tile.largest(), least);
    Kept best_scales, best_minimums;
    float error[16];
    std::fill_n(error, 16, __builtin_inff());
    for (double shrink : kShrinks) {
        const f32x16 cut = mul(span, set1(static_cast<float>((1 - shrink) / 2)));
        const f32x16 minimum = to_half(add(least, cut), tile.fault);
        const f32x16 scale = to_half(div(sub(span, mul(set1(2.0f), cut)), set1(15.0f)), tile.fault);
        const f32x16 inverse = inverse_of(scale);
        bool wins[16];
        take_lower(error_of(tile,
                            [&](int k) {
                                const f32x16 code =
                                    clip(round_even(mul(sub(tile.at(k), minimum), inverse)), 0.0f, 15.0f);
                                return sub(add(mul(code, scale), minimum), tile.at(k));
                            }),
                   error, wins);
        best_scales.keep(wins, scale);
        best_minimums.keep(wins, minimum);
    }
    tile.scales = best_scales.lanes();
    tile.offsets = best_minimums.lanes();
    const f32x16 inverse = inverse_of(tile.scales);
    for (int k = 0; k < tile.size; ++k)
        store(tile.codes[k], clip(round_even(mul(sub(tile.at(k), tile.offsets), inverse)), 0.0f, 15.0f));
}

static void round_int8(Tile& tile) {
    tile.scales = to_half(div(tile.magnitude(), set1(127.0f)), tile.fault);
    const f32x16 inverse = inverse_of(tile.scales);
    for (int k = 0; k < tile.size; ++k)
        store(tile.codes[k], clip(round_even(mul(tile.at(k), inverse)), -127.0f, 127.0f));
}

// The nearest number of E4M3, ties to even. Adding 1.5 times a number 2^20 times as large as a value's power
// of two leaves the bits that E4M3 has; below 2^-6 its numbers keep the distance that they have there.
static inline f32x16 nearest_e4m3(f32x16 a) {
    const f32x16 clipped = clip(a, -kE4M3Max, kE4M3Max);
    alignas(64) float lanes[16];
    alignas(64) uint32_t powers[16];
    store(lanes, clipped);
    std::memcpy(powers, lanes, sizeof lanes);
    for (uint32_t& power : powers) power = std::max(power & 0x7f800000u, 121u << 23) + (20u << 23);
    std::memcpy(lanes, powers, sizeof lanes);
    const f32x16 large = mul(load(lanes), set1(1.5f));
    return sub(add(clipped, large), large);
}

// The bytes of numbers of E4M3, as integers from -128 to 127. A zero loses its sign.
static inline f32x16 bytes_of_e4m3(f32x16 numbers) {
    alignas(64) float lanes[16];
    alignas(64) int32_t bits[16];
    store(lanes, abs(numbers));
    std::memcpy(bits, lanes, sizeof lanes);
    for (int i = 0; i < 16; ++i) lanes[i] = static_cast<float>((bits[i] >> 20) - (120 << 3));
    // Below 2^-6 the byte counts steps of 2^-9.
    const f32x16 counts = mul(abs(numbers), set1(512.0f));
    const f32x16 subnormal = sub(counts, where_at_least(counts, 8.0f, counts));
    const f32x16 magnitude = add(subnormal, where_at_least(counts, 8.0f, load(lanes)));
    return sub(magnitude, where_above(sub(zero(), numbers), 0.0f, set1(128.0f)));
}

static void round_float8(Tile& tile) {
    constexpr double shifts[] = {0.0, 0.25, 0.5, 0.75};
    const f32x16 most = div(tile.magnitude(), set1(kE4M3Max));
    Kept best;
    store(best.values, most);
    float error[16];
    std::fill_n(error, 16, __builtin_inff());
    for (double shift : shifts) {
        const f32x16 scale = mul(most, set1(static_cast<float>(std::exp2(shift))));
        const f32x16 inverse = inverse_of(scale);
        f32x16 missed[kGroup];
        for (int k = 0; k < kGroup; ++k) {
            const f32x16 off = sub(mul(nearest_e4m3(mul(tile.at(k), inverse)), scale), tile.at(k));
            missed[k] = mul(off, off);
        }
        for (int half = kGroup / 2; half; half /= 2)
            for (int k = 0; k < half; ++k) missed[k] = add(missed[k], missed[k + half]);
        bool wins[16];
        take_lower(missed[0], error, wins);
        best.keep(wins, scale);
    }
    tile.scales = best.lanes();
    const f32x16 inverse = inverse_of(tile.scales);
    for (int k = 0; k < kGroup; ++k)
        store(tile.codes[k], bytes_of_e4m3(nearest_e4m3(mul(tile.at(k), inverse))));
}

// 16 values of rows that may hold fewer after `i`.
template <typename Item>
static inline f32x16 load_items(const uint8_t* items, int64_t i, int count) {
    Item some[16] = {};
    std::memcpy(some, items + i * sizeof(Item), count * sizeof(Item));
    return load(some);
}

// The values of a row, scaled; whether all are finite.
template <typename Item>
static bool load_row(const RowsToRound& rows, int64_t row, float* values) {
    const uint8_t* items = rows.data + row * rows.cols * sizeof(Item);
    f32x16 fault = zero();
    for (int64_t i = 0; i < rows.cols; i += 16) {
        const int count = static_cast<int>(std::min<int64_t>(16, rows.cols - i));
        f32x16 a = load_items<Item>(items, i, count);
        if (rows.column_factors) a = mul(a, load_first(rows.column_factors + i, count));
        if (rows.row_factors) a = mul(a, set1(rows.row_factors[row]));
        fault = add(fault, sub(a, a));
        store_first(values + i, a, count);
    }
    return !lanes_nan(fault);
}

static bool load_rows(const RowsToRound& rows, int64_t first, int64_t count, float* values) {
    const auto load_one = rows.encoding == Encoding::F32   ? load_row<float>
                          : rows.encoding == Encoding::F16 ? load_row<f16>
                                                           : load_row<bf16>;
    bool finite = true;
    for (int64_t i = 0; i < count; ++i) finite &= load_one(rows, first + i, values + i * rows.cols);
    return finite;
}

static void round_tile(Rounding rounding, Tile& tile) {
    switch (rounding) {
        case Rounding::Int8:
            return round_int8(tile);
        case Rounding::Int4:
            return round_int4(tile);
        case Rounding::Int4ZeroPoints:
            return round_int4_zero_points(tile);
        case Rounding::Int4Minimums:
            return round_int4_minimums(tile);
        case Rounding::Float8:
            return round_float8(tile);
    }
}

// The first `some` of 16 runs of `size` floats, `run(lane)`, into the lanes of `out`; the others are zeros.
template <typename Run>
static void to_lanes(int size, int some, Run run, float (*out)[16]) {
    for (int k = 0; k < size; k += 16) {
        f32x16 rows[16];
        for (int lane = 0; lane < 16; ++lane) rows[lane] = lane < some ? load(run(lane) + k) : zero();
        transpose(rows);
        for (int i = 0; i < 16; ++i) store(out[k + i], rows[i]);
    }
}

// The codes of the first `some` groups, one after the other.
static void store_codes(const Tile& tile, int some, int8_t* out) {
    for (int k = 0; k < tile.size; k += 16) {
        f32x16 rows[16];
        for (int i = 0; i < 16; ++i) rows[i] = load(tile.codes[k + i]);
        transpose(rows);
        for (int lane = 0; lane < some; ++lane) store_int8(out + lane * tile.size + k, rows[lane]);
    }
}

static RoundingFault round_rows(Rounding rounding, const RowsToRound& rows, int64_t first, int64_t count,
                                float* scratch, const RoundedGroups& out) {
    if (!load_rows(rows, first, count, scratch)) return RoundingFault::NotFinite;
    const int size = static_cast<int>(rows.size);
    const int64_t in_row = rows.cols / size, groups = count * in_row;
    Tile tile;
    tile.size = size;
    tile.weighed = rows.importance != nullptr;
    for (int64_t group = 0; group < groups; group += 16) {
        const int some = static_cast<int>(std::min<int64_t>(16, groups - group));
        to_lanes(size, some, [&](int lane) { return scratch + (group + lane) * size; }, tile.values);
        if (tile.weighed)
            to_lanes(
                size, some, [&](int lane) { return rows.importance + (group + lane) % in_row * size; },
                tile.weights);
        tile.fault = zero();
        round_tile(rounding, tile);
        if (lanes_nan(tile.fault)) return RoundingFault::TooLarge;
        store_codes(tile, some, reinterpret_cast<int8_t*>(out.codes) + group * size);
        store_first(out.scales + group, tile.scales, some);
        if (out.offsets) store_first(out.offsets + group, tile.offsets, some);
    }
    return RoundingFault::None;
}

}  // namespace octavo::OCTAVO_TIER
