// The peak loops of one ISA tier; compiled once a tier with that tier's flags.
//
// Empty asm statements tell the compiler that a value has changed, so that it computes every product.
#include "kernels/tables/peak.h"

#include "kernels/simd/simd.h"

namespace octavo::OCTAVO_TIER {

#if defined(OCTAVO_TIER_AVX512)

constexpr int kFloatSums = 12;

// Bound: two vpdpbusd a cycle, 128 multiply-adds; 12 chains hide their latency.
static int64_t dot_int8(int64_t rounds) {
    constexpr int sums = 12;
    __m512i a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(-2), acc[sums];
    for (int i = 0; i < sums; ++i) acc[i] = _mm512_setzero_si512();
    for (int64_t round = 0; round < rounds; ++round) {
        for (int i = 0; i < sums; ++i) acc[i] = _mm512_dpbusd_epi32(acc[i], a, b);
        asm volatile("" : "+v"(a), "+v"(b));
    }
    for (int i = 0; i < sums; ++i) asm volatile("" : : "v"(acc[i]));
    return rounds * sums * 64;
}

#elif defined(OCTAVO_TIER_AVX2)

constexpr int kFloatSums = 6;

// Bound: two vpmaddubsw a cycle, 64 multiply-adds, where the additions find a third port. Wraps around,
// which costs nothing.
static int64_t dot_int8(int64_t rounds) {
    __m256i a0 = _mm256_set1_epi8(3), a1 = a0, a2 = a0, a3 = a0, b = _mm256_set1_epi8(-2);
    __m256i sum0 = _mm256_setzero_si256(), sum1 = sum0, sum2 = sum0, sum3 = sum0;
    for (int64_t round = 0; round < rounds; ++round) {
        asm volatile("" : "+x"(a0), "+x"(a1), "+x"(a2), "+x"(a3), "+x"(b));
        sum0 = _mm256_add_epi16(sum0, _mm256_maddubs_epi16(a0, b));
        sum1 = _mm256_add_epi16(sum1, _mm256_maddubs_epi16(a1, b));
        sum2 = _mm256_add_epi16(sum2, _mm256_maddubs_epi16(a2, b));
        sum3 = _mm256_add_epi16(sum3, _mm256_maddubs_epi16(a3, b));
    }
    asm volatile("" : : "x"(sum0), "x"(sum1), "x"(sum2), "x"(sum3));
    return rounds * 4 * 32;
}

#elif defined(OCTAVO_TIER_NEON)

constexpr int kFloatSums = 6;

// Bound: two to four sdot a cycle, of 16 multiply-adds; 16 chains hide their latency.
static int64_t dot_int8(int64_t rounds) {
    constexpr int sums = 16;
    int8x16_t a = vdupq_n_s8(3), b = vdupq_n_s8(-2);
    int32x4_t acc[sums];
    for (int i = 0; i < sums; ++i) acc[i] = vdupq_n_s32(0);
    for (int64_t round = 0; round < rounds; ++round) {
        for (int i = 0; i < sums; ++i) acc[i] = vdotq_s32(acc[i], a, b);
        asm volatile("" : "+w"(a), "+w"(b));
    }
    for (int i = 0; i < sums; ++i) asm volatile("" : : "w"(acc[i]));
    return rounds * sums * 16;
}

#else

constexpr int kFloatSums = 3;

// The inner loop of the portable kernel, on weights that stay in the first cache.
static int64_t dot_int8(int64_t rounds) {
    uint8_t w[64];
    int8_t q[4];
    int32_t sums[16] = {};
    std::memset(w, 3, sizeof w);
    std::memset(q, -2, sizeof q);
    for (int64_t round = 0; round < rounds; ++round) {
        asm volatile("" : : "r"(w), "r"(q) : "memory");
        for (int c = 0; c < 16; ++c)
            for (int i = 0; i < 4; ++i) sums[c] += w[c * 4 + i] * q[i];
    }
    asm volatile("" : : "r"(sums) : "memory");
    return rounds * 64;
}

#endif

// Bound: two fused multiply-adds a cycle, of 16 lanes (AVX-512), 8 (AVX2), 4 (NEON), or 4 in two
// steps (portable).
// Each sum tends to 2, so that no lane ever slows down for a subnormal number.
static int64_t fma_float(int64_t rounds) {
    const f32x16 a = set1(0.5f), b = set1(1.0f);
    f32x16 acc[kFloatSums];
    for (f32x16& each : acc) each = b;
    for (int64_t round = 0; round < rounds; ++round)
        for (f32x16& each : acc) each = fma(each, a, b);
    asm volatile("" : : "r"(acc) : "memory");
    return rounds * kFloatSums * 16;
}

static void read(const float* from, size_t count) {
    f32x16 most[4] = {zero(), zero(), zero(), zero()};
    for (size_t at = 0; at < count; at += 128)
        for (int i = 0; i < 8; ++i) most[i % 4] = max(most[i % 4], load(from + at + 16 * i));
    asm volatile("" : : "r"(most) : "memory");
}

extern const PeakLoops peak_loops;
const PeakLoops peak_loops = {dot_int8, fma_float, read};

}  // namespace octavo::OCTAVO_TIER
