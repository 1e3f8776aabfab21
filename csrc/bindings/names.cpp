#include <map>
#include <stdexcept>

#include "bindings/bindings.h"

namespace octavo {

Encoding encoding_of(const std::string& name) {
    static const std::map<std::string, Encoding> names = {
        {"F32", Encoding::F32},         {"F16", Encoding::F16},       {"BF16", Encoding::BF16},
        {"F8_E4M3", Encoding::F8_E4M3}, {"Q4_0", Encoding::Q4_0},     {"Q4_1", Encoding::Q4_1},
        {"Q5_0", Encoding::Q5_0},       {"Q5_1", Encoding::Q5_1},     {"Q8_0", Encoding::Q8_0},
        {"U8_1", Encoding::U8_1},       {"Q4_K", Encoding::Q4_K},     {"Q5_K", Encoding::Q5_K},
        {"Q6_K", Encoding::Q6_K},       {"IQ4_NL", Encoding::IQ4_NL}, {"IQ4_XS", Encoding::IQ4_XS},
        {"MXFP4", Encoding::MXFP4},     {"NF4", Encoding::NF4},       {"FP4", Encoding::FP4},
        {"Q2_K", Encoding::Q2_K}};
    const auto found = names.find(name);
    if (found == names.end()) throw std::invalid_argument("the native backend has no encoding " + name);
    return found->second;
}

KVType kv_type_of(const std::string& dtype) {
    static const std::map<std::string, KVType> types = {{"float32", KVType::F32},   {"float16", KVType::F16},
                                                        {"bfloat16", KVType::BF16}, {"fp8", KVType::E4M3},
                                                        {"int8", KVType::Int8},     {"int16", KVType::Int16}};
    const auto found = types.find(dtype);
    if (found == types.end()) throw std::invalid_argument("the native backend has no KV cache of " + dtype);
    return found->second;
}

}  // namespace octavo
