#include "executor/instruction.h"

#include <stdexcept>

namespace octavo {

namespace {

[[noreturn]] void fail(const Instruction& each, const std::string& what) {
    throw std::invalid_argument("instruction " + each.op + " lacks " + what);
}

const std::variant<int64_t, double, std::string>* find(const Instruction& each, const std::string& name) {
    const auto found = each.attributes.find(name);
    return found == each.attributes.end() ? nullptr : &found->second;
}

}  // namespace

const View& Instruction::input(size_t index) const {
    if (index >= inputs.size()) fail(*this, "input " + std::to_string(index));
    return inputs[index];
}

const std::string& Instruction::weight(size_t index) const {
    if (index >= weights.size()) fail(*this, "weight " + std::to_string(index));
    return weights[index];
}

int Instruction::integer(const std::string& name) const {
    const auto* value = find(*this, name);
    if (!value || !std::holds_alternative<int64_t>(*value)) fail(*this, "the integer attribute " + name);
    return static_cast<int>(std::get<int64_t>(*value));
}

float Instruction::number(const std::string& name) const {
    const auto* value = find(*this, name);
    if (!value || std::holds_alternative<std::string>(*value)) fail(*this, "the number attribute " + name);
    if (const double* number = std::get_if<double>(value)) return static_cast<float>(*number);
    return static_cast<float>(std::get<int64_t>(*value));
}

const std::string& Instruction::text(const std::string& name) const {
    const auto* value = find(*this, name);
    if (!value || !std::holds_alternative<std::string>(*value)) fail(*this, "the text attribute " + name);
    return std::get<std::string>(*value);
}

}  // namespace octavo
