"""A model whose layers differ in what they see, in the whole engine, against transformers."""

from __future__ import annotations

import numpy as np
import pytest
from support.batch_invariance import Result, run_to_end
from support.tiny_models import expected_logits

from octavo.config import EngineConfig
from octavo.engine.build import build_engine
from octavo.engine.messages import AddRequest
from octavo.sampling_params import SamplingParams

MAX_MODEL_LEN = 512


def make_requests() -> list[AddRequest]:
    """Prompts of up to eight windows, most of which begin alike."""
    random = np.random.default_rng(5)
    shared = random.integers(0, 160, 300).tolist()
    requests = []
    for number in range(8):
        own = random.integers(0, 160, int(random.integers(1, 60))).tolist()
        prompt = shared[: 130 + 20 * number] + own
        params = SamplingParams(temperature=0.0, max_tokens=40, ignore_eos=True, logprobs=0)
        requests.append(AddRequest(str(number), prompt, params, [], float(number)))
    return requests


def check(requests: list[AddRequest], results: dict[str, Result], model) -> None:
    for request in requests:
        result = results[request.request_id]
        assert len(result.token_ids) == 40
        tokens = request.prompt_token_ids + result.token_ids
        logits = expected_logits(model, tokens).astype(np.float64)[:-1]
        expected = logits[range(len(logits)), tokens[1:]] - np.log(np.exp(logits).sum(axis=1))
        given = [entry.logprobs[0] for entry in result.logprobs]
        np.testing.assert_allclose(given, expected[-40:], atol=2e-4)


@pytest.mark.parametrize("backend", ["reference", "native"])
def test_log_probabilities_are_those_of_transformers(backend: str, tiny_model):
    """Chunked, batched, preempted and, the second time, cached."""
    tiny = tiny_model("qwen2-hybrid")
    config = EngineConfig(
        model=str(tiny.path),
        backend=backend,
        dtype="float32",
        kv_cache_dtype="float32",
        max_model_len=MAX_MODEL_LEN,
        max_num_batched_tokens=48,
        num_gpu_blocks_override=100,
    )
    engine = build_engine(config)
    groups = [len(group.layers) for group in engine._settings.scheduler.kv_groups]
    assert groups == [1] * 5
    requests = make_requests()
    first = run_to_end(engine, [(2 * number, request) for number, request in enumerate(requests)])
    check(requests, first, tiny.model)
    stats = engine.step().stats
    assert stats.num_preemptions > 0
    assert stats.prefix_cache_hits > 0
    assert stats.num_free_blocks == 100

    again = run_to_end(engine, [(0, request) for request in reversed(requests)])
    check(requests, again, tiny.model)
    if backend == "native":
        assert again == first  # Bit for bit.
    assert engine.step().stats.prefix_cache_hits > stats.prefix_cache_hits
