// Walks a Program: every thread goes through the instructions together, with a barrier after each.
//
// All memory is taken before the first step. Work inside an instruction is handed out in pieces from a
// counter, so a slow hyperthread takes fewer of them; results do not depend on who computed what.
#pragma once

#include <array>
#include <atomic>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "executor/attention_plan.h"
#include "executor/step.h"
#include "executor/thread_pool.h"
#include "kernels/tables/kernels.h"

namespace octavo {

// Anonymous mapped memory: zero, 2 MiB pages where the kernel gives them, committed on first touch.
class Region {
  public:
    Region() = default;
    explicit Region(size_t bytes);
    ~Region();
    Region(Region&& other) noexcept;
    Region& operator=(Region&& other) noexcept;

    uint8_t* data() const { return data_; }
    size_t bytes() const { return bytes_; }

  private:
    uint8_t* data_ = nullptr;
    size_t bytes_ = 0;
};

// Reads the pages of a mapped file that hold `data`, a piece while the disk already has the next one to read.
// Page faults would wait for each of the pieces that the file system reads ahead, often 128 KiB.
void fetch(const uint8_t* data, size_t bytes);

struct RawTensor {
    Encoding encoding;
    int64_t rows;
    int64_t cols;
    const uint8_t* data;  // kept alive by the owner
};

struct View {
    int buffer;
    int start;
    int cols;
};

// What the rows of a buffer count; octavo/runtime/program.py has them in the same order.
enum class Rows { Tokens, Outputs };
constexpr size_t kRowKinds = 2;

struct Limits {
    std::array<int64_t, kRowKinds> max_rows;
    int64_t max_position;  // most tokens of a sequence
    int64_t vocab_size;
};

class Executor {
  public:
    Executor(int threads, const Kernels& kernels, Limits limits);

    // Fills `out` with `count` panels of the weight, from `first` on, from the raw rows of all of it.
    void pack(const PackedWeight& weight, const uint8_t* raw, int64_t first, int64_t count, uint8_t* out);

    // Building, in this order: buffers, weights, instructions, then finish(). What linears multiply by has to
    // be packed; all other weights are raw.
    void add_buffer(Rows rows, int cols, int offset);
    void add_weight(const std::string& name, RawTensor tensor);
    void add_packed(const std::string& name, PackedWeight weight);
    using Attributes = std::map<std::string, std::variant<int64_t, double, std::string>>;
    void add_instruction(const std::string& op, const std::vector<View>& inputs, View output,
                         const std::vector<std::string>& weights, const Attributes& attributes);
    void finish(const std::array<int64_t, kRowKinds>& arena_cols, View result);
    // `groups` are the layers that share a block table, of all layers each in one. A block has a plane for
    // each layer of the largest group, and is of whichever group has it in a table.
    void allocate_kv_cache(const std::vector<std::vector<int>>& groups, int num_kv_heads, int head_dim,
                           KVType type, int64_t blocks);

    // Whole blocks, all planes: copied pair by pair in order, or to and from [blocks][block_bytes()].
    void copy_blocks(std::span<const int32_t> sources, std::span<const int32_t> destinations);
    void read_blocks(std::span<const int32_t> blocks, uint8_t* data) const;
    void write_blocks(std::span<const int32_t> blocks, const uint8_t* data);
    size_t block_bytes() const;

    // Runs one step and returns the result's rows, valid until the next call. Throws std::invalid_argument
    // for a step that does not fit the limits, the vocabulary, the rope table or the KV cache.
    const float* run(const Step& step);
    int result_cols() const { return result_.cols; }
    size_t weight_bytes() const;
    int threads() const { return pool_.size(); }
    ThreadPool& pool() { return pool_; }
    const Kernels& kernels() const { return kernels_; }
    const char* isa() const { return kernels_.name; }

  private:
    struct Buffer {
        Rows rows;
        int cols;
        int offset;
        float* data = nullptr;
    };
    struct LinearPart {
        PackedWeight weight;
        const float* bias;
        int column;
    };
    // One op, resolved: `go` is called by every thread with the step.
    struct Instruction {
        enum class Op {
            Embedding,
            RmsNorm,
            HeadRmsNorm,
            Linear,
            Rope,
            Attention,
            SiluMul,
            Add,
            GatherRows
        } op;
        std::vector<View> inputs;
        View output{};
        std::vector<LinearPart> parts;   // Linear
        bool integer = false;            // Linear: any part with integer weights
        const int32_t* order = nullptr;  // Linear: of all parts
        const float* weight = nullptr;   // norms, rope
        RawTensor table{};               // Embedding
        AttentionShape shape{};          // Attention
        int layer = 0;                   // Attention
        int head_dim = 0, rotary_dim = 0;
        float eps = 0;
    };
    struct CachedLayer {
        KVLayer kv;
        int group;
    };
    void check(const Step& step) const;
    void check_blocks(std::span<const int32_t> blocks) const;
    void execute(size_t index, const Step& step, int thread);
    void linear(const Instruction& each, int64_t rows, size_t index, int thread);
    void attention(const Instruction& each, const Step& step, size_t index, int thread);
    float* at(View view) const { return buffers_[view.buffer].data + view.start; }
    int64_t stride(View view) const { return buffers_[view.buffer].cols; }
    int64_t rows(View view, const Step& step) const {
        return buffers_[view.buffer].rows == Rows::Outputs ? step.outputs() : step.tokens();
    }
    const RawTensor& tensor(const std::string& name) const;
    const PackedWeight& packed(const std::string& name) const;
    void add_linear(const Instruction& each);
    const float* floats(const std::string& name);

    // Calls f(item) for the items [0, count) that this thread gets, `size` at a time.
    template <typename F>
    void share(size_t index, int64_t count, int64_t size, F f) {
        std::atomic<int64_t>& next = counters_[index].next;
        for (int64_t first = next.fetch_add(size); first < count; first = next.fetch_add(size))
            for (int64_t item = first; item < std::min(first + size, count); ++item) f(item);
    }

    // Calls f(first, last) for ranges of [0, count): long ones first, as memory is fastest at long reads,
    // then ever shorter ones, so that the threads end together.
    template <typename F>
    void share_shrinking(size_t index, int64_t count, int64_t least, F f) {
        std::atomic<int64_t>& next = counters_[index].next;
        for (int64_t first = next.load(); first < count;) {
            const int64_t share = (count - first) * 4 / (5 * pool_.size()) / least * least;
            const int64_t last = std::min(first + std::max(least, share), count);
            if (!next.compare_exchange_weak(first, last)) continue;
            f(first, last);
            first = next.load();
        }
    }

    struct alignas(64) Counter {
        std::atomic<int64_t> next{0};
    };

    ThreadPool pool_;
    const Kernels& kernels_;
    Limits limits_;
    std::vector<Buffer> buffers_;
    std::map<std::string, RawTensor> tensors_;
    std::map<std::string, PackedWeight> packed_;
    std::map<std::string, std::vector<float>> float_weights_;
    std::vector<Instruction> instructions_;
    std::unique_ptr<Counter[]> counters_;
    View result_{};
    Region arena_, scratch_, kv_;
    QuantisedRows quantised_{};
    std::vector<float*> attention_scratch_;
    AttentionPlan attention_plan_;
    Region parts_;  // of the splits
    std::vector<KVLayer> planes_;
    std::vector<CachedLayer> layers_;
    std::vector<int> full_groups_;
    int64_t groups_ = 0;
    int64_t blocks_ = 0;
};

}  // namespace octavo
