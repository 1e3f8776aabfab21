"""The promise of determinism as a property: a request's tokens do not depend on its company.

Whatever else runs, however prompts are chunked, whether blocks run out, are shared or were cached, and
wherever a stream is resumed, each request gives the tokens and log probabilities that it gives alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
from hypothesis import strategies as st

from octavo.engine.engine import Engine, EngineSettings
from octavo.engine.kv.kv_groups import KVGroup, most_blocks
from octavo.engine.messages import AddRequest, StepOutputs
from octavo.engine.scheduling.scheduler import SchedulerSettings
from octavo.request_options import RequestOptions
from octavo.sampling.logprobs import TokenLogprobs
from octavo.sampling_params import SamplingParams

EngineFactory = Callable[[EngineSettings], Engine]

EOS = 0
MOST_STEPS = 20_000


@dataclass
class Result:
    """All that a request gave."""

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprobs | None] | None = None
    finish_reason: str | None = None
    stop_reason: int | None = None

    def after(self, count: int) -> Result:
        """What is left to give once `count` tokens were given."""
        return Result(
            self.token_ids[count:],
            self.logprobs[count:],
            None if count else self.prompt_logprobs,
            self.finish_reason,
            self.stop_reason,
        )


def collect(results: dict[str, Result], step: StepOutputs) -> None:
    """Add a step's outputs to what each request gave; nothing may come after the end."""
    for output in step.outputs:
        result = results.setdefault(output.request_id, Result())
        assert result.finish_reason is None
        assert output.token_ids or output.finish_reason is not None
        if output.prompt_logprobs is not None:
            assert not result.token_ids
            result.prompt_logprobs = output.prompt_logprobs
        result.token_ids += output.token_ids
        result.logprobs += output.logprobs or []
        result.finish_reason, result.stop_reason = output.finish_reason, output.stop_reason


def run_to_end(
    engine: Engine, arrivals: list[tuple[int, AddRequest]], aborts: dict[str, int] | None = None
) -> dict[str, Result]:
    """Add each request before the step it arrives at, and step until nothing is left to do.

    `aborts` are request ids and the step before which each is aborted.
    """
    results: dict[str, Result] = {}
    pending = sorted(arrivals, key=lambda each: each[0])
    for number in range(MOST_STEPS):
        while pending and pending[0][0] <= number:
            engine.add(pending.pop(0)[1])
        engine.abort([request_id for request_id, at in (aborts or {}).items() if at == number])
        if engine.has_work:
            collect(results, engine.step())
        elif not pending:
            return results
    raise AssertionError("the engine does not finish")


def run_alone(
    factory: EngineFactory,
    request: AddRequest,
    max_model_len: int,
    vocab_size: int,
    groups: tuple[KVGroup, ...] = (KVGroup(),),
) -> Result:
    """What a request gives with nothing else going on and no limit in its way."""
    scheduler = SchedulerSettings(
        1, max_model_len, 1 + max_model_len, chunked_prefill=False, kv_groups=groups
    )
    num_blocks = most_blocks(groups, max_model_len, max_model_len)
    settings = EngineSettings(scheduler, max_model_len, vocab_size, num_blocks, prefix_caching=False)
    return run_to_end(factory(settings), [(0, request)])[request.request_id]


@st.composite
def sampling_params(draw: st.DrawFn, vocab_size: int, most_tokens: int) -> SamplingParams:
    """Parameters that use every path that depends on position or on earlier tokens."""
    token = st.integers(1, vocab_size - 1)
    max_tokens = draw(st.integers(1, most_tokens))
    return SamplingParams(
        temperature=draw(st.sampled_from([0.0, 1.0])),
        top_p=draw(st.sampled_from([1.0, 0.8])),
        seed=draw(st.integers(0, 3)),
        repetition_penalty=draw(st.sampled_from([1.0, 1.3])),
        frequency_penalty=draw(st.sampled_from([0.0, 0.5])),
        max_tokens=max_tokens,
        min_tokens=draw(st.integers(0, min(3, max_tokens))),
        ignore_eos=draw(st.booleans()),
        stop_token_ids=draw(st.lists(token, max_size=1)),
        bad_words_token_ids=draw(st.lists(st.lists(token, min_size=1, max_size=2), max_size=2)),
        logprobs=draw(st.sampled_from([None, 2])),
        prompt_logprobs=draw(st.sampled_from([None, None, None, 1])),
        skip_reading_prefix_cache=draw(st.sampled_from([None, None, True])),
    )


