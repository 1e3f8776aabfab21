// An instruction of octavo/runtime/program.py as it comes from Python.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <variant>
#include <vector>

namespace octavo {

// Columns [start, start + cols) of a buffer.
struct View {
    int buffer;
    int start;
    int cols;
};

struct Instruction {
    using Attributes = std::map<std::string, std::variant<int64_t, double, std::string>>;

    std::string op;
    std::vector<View> inputs;
    View output;
    std::vector<std::string> weights;
    Attributes attributes;

    bool has(const std::string& name) const { return attributes.contains(name); }
    // Each throws std::invalid_argument, naming what the instruction lacks.
    const View& input(size_t index) const;
    const std::string& weight(size_t index) const;
    int integer(const std::string& name) const;
    float number(const std::string& name) const;
    const std::string& text(const std::string& name) const;
};

}  // namespace octavo
