#include "executor/region.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <new>
#include <utility>

namespace octavo {

Region::Region(size_t bytes) : bytes_(bytes) {
    if (!bytes) return;
    void* mapped =
        mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
    madvise(mapped, bytes, MADV_HUGEPAGE);
#endif
    data_ = static_cast<uint8_t*>(mapped);
}

Region::~Region() {
    if (data_) munmap(data_, bytes_);
}

Region::Region(Region&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

Region& Region::operator=(Region&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
}

void fetch([[maybe_unused]] const uint8_t* data, [[maybe_unused]] size_t bytes) {
#if defined(MADV_POPULATE_READ)
    constexpr uintptr_t kPiece = 8 << 20;
    const uintptr_t page = sysconf(_SC_PAGESIZE);
    const uintptr_t start = reinterpret_cast<uintptr_t>(data) / page * page;
    const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + bytes + page - 1) / page * page;
    const auto advise = [&](uintptr_t place, int advice) {
        if (place < end)
            madvise(reinterpret_cast<void*>(place), std::min(kPiece, end - place), advice);  // may fail
    };
    advise(start, MADV_WILLNEED);
    for (uintptr_t place = start; place < end; place += kPiece) {
        advise(place + kPiece, MADV_WILLNEED);
        advise(place, MADV_POPULATE_READ);
    }
#endif
}

}  // namespace octavo
