#include "kernels/tables/kernels.h"

#include <stdexcept>

#if defined(__linux__) && defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

// What the objects of a tier define: a table a family.
#define OCTAVO_TIER_KERNELS(tier)                        \
    namespace tier {                                     \
    extern const LinearKernels linear_kernels;           \
    extern const ElementwiseKernels elementwise_kernels; \
    extern const AttentionKernels attention_kernels;     \
    extern const SamplingKernels sampling_kernels;       \
    extern const RoundingKernels rounding_kernels;       \
    extern const PeakLoops peak_loops;                   \
    static const Kernels& kernels() {                    \
        static const Kernels all = {#tier,               \
                                    linear_kernels,      \
                                    elementwise_kernels, \
                                    attention_kernels,   \
                                    sampling_kernels,    \
                                    rounding_kernels,    \
                                    peak_loops};         \
        return all;                                      \
    }                                                    \
    }

namespace octavo {

OCTAVO_TIER_KERNELS(portable)
#if defined(__x86_64__)
OCTAVO_TIER_KERNELS(avx2)
OCTAVO_TIER_KERNELS(avx512)
#elif defined(__aarch64__)
OCTAVO_TIER_KERNELS(neon)
#endif

std::vector<std::string> isas() {
    std::vector<std::string> names = {"portable"};
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"))
        names.push_back("avx2");
    if (names.size() == 2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512vnni"))
        names.push_back("avx512");
#elif defined(__APPLE__) && defined(__aarch64__)
    names.push_back("neon");  // all of Apple's have the dot product
#elif defined(__aarch64__)
    if (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) names.push_back("neon");
#endif
    return names;
}

const Kernels& kernels_of(const std::string& isa) {
#if defined(__x86_64__)
    if (isa == "avx512") return avx512::kernels();
    if (isa == "avx2") return avx2::kernels();
#elif defined(__aarch64__)
    if (isa == "neon") return neon::kernels();
#endif
    if (isa == "portable") return portable::kernels();
    throw std::invalid_argument("there is no ISA tier " + isa);
}

}  // namespace octavo
