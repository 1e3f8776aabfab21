"""`/v1/completions` through OpenAI's own client and by hand."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from support.fake_engine import byte_tokenizer
from support.live_server import LiveServer

ARGUMENTS: dict[str, Any] = {"model": "hash", "prompt": "Once upon", "max_tokens": 12, "seed": 5}


def complete(server: LiveServer, **arguments: Any) -> Any:
    return server.openai.completions.create(**{**ARGUMENTS, **arguments})


def test_a_completion_has_text_reason_and_usage(server: LiveServer) -> None:
    completion = complete(server)
    [choice] = completion.choices
    assert completion.id.startswith("cmpl-")
    assert completion.object == "text_completion"
    assert completion.model == "hash"
    assert choice.text
    assert choice.finish_reason == "length"
    usage = completion.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (9, 12, 21)


@pytest.mark.parametrize("arguments", [{}, {"n": 3}, {"prompt": ["Once", "twice"], "n": 2}, {"logprobs": 2}])
def test_a_stream_gives_what_a_whole_response_gives(server: LiveServer, arguments: dict[str, Any]) -> None:
    whole = complete(server, **arguments)
    texts = [""] * len(whole.choices)
    reasons: list[str | None] = [None] * len(whole.choices)
    logprobs: list[list[float]] = [[] for _ in whole.choices]
    offsets: list[list[int]] = [[] for _ in whole.choices]
    for chunk in complete(server, stream=True, **arguments):
        assert chunk.usage is None
        [choice] = chunk.choices
        texts[choice.index] += choice.text
        reasons[choice.index] = choice.finish_reason
        if choice.logprobs is not None:
            logprobs[choice.index] += choice.logprobs.token_logprobs
            offsets[choice.index] += choice.logprobs.text_offset
    assert [choice.index for choice in whole.choices] == list(range(len(texts)))
    assert texts == [choice.text for choice in whole.choices]
    assert reasons == [choice.finish_reason for choice in whole.choices]
    if "logprobs" in arguments:
        assert logprobs == [choice.logprobs.token_logprobs for choice in whole.choices]
        assert offsets == [choice.logprobs.text_offset for choice in whole.choices]


def test_completions_of_one_prompt_differ_and_repeat_with_the_seed(server: LiveServer) -> None:
    first = [choice.text for choice in complete(server, n=4).choices]
    assert len(set(first)) == 4
    assert first == [choice.text for choice in complete(server, n=4).choices]
    assert first != [choice.text for choice in complete(server, n=4, seed=6).choices]


def test_prompts_are_text_or_token_ids_one_or_many(server: LiveServer) -> None:
    tokenizer = byte_tokenizer()
    one, two = tokenizer.encode("one"), tokenizer.encode("the other")
    expected = [complete(server, prompt=text).choices[0].text for text in ("one", "the other")]
    assert complete(server, prompt=one).choices[0].text == expected[0]
    for prompt in (["one", "the other"], [one, two]):
        completion = complete(server, prompt=prompt)
        assert [choice.text for choice in completion.choices] == expected
        assert completion.usage.prompt_tokens == len(one) + len(two)


def test_max_tokens_is_16_by_default_or_what_there_is_room_for(server: LiveServer) -> None:
    assert complete(server, max_tokens=None, extra_body={"ignore_eos": True}).usage.completion_tokens == 16
    long = complete(server, max_tokens=None, prompt="x" * 250, extra_body={"ignore_eos": True})
    assert long.usage.completion_tokens == 6


def test_logprobs_hold_the_token_and_the_most_likely(server: LiveServer) -> None:
    logprobs = complete(server, logprobs=3).choices[0].logprobs
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.top_logprobs) == 12
    assert logprobs.text_offset[0] == 0
    for token, logprob, top in zip(
        logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, strict=True
    ):
        assert top[token] == logprob
        assert 1 <= len(top) <= 4
    assert complete(server, logprobs=0).choices[0].logprobs.top_logprobs is None


def test_echo_puts_the_prompt_first(server: LiveServer) -> None:
    text = complete(server).choices[0].text
    assert complete(server, echo=True).choices[0].text == "Once upon" + text
    ids = byte_tokenizer().encode("Once upon")
    assert complete(server, prompt=ids, echo=True).choices[0].text == "Once upon" + text
    streamed = "".join(chunk.choices[0].text for chunk in complete(server, echo=True, stream=True))
    assert streamed == "Once upon" + text


def test_echo_with_logprobs_scores_the_prompt(server: LiveServer) -> None:
    completion = complete(server, prompt="abc", echo=True, logprobs=1, max_tokens=2)
    logprobs = completion.choices[0].logprobs
    assert logprobs.tokens[:3] == ["a", "b", "c"]
    assert logprobs.token_logprobs[0] is None
    assert logprobs.top_logprobs[0] is None
    assert all(logprob < 0 for logprob in logprobs.token_logprobs[1:])
    assert len(logprobs.tokens) == 5
    alone = complete(server, prompt="abc", echo=True, logprobs=1, max_tokens=0)
    assert alone.choices[0].text == "abc"
    assert alone.choices[0].logprobs.token_logprobs == logprobs.token_logprobs[:3]
    assert alone.usage.completion_tokens == 0


def test_echo_with_logprobs_in_a_stream(server: LiveServer) -> None:
    arguments: dict[str, Any] = {"prompt": "abc", "echo": True, "logprobs": 1, "max_tokens": 4}
    whole = complete(server, **arguments).choices[0].logprobs
    chunks = [chunk.choices[0].logprobs for chunk in complete(server, stream=True, **arguments)]
    for name in ("tokens", "token_logprobs", "text_offset"):
        assert [each for chunk in chunks if chunk for each in getattr(chunk, name)] == getattr(whole, name)


def test_tokens_can_be_named_by_their_ids(server: LiveServer) -> None:
    texts = complete(server, logprobs=2).choices[0].logprobs
    body = {"return_tokens_as_token_ids": True, "return_token_ids": True}
    [choice] = complete(server, logprobs=2, extra_body=body).choices
    assert choice.logprobs.tokens == [f"token_id:{token_id}" for token_id in choice.token_ids]
    assert choice.logprobs.text_offset == texts.text_offset
    for token, logprob, top in zip(
        choice.logprobs.tokens, texts.token_logprobs, choice.logprobs.top_logprobs, strict=True
    ):
        assert top[token] == logprob


def test_bad_words_are_never_put_out(server: LiveServer) -> None:
    text = complete(server, max_tokens=60, temperature=0, extra_body={"ignore_eos": True}).choices[0].text
    word = re.findall("[!-~]{2}", text)[0]
    body = {"ignore_eos": True, "bad_words": [word]}
    assert word not in complete(server, max_tokens=60, temperature=0, extra_body=body).choices[0].text


def test_the_model_s_sampling_defaults_hold_where_a_request_does_not_say(server: LiveServer) -> None:
    server.engine.sampling_defaults = {"temperature": 0.0, "top_k": 5, "max_tokens": 7}
    try:
        body = {"prompt": "x", "top_k": 3, "ignore_eos": True}
        usage = server.post("/v1/completions", **body).json()["usage"]
        params = server.engine.fake_client.requests[-1].params
        assert (params.temperature, params.top_k, usage["completion_tokens"]) == (0.0, 3, 7)
        usage = server.post("/v1/completions", **body, max_tokens=9).json()["usage"]
        assert usage["completion_tokens"] == 7
        messages = [{"role": "user", "content": "hi"}]
        chat = server.post("/v1/chat/completions", messages=messages, ignore_eos=True).json()
        assert chat["usage"]["completion_tokens"] == 7
        assert server.engine.fake_client.requests[-1].params.top_k == 5
    finally:
        server.engine.sampling_defaults = {}


def test_stop_strings_and_stop_tokens(server: LiveServer) -> None:
    text = complete(server, max_tokens=40, temperature=0, extra_body={"ignore_eos": True}).choices[0].text
    stop = text[3:5]
    stopped = complete(server, max_tokens=40, temperature=0, stop=[stop], extra_body={"ignore_eos": True})
    assert stopped.choices[0].text == text[: text.index(stop)]
    assert stopped.choices[0].finish_reason == "stop"
    assert stopped.choices[0].stop_reason == stop
    body = {"ignore_eos": True, "include_stop_str_in_output": True}
    kept = complete(server, max_tokens=40, temperature=0, stop=stop, extra_body=body)
    assert kept.choices[0].text == text[: text.index(stop) + len(stop)]


def test_usage_of_a_stream(server: LiveServer) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = list(complete(server, stream=True, stream_options=options))
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 12
    counts = [chunk.usage.completion_tokens for chunk in chunks]
    assert counts == sorted(counts)
    assert all(chunk.choices for chunk in chunks[:-1])


def test_token_ids_are_returned_on_request(server: LiveServer) -> None:
    prompt_ids = byte_tokenizer().encode("Once upon")
    [choice] = complete(server, extra_body={"return_token_ids": True}).choices
    assert choice.prompt_token_ids == prompt_ids
    assert len(choice.token_ids) == 12
    chunks = list(complete(server, stream=True, extra_body={"return_token_ids": True}))
    assert chunks[0].choices[0].prompt_token_ids == prompt_ids
    assert [i for chunk in chunks for i in chunk.choices[0].token_ids] == choice.token_ids
    assert not hasattr(chunks[1].choices[0], "prompt_token_ids")


def test_prompt_logprobs_by_token_id(server: LiveServer) -> None:
    [choice] = complete(server, prompt="ab", extra_body={"prompt_logprobs": 1}).choices
    first, second = choice.prompt_logprobs
    assert first is None
    assert second["98"]["decoded_token"] == "b"
    assert second["98"]["logprob"] < 0


def test_parameters_reach_the_engine(server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {
        "top_k": 7,
        "min_p": 0.1,
        "repetition_penalty": 1.2,
        "min_tokens": 2,
        "stop_token_ids": [65],
        "ignore_eos": True,
        "skip_special_tokens": False,
        "spaces_between_special_tokens": False,
        "include_stop_str_in_output": True,
        "allowed_token_ids": [66, 67],
        "logit_bias": {"66": 1.5},
        "temperature": 0.5,
        "top_p": 0.9,
        "presence_penalty": 0.25,
        "frequency_penalty": -0.5,
    }
    body = {**ARGUMENTS, **given, "priority": -3, "cache_salt": "s", "request_id": "mine"}
    monkeypatch.setattr(server.engine.config, "scheduling_policy", "priority")
    response = server.http.post("/v1/completions", json=body)
    assert response.status_code == 200, response.text
    assert response.json()["id"] == "cmpl-mine"
    request = server.engine.fake_client.requests[-1]
    for name, value in given.items():
        expected = {66: 1.5} if name == "logit_bias" else value
        assert getattr(request.params, name) == expected, name
    assert (request.options.priority, request.options.cache_salt, request.params.seed) == (-3, "s", 5)
    assert "cmpl-mine" in request.request_id


def test_truncation_keeps_the_last_tokens(server: LiveServer) -> None:
    kept = complete(server, prompt="xxOnce upon", extra_body={"truncate_prompt_tokens": 9})
    assert kept.choices[0].text == complete(server).choices[0].text
    assert kept.usage.prompt_tokens == 9
    most = complete(server, prompt="x" * 400, extra_body={"truncate_prompt_tokens": -1})
    assert most.usage.prompt_tokens == 256 - 12


def test_the_same_request_id_twice_at_once(server: LiveServer) -> None:
    body = {**ARGUMENTS, "prompt": ["a", "b"], "request_id": "same"}
    with server.http.stream("POST", "/v1/completions", json={**body, "stream": True}) as first:
        assert server.post("/v1/completions", **body).status_code == 200
        assert first.status_code == 200
        assert first.read().endswith(b"data: [DONE]\n\n")


def test_the_wire_format_of_a_stream(server: LiveServer) -> None:
    with server.http.stream("POST", "/v1/completions", json={**ARGUMENTS, "stream": True}) as response:
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        events = response.read().decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    first = json.loads(events[0].removeprefix("data: "))
    assert set(first) == {"id", "object", "created", "model", "choices"}
    assert set(first["choices"][0]) == {"index", "text", "logprobs", "finish_reason", "stop_reason"}