@st.composite
def requests(draw: st.DrawFn, *, most: int, vocab_size: int, max_model_len: int) -> list[AddRequest]:
    """Up to `most` requests, many of whose prompts begin alike."""
    half = max_model_len // 2
    seed = draw(st.integers(0, 1000))
    shared = [(seed + 7 * i * i) % vocab_size for i in range(half)]
    result = []
    for number in range(draw(st.integers(1, most))):
        own = draw(st.lists(st.integers(0, vocab_size - 1), min_size=1, max_size=20))
        prompt = shared[: draw(st.integers(0, half))] + own
        result.append(
            AddRequest(
                request_id=str(number),
                prompt_token_ids=prompt[: max_model_len - 1],
                params=draw(sampling_params(vocab_size, most_tokens=half // 2)),
                eos_token_ids=[EOS],
                arrival_time=float(number),
                options=RequestOptions(
                    priority=draw(st.integers(0, 1)),
                    cache_salt=draw(st.sampled_from(["", "", "other"])),
                    group=draw(st.sampled_from(["", "", "a group"])),
                ),
            )
        )
    return result


@st.composite
def engine_settings(
    draw: st.DrawFn, *, vocab_size: int, max_model_len: int, groups: tuple[KVGroup, ...] = (KVGroup(),)
) -> EngineSettings:
    """Engines from roomy to hardly able to run: few sequences, small chunks, few blocks."""
    max_num_seqs = draw(st.sampled_from([1, 2, 5, 32]))
    chunked_prefill = draw(st.booleans())
    budget = draw(st.integers(1, max_model_len)) if chunked_prefill else max_model_len
    one = most_blocks(groups, max_model_len, budget)
    return EngineSettings(
        SchedulerSettings(
            max_num_seqs,
            budget,
            max_num_seqs + draw(st.sampled_from([0, 1, 7, 40])),
            chunked_prefill=chunked_prefill,
            kv_groups=groups,
        ),
        max_model_len,
        vocab_size,
        num_blocks=draw(st.sampled_from([one, one + 1, 2 * one, 8 * one])),
        prefix_caching=draw(st.booleans()),
        async_scheduling=draw(st.booleans()),
    )


def check_batch_invariance(
    factory: EngineFactory,
    alone: Callable[[AddRequest], Result],
    settings: EngineSettings,
    batch: list[AddRequest],
    data: st.DataObject,
) -> None:
    """Compare what each request of `batch` gives together on an engine of `settings` and `alone`.

    Some arrive late, some are aborted on the way, and some are streams resumed after some of their tokens.
    """
    arrivals, expected, aborts = [], {}, {}
    for request in batch:
        whole = alone(request)
        assert whole.finish_reason in ("stop", "length")
        given = data.draw(st.integers(0, len(whole.token_ids)) | st.just(0), label="tokens given before")
        resumed = msgspec.structs.replace(request, output_token_ids=whole.token_ids[:given])
        arrives = data.draw(st.integers(0, 8), label="arrives at step")
        arrivals.append((arrives, resumed))
        expected[request.request_id] = whole.after(given)
        if data.draw(st.integers(0, 4), label="is aborted if 0") == 0:
            aborts[request.request_id] = arrives + data.draw(st.integers(1, 10), label="aborted after steps")
    results = run_to_end(factory(settings), arrivals, aborts)
    for request_id in aborts:
        result, whole = results.pop(request_id, Result()), expected.pop(request_id)
        assert result.token_ids == whole.token_ids[: len(result.token_ids)]
        assert result.logprobs == whole.logprobs[: len(result.logprobs)]
    assert results == expected
