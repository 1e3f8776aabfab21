// Weights packed on all threads.
#pragma once

#include "executor/thread_pool.h"
#include "weights/packed_weight.h"

namespace octavo {

// Fills `out` with `count` panels of the weight, from `first` on, from the raw rows of all of it.
void pack_panels(ThreadPool& pool, const PackedWeight& weight, const uint8_t* raw, int64_t first,
                 int64_t count, uint8_t* out);

}  // namespace octavo
