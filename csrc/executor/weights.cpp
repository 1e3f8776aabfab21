#include "executor/weights.h"

#include <stdexcept>

namespace octavo {

namespace {

std::string shape(int64_t rows, int64_t cols) { return std::to_string(rows) + " x " + std::to_string(cols); }

}  // namespace

const PackedWeight& Weights::packed(const std::string& name, int64_t n, int64_t k) const {
    const auto found = packed_.find(name);
    if (found == packed_.end()) throw std::invalid_argument("weight " + name + " is missing");
    const PackedWeight& weight = found->second;
    if (weight.n != n || weight.k != k)
        throw std::invalid_argument(name + " is " + shape(weight.n, weight.k) + ", not " + shape(n, k));
    return weight;
}

const RawTensor& Weights::tensor(const std::string& name) const {
    const auto found = tensors_.find(name);
    if (found == tensors_.end()) throw std::invalid_argument("weight " + name + " is missing");
    return found->second;
}

const RawTensor& Weights::table(const std::string& name, int64_t rows, int64_t cols,
                                const char* of_what) const {
    const RawTensor& found = tensor(name);
    if (found.cols != cols)
        throw std::invalid_argument(name + " has " + std::to_string(found.cols) + " columns, not " +
                                    std::to_string(cols));
    if (found.rows < rows)
        throw std::invalid_argument(name + " has " + std::to_string(found.rows) + " rows, fewer than the " +
                                    std::to_string(rows) + " " + of_what);
    return found;
}

const float* Weights::float_table(const std::string& name, int64_t rows, int64_t cols, const char* of_what) {
    table(name, rows, cols, of_what);
    return floats(name);
}

const float* Weights::vector(const std::string& name, int64_t size) {
    const RawTensor& found = tensor(name);
    if (found.rows * found.cols != size)
        throw std::invalid_argument(name + " has " + std::to_string(found.rows * found.cols) +
                                    " values, not " + std::to_string(size));
    return floats(name);
}

const float* Weights::floats(const std::string& name) {
    std::vector<float>& values = floats_[name];
    if (values.empty()) {
        const RawTensor& raw = tensor(name);
        values.resize(raw.rows * raw.cols);
        for (int64_t row = 0; row < raw.rows; ++row)
            decode_row(raw.encoding, raw.row(row), raw.cols, values.data() + row * raw.cols);
    }
    return values.data();
}

size_t Weights::packed_bytes() const {
    size_t bytes = 0;
    for (const auto& [name, weight] : packed_) bytes += weight.bytes();
    return bytes;
}

}  // namespace octavo
