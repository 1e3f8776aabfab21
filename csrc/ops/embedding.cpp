#include "ops/by_row.h"
#include "ops/registry.h"

namespace octavo {

static void build(const Instruction& each, Program& program) {
    const Matrix y = program.matrix(each.output);
    const RawTensor table =
        program.weights.table(each.weight(0), program.limits.vocab_size, y.cols, "tokens of the vocabulary");
    add_by_row(program, y.rows, [=](const Step& step, int64_t row) {
        decode_row(table.encoding, table.row(step.token_ids[row]), table.cols, y.row(row));
    });
}

static const RegisteredOp embedding("embedding", build);

}  // namespace octavo
