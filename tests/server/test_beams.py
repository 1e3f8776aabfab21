"""Beam search and best_of through the API."""

from __future__ import annotations

from typing import Any

import pytest
from support.fake_engine import byte_tokenizer
from support.live_server import LiveServer, live_server

BEAMS: dict[str, Any] = {
    "model": "hash",
    "prompt": "Once upon",
    "use_beam_search": True,
    "n": 4,
    "max_tokens": 6,
}


def post(server: LiveServer, **body: Any) -> Any:
    response = server.post("/v1/completions", **{**BEAMS, **body})
    assert response.status_code == 200, response.text
    return response.json()


def scores(choices: list[Any]) -> list[float]:
    return [sum(choice["logprobs"]["token_logprobs"]) for choice in choices]


def test_beams_are_more_likely_than_what_greedy_search_finds(server: LiveServer) -> None:
    found = post(server, logprobs=1, ignore_eos=True, return_token_ids=True, return_tokens_as_token_ids=True)
    greedy = post(server, logprobs=1, ignore_eos=True, use_beam_search=None, n=1, temperature=0)
    beams = scores(found["choices"])
    assert [choice["index"] for choice in found["choices"]] == [0, 1, 2, 3]
    assert beams == sorted(beams, reverse=True)
    assert beams[0] >= scores(greedy["choices"])[0] - 1e-5
    assert len({tuple(choice["token_ids"]) for choice in found["choices"]}) == 4
    assert found["usage"]["completion_tokens"] == 4 * 6
    assert {choice["finish_reason"] for choice in found["choices"]} == {"length"}
    for choice in found["choices"]:
        for own, top in zip(choice["token_ids"], choice["logprobs"]["top_logprobs"], strict=True):
            assert 1 <= len(top) <= 2
            assert f"token_id:{own}" in top
    assert post(server)["choices"][0]["logprobs"] is None


def test_a_stream_has_all_at_the_end(server: LiveServer) -> None:
    whole = [choice["text"] for choice in post(server)["choices"]]
    texts = [""] * 4
    body = {key: value for key, value in BEAMS.items() if key not in ("model", "prompt", "n", "max_tokens")}
    for chunk in server.openai.completions.create(
        model="hash", prompt="Once upon", n=4, max_tokens=6, stream=True, extra_body=body
    ):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == whole


def test_the_length_penalty_counts(server: LiveServer) -> None:
    def lengths(penalty: float) -> int:
        choices = post(server, length_penalty=penalty, max_tokens=40, return_token_ids=True)["choices"]
        return sum(len(choice["token_ids"]) for choice in choices)

    assert lengths(-5.0) < lengths(5.0)


def test_chat(server: LiveServer) -> None:
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5, "n": 3, "use_beam_search": True}
    response = server.post("/v1/chat/completions", **body)
    assert response.status_code == 200, response.text
    assert len(response.json()["choices"]) == 3


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"n": 51}, "n"),
        ({"stop": ["a"]}, "stop"),
        ({"presence_penalty": 1.0}, "presence_penalty"),
        ({"echo": True}, "echo"),
        ({"length_penalty": 100.0}, "length_penalty"),
        ({"use_beam_search": False, "length_penalty": 2.0}, "length_penalty"),
    ],
)
def test_what_can_not_be_is_refused_by_name(server: LiveServer, more: dict[str, Any], param: str) -> None:
    response = server.post("/v1/completions", **{**BEAMS, **more})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


def test_time_is_limited() -> None:
    with live_server(clock_seconds=10.0) as server:
        found = post(server, timeout=55.0, max_tokens=100, ignore_eos=True, return_token_ids=True)
        for choice in found["choices"]:
            assert choice["finish_reason"] == "timeout"
            assert 0 < len(choice["token_ids"]) < 10
        server.hold()
        response = server.post("/v1/completions", **BEAMS, timeout=0.001)
        assert response.status_code == 504
        assert not server.engine.fake_client._engine.has_work


def test_the_best_of_many_by_log_probability(server: LiveServer) -> None:
    ask = {
        "use_beam_search": None,
        "seed": 3,
        "temperature": 1.5,
        "ignore_eos": True,
        "logprobs": 0,
        "max_tokens": 9,
    }
    ranked = sorted(post(server, **ask, n=8)["choices"], key=lambda each: -scores([each])[0])
    best = post(server, **ask, n=2, best_of=8)
    assert [choice["text"] for choice in best["choices"]] == [choice["text"] for choice in ranked[:2]]
    assert [choice["index"] for choice in best["choices"]] == [0, 1]
    without = post(server, **{**ask, "logprobs": None}, n=2, best_of=8)
    assert [choice["text"] for choice in without["choices"]] == [choice["text"] for choice in ranked[:2]]
    assert [choice["logprobs"] for choice in without["choices"]] == [None, None]


def test_the_text_of_a_beam_is_that_of_its_tokens(server: LiveServer) -> None:
    for choice in post(server, return_token_ids=True)["choices"]:
        assert choice["text"] == byte_tokenizer().decode(choice["token_ids"])
