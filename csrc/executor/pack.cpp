#include "executor/pack.h"

namespace octavo {

void pack_panels(ThreadPool& pool, const PackedWeight& weight, const uint8_t* raw, int64_t first,
                 int64_t count, uint8_t* out) {
    std::atomic<int64_t> next{0};
    pool.run([&](int) {
        for (int64_t i = next.fetch_add(1); i < count; i = next.fetch_add(1))
            weight.pack_panel(first + i, raw, out + i * weight.panel_bytes());
    });
}

}  // namespace octavo
