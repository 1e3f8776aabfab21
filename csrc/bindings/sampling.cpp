// The Python binding of the sampler.
#include "sampling/sampling.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <stdexcept>
#include <tuple>

#include "bindings/bindings.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace octavo {
namespace {

using Logits = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Ids = nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Counts = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Seen = std::tuple<size_t, Ids, Counts>;
using Banned = std::tuple<size_t, std::vector<int64_t>>;
using Mask = std::tuple<size_t, nb::ndarray<const uint32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>>;
using LogprobsTuple = std::tuple<std::vector<int64_t>, std::vector<double>, int64_t>;

LogprobsTuple to_tuple(Logprobs& from) {
    return {std::move(from.token_ids), std::move(from.logprobs), from.rank};
}

void require(bool ok, const char* what) {
    if (!ok) throw std::invalid_argument(what);
}

std::tuple<std::vector<int64_t>, std::vector<size_t>, std::vector<LogprobsTuple>> sample(
    Sampler& sampler, Logits logits, const std::vector<const SamplingPlan*>& plans,
    const std::vector<int64_t>& num_outputs, const std::vector<Seen>& seen, const std::vector<Banned>& banned,
    const std::vector<Mask>& masks) {
    const size_t count = logits.shape(0);
    const auto vocab = static_cast<int64_t>(logits.shape(1));
    require(plans.size() == count && num_outputs.size() == count,
            "logits have another number of rows than there are plans or num_outputs");
    std::vector<SamplingRow> rows(count);
    for (size_t row = 0; row < count; ++row) {
        require(plans[row]->vocab_size <= vocab, "a plan is of a larger vocabulary than the logits");
        rows[row] = {plans[row], num_outputs[row], {}, {}, {}, {}};
    }
    for (const auto& [row, ids, counts] : seen) {
        require(row < count && ids.shape(0) == counts.shape(0), "seen tokens do not fit the rows");
        for (size_t i = 0; i < ids.shape(0); ++i)
            require(ids(i) >= 0 && ids(i) < vocab, "a seen token is outside the vocabulary");
        rows[row].seen = {ids.data(), ids.shape(0)};
        rows[row].counts = {counts.data(), counts.shape(0)};
    }
    for (const auto& [row, ids] : banned) {
        require(row < count, "a banned token is of no row");
        for (int64_t id : ids) require(id >= 0 && id < vocab, "a banned token is outside the vocabulary");
        rows[row].banned = ids;
    }
    for (const auto& [row, bits] : masks) {
        require(row < count && static_cast<int64_t>(bits.shape(0)) >= (vocab + 31) / 32,
                "a mask does not fit the rows");
        rows[row].mask = {bits.data(), bits.shape(0)};
    }
    std::vector<Sampled> sampled(count);
    {
        nb::gil_scoped_release released;
        sampler.sample(logits.data(), vocab, rows, sampled.data());
    }
    std::vector<int64_t> token_ids;
    std::vector<size_t> impossible;
    std::vector<LogprobsTuple> logprobs;
    for (size_t row = 0; row < count; ++row) {
        token_ids.push_back(sampled[row].token_id);
        if (!sampled[row].possible) impossible.push_back(row);
        if (plans[row]->num_logprobs >= 0) logprobs.push_back(to_tuple(sampled[row].logprobs));
    }
    return {token_ids, impossible, logprobs};
}

std::vector<LogprobsTuple> score(Sampler& sampler, Logits logits, Ids token_ids, int64_t count) {
    const size_t rows = logits.shape(0);
    require(token_ids.shape(0) == rows, "logits have another number of rows than there are token ids");
    for (size_t row = 0; row < rows; ++row)
        require(token_ids(row) >= 0 && token_ids(row) < static_cast<int64_t>(logits.shape(1)),
                "a token id is outside the vocabulary");
    std::vector<Logprobs> scores(rows);
    {
        nb::gil_scoped_release released;
        sampler.score(logits.data(), static_cast<int64_t>(logits.shape(1)), {token_ids.data(), rows}, count,
                      scores.data());
    }
    std::vector<LogprobsTuple> out;
    for (Logprobs& each : scores) out.push_back(to_tuple(each));
    return out;
}

void make_plan(SamplingPlan* self, int64_t vocab_size, int64_t num_prompt, int64_t min_tokens, bool greedy,
               float scale, float floor, int64_t top_k, double top_p, uint64_t seed, int num_logprobs,
               float repetition_penalty, float frequency_penalty, float presence_penalty,
               std::optional<std::vector<int32_t>> allowed, std::vector<int32_t> bias_ids,
               std::vector<float> bias, std::vector<int32_t> stop_ids) {
    require(bias_ids.size() == bias.size(), "bias_ids and bias differ in length");
    const bool restricted = allowed.has_value();
    SamplingPlan plan{vocab_size,
                      num_prompt,
                      min_tokens,
                      greedy,
                      {scale, floor, top_k, top_p},
                      seed,
                      num_logprobs,
                      repetition_penalty,
                      frequency_penalty,
                      presence_penalty,
                      restricted,
                      std::move(allowed).value_or(std::vector<int32_t>{}),
                      std::move(bias_ids),
                      std::move(stop_ids),
                      std::move(bias)};
    for (const auto* ids : {&plan.allowed, &plan.bias_ids, &plan.stop_ids})
        for (int32_t id : *ids) require(id >= 0 && id < vocab_size, "a token id is outside the vocabulary");
    new (self) SamplingPlan(std::move(plan));
}

}  // namespace

void bind_sampling(nb::module_& module) {
    nb::class_<SamplingPlan>(module, "SamplingPlan")
        .def("__init__", &make_plan, nb::kw_only(), "vocab_size"_a, "num_prompt"_a, "min_tokens"_a,
             "greedy"_a, "scale"_a, "floor"_a, "top_k"_a, "top_p"_a, "seed"_a, "num_logprobs"_a,
             "repetition_penalty"_a, "frequency_penalty"_a, "presence_penalty"_a, "allowed"_a.none(),
             "bias_ids"_a, "bias"_a, "stop_ids"_a);
    nb::class_<Sampler>(module, "Sampler").def("sample", &sample).def("score", &score);
}

}  // namespace octavo
