"""When a sequence ends, and what its blocks are called."""

from __future__ import annotations

import pytest

from octavo.engine.kv.block_hash import BlockHasher
from octavo.engine.messages import AddRequest
from octavo.engine.sequence import Sequence
from octavo.request_options import RequestOptions
from octavo.sampling.state import SamplingState
from octavo.sampling_params import SamplingParams

EOS, STOP = 2, 9
HASHER = BlockHasher()


def make_sequence(prompt: list[int], output: list[int], max_model_len: int = 100, **params) -> Sequence:
    settings = SamplingParams(**{"temperature": 0.0, "max_tokens": 4, "stop_token_ids": [STOP], **params})
    request = AddRequest("a", prompt, settings, [EOS], 0.0, output, RequestOptions(cache_salt="salt"))
    sampling = SamplingState(settings, prompt, output, [EOS], 100)
    return Sequence(request, 0, max_model_len, sampling, HASHER)


@pytest.mark.parametrize(
    ("sequence", "reason"),
    [
        (make_sequence([1], [5]), None),
        (make_sequence([1], [5, EOS]), ("stop", None)),
        (make_sequence([1], [5, EOS], ignore_eos=True), None),
        (make_sequence([1], [5, STOP]), ("stop", STOP)),
        (make_sequence([1], [5, 5, 5, 5]), ("length", None)),
        (make_sequence([1], [5, 5, 5, EOS]), ("stop", None)),
        (make_sequence([1], [5, 5], 3), ("length", None)),
        (make_sequence([1], [5, 5], 3, max_tokens=None), ("length", None)),
        (make_sequence([1, EOS], []), None),
        (make_sequence([1, 1, 1], [], 3), ("length", None)),
    ],
)
def test_finish_reason(sequence: Sequence, reason: tuple[str, int | None] | None):
    assert sequence.finish_reason() == reason


def test_digests_grow_with_the_tokens_and_depend_on_the_salt():
    tokens = list(range(50))
    sequence = make_sequence(tokens[:20], tokens[20:40])
    expected = HASHER.chain(HASHER.root("salt"), tokens)
    assert sequence.block_digests(1) == expected[:1]
    assert sequence.block_digests(2) == expected[:2]
    sequence.token_ids += tokens[40:]
    assert sequence.block_digests(3) == expected
    assert sequence.block_digests(2) == expected[:2]
    assert expected != HASHER.chain(HASHER.root(""), tokens)


def test_a_resumed_stream_has_sent_its_prompt_log_probabilities():
    assert make_sequence([1], [], prompt_logprobs=3).num_prompt_logprobs == 3
    assert make_sequence([1], [5], prompt_logprobs=3).num_prompt_logprobs is None
