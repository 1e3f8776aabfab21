// The weights of a Program by name. Their memory is kept alive by whoever adds them.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "weights/packed_weight.h"

namespace octavo {

struct RawTensor {
    Encoding encoding;
    int64_t rows;
    int64_t cols;
    const uint8_t* data;

    const uint8_t* row(int64_t index) const { return data + index * row_bytes(encoding, cols); }
};

class Weights {
  public:
    // What linears multiply by has to be packed; all other weights are raw.
    void add(const std::string& name, RawTensor tensor) { tensors_[name] = tensor; }
    void add_packed(const std::string& name, PackedWeight weight) { packed_[name] = weight; }

    // Each throws std::invalid_argument, naming the weight, where it is missing or of another shape.
    const PackedWeight& packed(const std::string& name, int64_t n, int64_t k) const;
    // A table of `cols` columns and at least `rows` rows, one for each of `of_what`.
    const RawTensor& table(const std::string& name, int64_t rows, int64_t cols, const char* of_what) const;
    // The same as floats, decoded once.
    const float* float_table(const std::string& name, int64_t rows, int64_t cols, const char* of_what);
    const float* vector(const std::string& name, int64_t size);

    // Of all packed weights.
    size_t packed_bytes() const;

  private:
    const RawTensor& tensor(const std::string& name) const;
    const float* floats(const std::string& name);

    std::map<std::string, RawTensor> tensors_;
    std::map<std::string, PackedWeight> packed_;
    std::map<std::string, std::vector<float>> floats_;
};

}  // namespace octavo
