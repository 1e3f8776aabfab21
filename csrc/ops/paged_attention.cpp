#include <algorithm>
#include <stdexcept>

#include "ops/registry.h"

namespace octavo {

namespace {

struct Operands {
    Matrix q, k, v, out;
};

class PagedAttention : public Op {
  public:
    PagedAttention(const Program& program, const AttentionPlan& plan, const Operands& in,
                   const AttentionShape& shape, int layer)
        : kernels_(program.kernels.attention),
          kv_(program.kv),
          scratch_(program.scratch),
          plans_(program.attention_plans),
          plan_(plan),
          in_(in),
          shape_(shape),
          layer_(layer) {}

    int stages() const override { return 3; }

    void run(const Work& work) const override {
        const KVStore::Layer& layer = kv_.layer(layer_);
        write(work, layer);
        work.barrier();
        if (plan_.splits().empty()) return attend(work, layer);
        attend_splits(work, layer);
        work.barrier();
        merge_splits(work, layer);
    }

  private:
    void write(const Work& work, const KVStore::Layer& layer) const {
        const auto& writes = plans_.kv_writes();
        work.share(0, static_cast<int64_t>(writes.size()), 1, [&](int64_t i) {
            const AttentionPlans::KVWrite& write = writes[i];
            for (int64_t row = write.first_token; row < write.first_token + write.num_tokens; ++row) {
                const int position = work.step.positions[row];
                const int block = work.step.table(layer.group, write.sequence)[position / 16];
                for (int head = 0; head < shape_.num_kv_heads; ++head)
                    kernels_.write_kv(layer.kv, block, position % 16, head,
                                      in_.k.row(row) + head * shape_.key_dim,
                                      in_.v.row(row) + head * shape_.value_dim);
            }
        });
    }

    void attend(const Work& work, const KVStore::Layer& layer) const {
        const auto& groups = plan_.groups();
        work.share(1, static_cast<int64_t>(groups.size()), 1, [&](int64_t i) {
            const AttentionPlan::Group& group = groups[i];
            AttentionTile tiles[kQueryRows];
            for (int t = 0; t < group.num_tiles; ++t) tiles[t] = tile(work, layer, group.first_tile + t);
            kernels_.attention(layer.kv, shape_, tiles, group.num_tiles, shape_.window ? 0 : group.shared,
                               scratch_.of_thread(work.thread));
        });
    }

    void attend_splits(const Work& work, const KVStore::Layer& layer) const {
        const auto& splits = plan_.splits();
        const int64_t part_floats = split_part_floats(shape_.value_dim);
        // In runs: a split asks for the keys of the one after it.
        const int64_t count = static_cast<int64_t>(splits.size());
        work.share(1, count, std::max<int64_t>(1, count / (4 * work.pool.size())), [&](int64_t i) {
            if (splits[i].start / kSplit < first_split(work, splits[i].tile)) return;
            kernels_.attention_split(layer.kv, shape_, tile(work, layer, splits[i].tile), splits[i].start,
                                     scratch_.of_thread(work.thread), scratch_.shared() + i * part_floats);
        });
    }

    void merge_splits(const Work& work, const KVStore::Layer& layer) const {
        const auto& splits = plan_.splits();
        const int64_t part_floats = split_part_floats(shape_.value_dim);
        work.share(2, static_cast<int64_t>(plan_.tiles().size()), 1, [&](int64_t i) {
            // The splits of a tile lie beside each other, in order of tiles.
            const auto split = std::ranges::find_if(
                splits, [&](const AttentionPlan::Split& each) { return each.tile == i; });
            const int64_t skipped = first_split(work, i), start = split - splits.begin() + skipped;
            const int context = AttentionPlan::context_of(plan_.tiles()[i], work.step);
            const int parts = (context + kSplit - 1) / kSplit - static_cast<int>(skipped);
            kernels_.attention_merge(shape_, tile(work, layer, i), scratch_.shared() + start * part_floats,
                                     parts, scratch_.of_thread(work.thread));
        });
    }

    // The first split that a tile sees anything of.
    int64_t first_split(const Work& work, int64_t tile) const {
        const int position = work.step.positions[plan_.tiles()[tile].first_token];
        return shape_.window ? std::max(0, position + 1 - shape_.window) / kSplit : 0;
    }

    AttentionTile tile(const Work& work, const KVStore::Layer& layer, int64_t index) const {
        const AttentionPlan::Tile& tile = plan_.tiles()[index];
        return {in_.q.row(tile.first_token),
                in_.q.stride,
                in_.out.row(tile.first_token),
                in_.out.stride,
                work.step.positions[tile.first_token],
                tile.num_tokens,
                tile.kv_head,
                tile.first_head,
                tile.num_heads,
                work.step.table(layer.group, tile.sequence)};
    }

    const AttentionKernels& kernels_;
    const KVStore& kv_;
    const Scratch& scratch_;
    const AttentionPlans& plans_;
    const AttentionPlan& plan_;
    Operands in_;
    AttentionShape shape_;
    int layer_;
};

void check(const Operands& in, const AttentionShape& shape) {
    if (shape.num_kv_heads < 1 || shape.num_heads < 1 || shape.num_heads % shape.num_kv_heads ||
        shape.key_dim < 1 || shape.value_dim < 1)
        throw std::invalid_argument("paged_attention's query heads are not whole groups of KV heads");
    const auto fits = [](const Matrix& x, int64_t cols) { return x.rows == Rows::Tokens && x.cols == cols; };
    if (!fits(in.q, int64_t{shape.num_heads} * shape.key_dim) ||
        !fits(in.k, int64_t{shape.num_kv_heads} * shape.key_dim) ||
        !fits(in.v, int64_t{shape.num_kv_heads} * shape.value_dim) ||
        !fits(in.out, int64_t{shape.num_heads} * shape.value_dim))
        throw std::invalid_argument("paged_attention's operands are not its heads wide");
}

void build(const Instruction& each, Program& program) {
    const int key_dim = each.integer("head_dim");
    const AttentionShape shape{each.integer("num_heads"),
                               each.integer("num_kv_heads"),
                               key_dim,
                               each.has("value_dim") ? each.integer("value_dim") : key_dim,
                               each.number("scale"),
                               each.integer("window")};
    const Operands in{program.matrix(each.input(0)), program.matrix(each.input(1)),
                      program.matrix(each.input(2)), program.matrix(each.output)};
    check(in, shape);
    const int layer = each.integer("layer");
    program.kv.expect(layer, {shape.num_kv_heads, shape.key_dim, shape.value_dim}, !shape.window);
    const AttentionPlan& plan =
        program.attention_plans.of(shape.num_heads, shape.num_kv_heads, program.threads, program.limits);
    program.scratch.want_thread_floats(attention_scratch_floats(shape.key_dim, shape.value_dim));
    program.scratch.want_shared_floats(plan.max_splits() * split_part_floats(shape.value_dim));
    program.add(std::make_unique<PagedAttention>(program, plan, in, shape, layer));
}

const RegisteredOp paged_attention("paged_attention", build);

}  // namespace

}  // namespace octavo
