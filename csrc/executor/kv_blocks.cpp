// Whole blocks of the KV cache: copied within it, read out of it and written back.
#include <array>
#include <cstring>
#include <stdexcept>

#include "executor/executor.h"

namespace octavo {

namespace {

// What a plane holds of each block, contiguous: its items, or its scales.
struct Part {
    uint8_t* data;
    size_t bytes;

    uint8_t* block(int64_t id) const { return data + id * bytes; }
};

std::array<Part, 2> parts_of(const KVLayer& plane) {
    return {{{plane.data, static_cast<size_t>(plane.item_bytes())},
             {reinterpret_cast<uint8_t*>(plane.scales), static_cast<size_t>(plane.scale_bytes())}}};
}

}  // namespace

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
    for (const KVLayer& plane : planes_)
        for (size_t i = 0; i < sources.size(); ++i)
            for (const Part& part : parts_of(plane))
                std::memmove(part.block(destinations[i]), part.block(sources[i]), part.bytes);
}

void Executor::read_blocks(std::span<const int32_t> blocks, uint8_t* data) const {
    check_blocks(blocks);
    for (const int32_t block : blocks)
        for (const KVLayer& plane : planes_)
            for (const Part& part : parts_of(plane)) {
                std::memcpy(data, part.block(block), part.bytes);
                data += part.bytes;
            }
}

void Executor::write_blocks(std::span<const int32_t> blocks, const uint8_t* data) {
    check_blocks(blocks);
    for (const int32_t block : blocks)
        for (const KVLayer& plane : planes_)
            for (const Part& part : parts_of(plane)) {
                std::memcpy(part.block(block), data, part.bytes);
                data += part.bytes;
            }
}

void Executor::check_blocks(std::span<const int32_t> blocks) const {
    for (const int32_t block : blocks)
        if (block < 0 || block >= blocks_) throw std::invalid_argument("a block id is outside the KV cache");
}

}  // namespace octavo
