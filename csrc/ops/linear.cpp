#include <algorithm>
#include <string>
#include <vector>

#include "ops/by_row.h"
#include "ops/registry.h"

namespace octavo {

namespace {

// Rows of activations that stay in a core's cache while the panels of a piece pass over them.
constexpr int64_t kRowBlock = 64;
constexpr int64_t kPanelsInPiece = 4;
constexpr int64_t kLeastPanels = 2;
constexpr int64_t kGroupsInPiece = 8;

struct Part {
    PackedWeight weight;
    const float* bias;
    int column;  // of the output
};

// Weights that meet the columns of the input in the same order: they share the rows that are quantised for
// them.
class Linear : public Op {
  public:
    Linear(const Program& program, const Matrix& x, const Matrix& y, const float* residual,
           int64_t residual_stride, const Part& first)
        : kernels_(program.kernels.linear),
          scratch_(program.scratch),
          x_(x),
          y_(y),
          residual_(residual),
          residual_stride_(residual_stride),
          order_(first.weight.order) {}

    bool takes(const Part& part) const {
        const int32_t* other = part.weight.order;
        return order_ == other || (order_ && other && std::equal(order_, order_ + x_.cols, other));
    }
    void add(const Part& part) {
        parts_.push_back(part);
        panels_ += part.weight.panels();
        integer_ |= is_integer(part.weight.form());
    }
    bool integer() const { return integer_; }

    int stages() const override { return 2; }

    void run(const Work& work) const override {
        const int64_t rows = work.step.rows(x_.rows);
        if (integer_) quantise(work, rows);
        const LinearInput input{x_.data, x_.stride, scratch_.quantised()};
        if (rows <= kRowBlock)
            return work.share_shrinking(1, panels_, kLeastPanels, [&](int64_t first, int64_t last) {
                compute(input, first, last, 0, rows);
            });
        const int64_t row_blocks = (rows + kRowBlock - 1) / kRowBlock;
        const int64_t pieces = (panels_ + kPanelsInPiece - 1) / kPanelsInPiece;
        work.share(1, pieces * row_blocks, 1, [&](int64_t item) {
            const int64_t first = item % pieces * kPanelsInPiece, first_row = item / pieces * kRowBlock;
            compute(input, first, std::min(first + kPanelsInPiece, panels_), first_row,
                    std::min(kRowBlock, rows - first_row));
        });
    }

  private:
    // Whole tiles by whole cache lines: two threads never write the same one.
    void quantise(const Work& work, int64_t rows) const {
        const int64_t groups = x_.cols / kGroup, height = kernels_.tile_rows;
        const int64_t tiles = (rows + height - 1) / height,
                      chunks = (groups + kGroupsInPiece - 1) / kGroupsInPiece;
        work.share(0, tiles * chunks, 1, [&](int64_t item) {
            const int64_t row = item / chunks * height, group = item % chunks * kGroupsInPiece;
            kernels_.quantise_tile(x_.data, x_.stride, order_, row, std::min(height, rows - row), x_.cols,
                                   group, std::min(kGroupsInPiece, groups - group), scratch_.quantised());
        });
        work.barrier();
    }

    // Panels [first, last), counted over all parts.
    void compute(const LinearInput& input, int64_t first, int64_t last, int64_t first_row,
                 int64_t count) const {
        for (const Part& part : parts_) {
            const int64_t panels = part.weight.panels(), end = std::min(last, panels);
            const LinearOutput output{y_.data + part.column, y_.stride, part.bias,
                                      residual_ ? residual_ + part.column : nullptr, residual_stride_};
            if (first < end)
                kernels_.linear(part.weight, first, end - first, input, first_row, count, output);
            first = std::max<int64_t>(first - panels, 0);
            last -= panels;
            if (last <= 0) return;
        }
    }

    const LinearKernels& kernels_;
    const Scratch& scratch_;
    Matrix x_, y_;
    const float* residual_;
    int64_t residual_stride_;
    const int32_t* order_;
    std::vector<Part> parts_;
    int64_t panels_ = 0;
    bool integer_ = false;
};

std::vector<Part> parts_of(const Instruction& each, Program& program, const Matrix& x, const Matrix& y) {
    std::vector<Part> parts;
    int column = 0;
    for (size_t i = 0; each.has("out" + std::to_string(i)); ++i) {
        const int n = each.integer("out" + std::to_string(i));
        const std::string bias = "bias" + std::to_string(i);
        parts.push_back({program.weights.packed(each.weight(i), n, x.cols),
                         each.has(bias) ? program.weights.vector(each.text(bias), n) : nullptr, column});
        column += n;
    }
    if (column != y.cols) throw std::invalid_argument("linear's parts do not fill its output");
    return parts;
}

void build(const Instruction& each, Program& program) {
    const Matrix x = program.matrix(each.input(0)), y = program.matrix(each.output);
    Matrix residual{};
    if (each.inputs.size() > 1) check_like(each, residual = program.matrix(each.input(1)), y);
    std::vector<std::unique_ptr<Linear>> linears;
    for (const Part& part : parts_of(each, program, x, y)) {
        auto found = std::ranges::find_if(linears, [&](const auto& other) { return other->takes(part); });
        if (found == linears.end())
            found = linears.insert(
                linears.end(), std::make_unique<Linear>(program, x, y, residual.data, residual.stride, part));
        (*found)->add(part);
    }
    for (auto& linear : linears) {
        if (linear->integer()) program.scratch.want_quantised(x.cols);
        program.add(std::move(linear));
    }
}

const RegisteredOp linear("linear", build);

}  // namespace

}  // namespace octavo
