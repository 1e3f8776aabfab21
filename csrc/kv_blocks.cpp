// Whole blocks of the KV cache: copied within it, read out of it and written back.
#include <cstring>
#include <stdexcept>

#include "executor.h"

namespace octavo {

size_t Executor::block_bytes() const {
    size_t bytes = 0;
    for (const KVLayer& plane : planes_) bytes += plane.block_bytes();
    return bytes;
}

void Executor::copy_blocks(std::span<const int32_t> sources, std::span<const int32_t> destinations) {
    if (sources.size() != destinations.size())
        throw std::invalid_argument("sources and destinations differ in length");
    check_blocks(sources);
    check_blocks(destinations);
    for (const KVLayer& plane : planes_) {
        const size_t bytes = plane.block_bytes();
        for (size_t i = 0; i < sources.size(); ++i)
            std::memmove(plane.data + destinations[i] * bytes, plane.data + sources[i] * bytes, bytes);
    }
}

void Executor::read_blocks(std::span<const int32_t> blocks, uint8_t* data) const {
    check_blocks(blocks);
    for (const int32_t block : blocks)
        for (const KVLayer& plane : planes_) {
            const size_t bytes = plane.block_bytes();
            std::memcpy(data, plane.data + block * bytes, bytes);
            data += bytes;
        }
}

void Executor::write_blocks(std::span<const int32_t> blocks, const uint8_t* data) {
    check_blocks(blocks);
    for (const int32_t block : blocks)
        for (const KVLayer& plane : planes_) {
            const size_t bytes = plane.block_bytes();
            std::memcpy(plane.data + block * bytes, data, bytes);
            data += bytes;
        }
}

void Executor::check_blocks(std::span<const int32_t> blocks) const {
    for (const int32_t block : blocks)
        if (block < 0 || block >= blocks_) throw std::invalid_argument("a block id is outside the KV cache");
}

}  // namespace octavo
