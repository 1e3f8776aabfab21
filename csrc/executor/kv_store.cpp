#include "executor/kv_store.h"

#include <algorithm>
#include <cstring>
#include <set>
#include <stdexcept>
#include <string>

namespace octavo {

namespace {

std::string describe(const KVShape& shape) {
    return std::to_string(shape.num_kv_heads) + " heads of " + std::to_string(shape.key_dim) + " and " +
           std::to_string(shape.value_dim);
}

KVLayer layer_of(const KVShape& shape, KVType type) {
    return {nullptr, nullptr, 0, 0, type, shape.num_kv_heads, shape.key_dim, shape.value_dim};
}

}  // namespace

void KVStore::expect(int layer, const KVShape& shape, bool sees_all) {
    const auto [found, fresh] = expected_.try_emplace(layer, Expected{shape, sees_all});
    if (!fresh && found->second.shape != shape)
        throw std::invalid_argument("layer " + std::to_string(layer) + " of the KV cache has two shapes");
    found->second.sees_all |= sees_all;
}

void KVStore::check_layers(const std::vector<KVShape>& layers, const std::vector<std::vector<int>>& groups,
                           KVType type) const {
    std::vector<int> times(layers.size());
    for (const std::vector<int>& group : groups)
        for (const int layer : group) {
            if (layer < 0 || layer >= static_cast<int>(layers.size()))
                throw std::invalid_argument("a group has a layer that the KV cache has not");
            ++times[layer];
        }
    if (std::ranges::any_of(times, [](int count) { return count != 1; }))
        throw std::invalid_argument("each layer of the KV cache must be in one group");
    for (const KVShape& shape : layers)
        if (type == KVType::Int16)  // its items lie, and are multiplied, in pairs
            for (const int dim : {shape.key_dim, shape.value_dim})
                if (dim % 2)
                    throw std::invalid_argument("int16 KV cache of an odd head_dim " + std::to_string(dim));
    for (const auto& [layer, expected] : expected_)
        if (layer < 0 || layer >= static_cast<int>(layers.size()) || layers[layer] != expected.shape)
            throw std::invalid_argument("layer " + std::to_string(layer) + " of the KV cache is not " +
                                        describe(expected.shape) + ", as its attention is");
}

void KVStore::allocate(const std::vector<KVShape>& layers, const std::vector<std::vector<int>>& groups,
                       KVType type, int64_t blocks) {
    check_layers(layers, groups, type);
    groups_ = static_cast<int64_t>(groups.size());
    blocks_ = blocks;
    layers_.assign(layers.size(), {});
    parts_.clear();
    const bool alike = std::ranges::all_of(layers, [&](const KVShape& each) { return each == layers[0]; });
    if (alike && !layers.empty())
        allocate_planes(layers[0], groups, type);
    else
        allocate_whole(layers, groups, type);
    std::set<int> full;
    for (const auto& [layer, expected] : expected_)
        if (expected.sees_all) full.insert(layers_[layer].group);
    full_groups_.assign(full.begin(), full.end());
}

void KVStore::allocate_planes(const KVShape& shape, const std::vector<std::vector<int>>& groups,
                              KVType type) {
    size_t planes = 0;
    for (const std::vector<int>& group : groups) planes = std::max(planes, group.size());
    KVLayer like = layer_of(shape, type);
    like.stride = like.item_bytes();
    like.scales_stride = like.scale_bytes() / static_cast<int64_t>(sizeof(float));
    const size_t items = like.item_bytes() * blocks_, scales = like.scale_bytes() * blocks_;
    memory_ = Region((items + scales) * planes);
    uint8_t* first_scales = memory_.data() + items * planes;
    std::vector<KVLayer> made(planes, like);
    for (size_t plane = 0; plane < planes; ++plane) {
        made[plane].data = memory_.data() + plane * items;
        made[plane].scales = reinterpret_cast<float*>(first_scales + plane * scales);
        parts_.push_back({made[plane].data, static_cast<size_t>(like.item_bytes())});
        if (like.has_scales())
            parts_.push_back({first_scales + plane * scales, static_cast<size_t>(like.scale_bytes())});
    }
    for (size_t group = 0; group < groups.size(); ++group)
        for (size_t plane = 0; plane < groups[group].size(); ++plane)
            layers_[groups[group][plane]] = {made[plane], static_cast<int>(group)};
}

void KVStore::allocate_whole(const std::vector<KVShape>& layers, const std::vector<std::vector<int>>& groups,
                             KVType type) {
    int64_t stride = 0;
    for (const std::vector<int>& group : groups) {
        int64_t bytes = 0;
        for (const int layer : group) bytes += layer_of(layers[layer], type).block_bytes();
        stride = std::max(stride, bytes);
    }
    memory_ = Region(stride * blocks_);
    parts_.push_back({memory_.data(), static_cast<size_t>(stride)});
    for (size_t group = 0; group < groups.size(); ++group) {
        uint8_t* at = memory_.data();
        for (const int layer : groups[group]) {
            KVLayer kv = layer_of(layers[layer], type);
            kv.data = at;
            kv.scales = reinterpret_cast<float*>(at + kv.item_bytes());
            kv.stride = stride;
            kv.scales_stride = stride / static_cast<int64_t>(sizeof(float));
            layers_[layer] = {kv, static_cast<int>(group)};
            at += kv.block_bytes();
        }
    }
}

size_t KVStore::block_bytes() const {
    size_t bytes = 0;
    for (const Part& part : parts_) bytes += part.bytes;
    return bytes;
}

void KVStore::copy_blocks(std::span<const int32_t> sources, std::span<const int32_t> destinations) {
    if (sources.size() != destinations.size())
        throw std::invalid_argument("sources and destinations differ in length");
    check_blocks(sources);
    check_blocks(destinations);
    for (const Part& part : parts_)
        for (size_t i = 0; i < sources.size(); ++i)
            std::memmove(part.block(destinations[i]), part.block(sources[i]), part.bytes);
}

void KVStore::read_blocks(std::span<const int32_t> blocks, uint8_t* data) const {
    check_blocks(blocks);
    for (const int32_t block : blocks)
        for (const Part& part : parts_) {
            std::memcpy(data, part.block(block), part.bytes);
            data += part.bytes;
        }
}

void KVStore::write_blocks(std::span<const int32_t> blocks, const uint8_t* data) {
    check_blocks(blocks);
    for (const int32_t block : blocks)
        for (const Part& part : parts_) {
            std::memcpy(part.block(block), data, part.bytes);
            data += part.bytes;
        }
}

void KVStore::check_blocks(std::span<const int32_t> blocks) const {
    for (const int32_t block : blocks)
        if (block < 0 || block >= blocks_) throw std::invalid_argument("a block id is outside the KV cache");
}

}  // namespace octavo
