// The attention kernels of one ISA tier.
#include "kernels/attention.h"

namespace octavo::OCTAVO_TIER {

extern const AttentionKernels attention_kernels;
const AttentionKernels attention_kernels = {.write_kv = write_kv,
                                            .attention = attention,
                                            .attention_split = attention_split,
                                            .attention_merge = attention_merge};

}  // namespace octavo::OCTAVO_TIER
