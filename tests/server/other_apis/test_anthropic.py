"""`/v1/messages` through Anthropic's own client and by hand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from support.fake_engine import byte_tokenizer
from support.live_server import LiveServer, live_server

from octavo.server.config import ServerConfig

USER = {"role": "user", "content": "hi"}
BODY: dict[str, Any] = {"model": "hash", "messages": [USER], "max_tokens": 12, "temperature": 0}
GIVEN: dict[str, Any] = {
    "model": "hash",
    "messages": [USER],
    "max_tokens": 12,
    "extra_body": {"temperature": 0},
}


@pytest.fixture(scope="module")
def client(server: LiveServer) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=server.url, api_key="any", max_retries=0, timeout=60) as client:
        yield client


def prompt_of(server: LiveServer) -> str:
    return byte_tokenizer().decode(server.engine.fake_client.requests[-1].prompt_token_ids)


def test_an_answer_has_text_reason_and_usage(server: LiveServer, client: anthropic.Anthropic) -> None:
    message = client.messages.create(**GIVEN, system="be brief")
    assert prompt_of(server) == "system: be brief\nuser: hi\nassistant:"
    assert (message.role, message.type, message.stop_reason) == ("assistant", "message", "max_tokens")
    assert message.id.startswith("msg-")
    [block] = message.content
    assert block.text
    usage = message.usage
    assert usage.output_tokens == 12
    assert usage.input_tokens + usage.cache_read_input_tokens == len(prompt_of(server))


def test_a_stream_gives_what_a_whole_response_gives(client: anthropic.Anthropic) -> None:
    whole = client.messages.create(**GIVEN)
    with client.messages.stream(**GIVEN) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_message()
    assert final.content[0].text == whole.content[0].text
    assert (final.stop_reason, final.usage.output_tokens) == ("max_tokens", 12)
    assert kinds[0] == "message_start"
    assert kinds[-1] == "message_stop"


def test_stop_sequences_are_told(client: anthropic.Anthropic) -> None:
    text = client.messages.create(**GIVEN).content[0].text
    stop = next(character for character in text if character.isascii() and not character.isspace())
    message = client.messages.create(**GIVEN, stop_sequences=[stop])
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", stop)
    assert message.content[0].text == text[: text.index(stop)]


def test_a_final_message_of_the_assistant_is_continued(
    server: LiveServer, client: anthropic.Anthropic
) -> None:
    blocks = [{"type": "text", "text": "We"}, {"type": "text", "text": "ll"}]
    client.messages.create(**{**GIVEN, "messages": [USER, {"role": "assistant", "content": blocks}]})
    assert prompt_of(server) == "user: hi\nassistant: We\nll"


def test_tokens_are_counted(client: anthropic.Anthropic) -> None:
    count = client.messages.count_tokens(model="hash", messages=[USER])  # type: ignore[list-item]
    assert count.input_tokens == len("user: hi\nassistant:")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages[0].content[0]"),
        ({"tools": [{"name": "x"}]}, "tools"),
        ({"thinking": {"type": "enabled", "budget_tokens": 9}}, "thinking"),
        ({"temperature": -1}, "temperature"),
        ({"colour": 1}, "colour"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_have_anthropic_s_shape(
    server: LiveServer, change: dict[str, Any], says: str, stream: bool
) -> None:
    response = server.post("/v1/messages", **{**BODY, "stream": stream, **change})
    body = response.json()
    assert (response.status_code, body["type"]) == (400, "error")
    assert body["error"]["type"] == "invalid_request_error"
    assert says in body["error"]["message"]


def test_another_model_is_not_found(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError, match="not served here"):
        client.messages.create(**{**GIVEN, "model": "other"})


def test_its_clients_key_header_opens() -> None:
    with live_server(ServerConfig(api_key=("key",))) as server:
        for key, status in (("key", 200), ("wrong", 401)):
            headers = {"x-api-key": key}
            assert server.http.post("/v1/messages", json=BODY, headers=headers).status_code == status


def test_an_engine_that_dies_ends_the_stream_with_an_error() -> None:
    with live_server(step_seconds=0.02) as server:
        body = {**BODY, "max_tokens": 200, "stream": True}
        with server.http.stream("POST", "/v1/messages", json=body) as response:
            lines = response.iter_lines()
            assert next(lines) == "event: message_start"
            server.call(server.engine._end, "it is broken")
            rest = [line for line in lines if line]
    assert rest[-2] == "event: error"
    assert "overloaded_error" in rest[-1]


def test_an_answer_that_the_clock_ends_is_an_error_not_an_end_of_turn() -> None:
    long = {**BODY, "max_tokens": 200, "stop_sequences": []}
    with live_server(ServerConfig(request_timeout=60.0), clock_seconds=5.0) as server:
        response = server.post("/v1/messages", **long)
        assert response.status_code == 504
        assert response.json()["error"]["type"] == "timeout_error"
        with (
            anthropic.Anthropic(base_url=server.url, api_key="any", max_retries=0, timeout=60) as client,
            pytest.raises(anthropic.APIStatusError, match="not complete"),
            client.messages.stream(**{**GIVEN, "max_tokens": 200}) as stream,
        ):
            for _ in stream.text_stream:
                pass
        events = server.post("/v1/messages", **long, stream=True).text
        assert "content_block_delta" in events
        assert "end_turn" not in events
        assert '"type":"timeout_error"' in events
