#include "executor/program.h"

#include <stdexcept>

namespace octavo {

void Program::place(const std::vector<Buffer>& buffers, const ByRows& arena_cols) {
    ByRows starts{};
    int64_t floats = 0;
    for (size_t kind = 0; kind < kRowKinds; ++kind) {
        starts[kind] = floats;
        floats += arena_cols[kind] * limits.max_rows[kind];
    }
    arena_ = Region(floats * sizeof(float));
    for (const Buffer& each : buffers) {
        const size_t kind = static_cast<size_t>(each.rows);
        if (each.offset < 0 || each.cols < 1 || each.offset + each.cols > arena_cols[kind])
            throw std::invalid_argument("a buffer is outside of its arena");
        float* data =
            reinterpret_cast<float*>(arena_.data()) + starts[kind] + each.offset * limits.max_rows[kind];
        buffers_.push_back({each.rows, each.cols, data, each.cols});
    }
}

Matrix Program::matrix(const View& view) const {
    if (view.buffer < 0 || view.buffer >= static_cast<int>(buffers_.size()))
        throw std::invalid_argument("an instruction reads a buffer that is not there");
    const Matrix& buffer = buffers_[view.buffer];
    if (view.start < 0 || view.cols < 1 || view.start + view.cols > buffer.cols)
        throw std::invalid_argument("an instruction reads columns that its buffer has not");
    return {buffer.rows, view.cols, buffer.data + view.start, buffer.stride};
}

}  // namespace octavo
