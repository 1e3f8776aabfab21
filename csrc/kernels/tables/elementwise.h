// Kernels that compute a row from rows of the same token, found by name: a new one needs no line here unless
// its arguments are like those of none before it.
#pragma once

#include <cstdint>
#include <string_view>

namespace octavo {

// One of the pointers is set.
struct ElementwiseKernel {
    const char* name;
    void (*unary)(const float* x, int64_t n, float* y) = nullptr;
    void (*binary)(const float* x, const float* y, int64_t n, float* out) = nullptr;
    void (*norm)(const float* x, const float* weight, float eps, int64_t n, float* y) = nullptr;
    void (*rotation)(float* head, const float* table_row, int rotary_dim) = nullptr;
};

struct ElementwiseKernels {
    const ElementwiseKernel* first;
    int count;

    // Throws std::logic_error where a tier lacks it.
    const ElementwiseKernel& find(std::string_view name) const;
};

}  // namespace octavo
