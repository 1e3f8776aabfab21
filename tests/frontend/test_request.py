"""What a request may ask for, and what its refusal says."""

from __future__ import annotations

import re
from typing import Any

import pytest
from support.fake_engine import EOS, VOCAB_SIZE, byte_tokenizer

from octavo.frontend.request import Prompt, RequestBuilder
from octavo.request_options import RequestOptions
from octavo.sampling_params import SamplingParams


def builder(seed: int = 0) -> RequestBuilder:
    return RequestBuilder(
        byte_tokenizer(), vocab_size=VOCAB_SIZE, max_model_len=32, eos_token_ids=[EOS], seed=seed
    )


@pytest.mark.parametrize(
    ("prompt", "text", "token_ids"),
    [
        ("ab", "ab", [97, 98]),
        ([1, 2], None, [1, 2]),
        ({"prompt": "é"}, "é", [0xC3, 0xA9]),
        ({"prompt_token_ids": [3]}, None, [3]),
        ({"prompt_token_ids": [3], "prompt": "shown", "cache_salt": "s"}, "shown", [3]),
    ],
)
def test_every_form_of_prompt(prompt: Prompt, text: str | None, token_ids: list[int]) -> None:
    request = builder().build(prompt, SamplingParams(), "r")
    assert (request.prompt, request.prompt_token_ids) == (text, token_ids)
    assert request.options.cache_salt == ("s" if "cache_salt" in prompt else "")


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "prompt is empty"),
        ([], "prompt is empty"),
        ("x" * 32, r"prompt is 32 tokens long and max_model_len \(--max-model-len\) is 32.* at most 31"),
        ([VOCAB_SIZE], "prompt holds token id 257; the model's vocabulary is 0 to 256"),
        ([5, -1], "prompt holds token id -1"),
        ([1, "a"], "prompt must be text or a list of token ids"),
        ([True], "prompt must be text or a list of token ids"),
        ([1.0], "prompt must be text or a list of token ids"),
        ({"prompt_token_ids": "abc"}, "prompt must be text or a list of token ids"),
        ({"text": "a"}, "prompt has no key 'text'"),
        ({}, "prompt must be text, a list"),
        (None, "prompt must be text, a list"),
        (7, "prompt must be text or"),
        ("\ud800", "prompt holds half a surrogate pair at 0"),
        ({"prompt": 3}, "prompt must be text, got int"),
        ({"prompt": "a", "cache_salt": "\udfff"}, "cache_salt holds half"),
    ],
)
def test_a_prompt_that_can_not_be(prompt: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        builder().build(prompt, SamplingParams(), "r")


@pytest.mark.parametrize(("asked", "given"), [(None, 30), (16, 16), (30, 30), (31, 30), (10**6, 30)])
def test_max_tokens_is_what_the_model_has_room_for(asked: int | None, given: int) -> None:
    params = SamplingParams(max_tokens=asked, min_tokens=16 if asked is None else asked)
    request = builder().build("ab", params, "r")
    assert request.params.max_tokens == given
    assert request.params.min_tokens <= given
    assert params.max_tokens == asked


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("stop_token_ids", [VOCAB_SIZE], "stop_token_ids must hold token ids"),
        ("logit_bias", {300: 1.0}, "logit_bias"),
        ("temperature", -1.0, "temperature must be between"),
        ("temperature", "hot", "temperature"),
        ("stop", ["\ud800"], "sampling_params|surrogates"),
        ("detokenize", "yes", "sampling_params.*detokenize"),
        ("n", 10**30, "sampling_params|n must be"),
        ("allowed_token_ids", object(), "sampling_params"),
    ],
)
def test_parameters_are_checked_again_whatever_was_set_since(field: str, value: Any, message: str) -> None:
    params = SamplingParams()
    setattr(params, field, value)
    with pytest.raises(ValueError, match=message):
        builder().build("ab", params, "r")


def test_parameters_are_the_requests_own() -> None:
    params = SamplingParams(stop=["x"], logit_bias={1: 2.0}, seed=-5)
    request = builder().build("ab", params, "r")
    params.stop.append("y")
    assert request.params.stop == ["x"]
    assert request.params.logit_bias == {1: 2.0}
    assert request.params.seed == -5


def test_seeds_are_drawn_in_order_from_the_engines() -> None:
    def drawn(seed: int) -> list[int | None]:
        requests = builder(seed)
        requests.build("given", SamplingParams(seed=1), "r")
        with pytest.raises(ValueError, match="empty"):
            requests.build("", SamplingParams(), "r")
        return [requests.build("ab", SamplingParams(), "r").params.seed for _ in range(3)]

    assert drawn(0) == drawn(0)
    assert drawn(0) != drawn(1)
    assert len(set(drawn(0))) == 3
    assert all(seed is not None and 0 <= seed < 2**63 for seed in drawn(0))


@pytest.mark.parametrize("priority", [2**31, "high", True])
def test_priority_is_checked(priority: Any) -> None:
    with pytest.raises(ValueError, match="priority"):
        builder().build("ab", SamplingParams(), "r", RequestOptions(priority=priority))


def test_messages_begin_with_the_field() -> None:
    for prompt in ("", "x" * 40, [999]):
        with pytest.raises(ValueError, match=re.compile("^prompt ")):
            builder().build(prompt, SamplingParams(), "r")


def test_stop_strings_are_bounded_in_all() -> None:
    SamplingParams(stop=["x" * 4096, "y" * 4096])
    with pytest.raises(ValueError, match="stop takes at most 8192 characters in all, got 8193"):
        SamplingParams(stop=["x" * 4096, "y" * 4097])


def test_bad_words_get_their_tokens() -> None:
    params = SamplingParams(bad_words=["no", " x"], bad_words_token_ids=[[1, 2]])
    request = builder().build("a", params, "r")
    assert request.params.bad_words_token_ids == [[1, 2], [110, 111], [120]]
    assert params.bad_words_token_ids == [[1, 2]]
    with pytest.raises(ValueError, match="bad_words_token_ids must hold token ids"):
        builder().build("a", SamplingParams(bad_words_token_ids=[[VOCAB_SIZE]]), "r")
