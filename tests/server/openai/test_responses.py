"""`/v1/responses` through OpenAI's own client and by hand."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest
from support.fake_engine import byte_tokenizer
from support.live_server import MODEL, LiveServer, live_server

from octavo.server import response_store as store_module
from octavo.server.config import ServerConfig

GIVEN: dict[str, Any] = {
    "model": MODEL,
    "input": "hi",
    "max_output_tokens": 12,
    "temperature": 0,
}


def prompt_of(server: LiveServer) -> str:
    return byte_tokenizer().decode(server.engine.fake_client.requests[-1].prompt_token_ids)


def test_a_response_has_text_status_and_usage(server: LiveServer) -> None:
    response = server.openai.responses.create(
        **GIVEN, instructions="be brief", metadata={"a": "b"}, user="someone"
    )
    assert prompt_of(server) == "system: be brief\nuser: hi\nassistant:"
    assert response.id.startswith("resp_")
    assert response.object == "response"
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    [message] = response.output
    assert message.type == "message"
    assert (message.role, message.status) == ("assistant", "incomplete")
    assert response.output_text
    assert (response.instructions, response.metadata, response.user) == ("be brief", {"a": "b"}, "someone")
    assert (response.temperature, response.top_p, response.max_output_tokens) == (0, 1, 12)
    assert response.usage is not None
    assert response.usage.input_tokens == len(prompt_of(server))
    assert response.usage.output_tokens == 12
    assert response.usage.total_tokens == response.usage.input_tokens + 12


def test_cached_tokens_are_counted(server: LiveServer) -> None:
    long = {**GIVEN, "input": "a question that fills several blocks of sixteen tokens"}
    server.openai.responses.create(**long)
    usage = server.openai.responses.create(**long).usage
    assert usage is not None
    assert usage.input_tokens_details.cached_tokens > 0


def test_an_answer_that_stops_is_completed(server: LiveServer) -> None:
    text = server.openai.responses.create(**GIVEN).output_text
    response = server.openai.responses.create(**GIVEN, extra_body={"stop": [text[3]]})
    assert response.status == "completed"
    assert response.incomplete_details is None
    assert response.output_text == text[: text.index(text[3])]


def test_the_chat_completion_of_the_same_conversation_says_the_same(server: LiveServer) -> None:
    messages: Any = [{"role": "system", "content": "s"}, {"role": "user", "content": "hi"}]
    chat = server.openai.chat.completions.create(model=MODEL, messages=messages, max_tokens=12, temperature=0)
    for given in (
        {"instructions": "s", "input": "hi"},
        {"input": messages},
        {"instructions": "s", "input": [{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}]},
    ):
        assert (
            server.openai.responses.create(**{**GIVEN, **given}).output_text
            == chat.choices[0].message.content
        )


def test_a_stream_has_the_events_of_the_api_in_their_order(server: LiveServer) -> None:
    whole = server.openai.responses.create(**GIVEN)
    events = list(server.openai.responses.create(**GIVEN, stream=True))
    kinds = [event.type for event in events]
    deltas = [event for event in events if event.type == "response.output_text.delta"]
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * len(deltas),
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert len(deltas) > 1
    assert "".join(event.delta for event in deltas) == whole.output_text
    last: Any = events[-1]
    first: Any = events[0]
    assert first.response.status == "in_progress"
    assert first.response.output == []
    assert last.response.output_text == whole.output_text
    assert last.response.usage == whole.usage or last.response.usage.output_tokens == 12
    assert len({getattr(event, "item_id", deltas[0].item_id) for event in events}) == 1
    stored = server.openai.responses.retrieve(last.response.id)
    assert stored == last.response


def test_the_client_s_own_accumulation(server: LiveServer) -> None:
    whole = server.openai.responses.create(**GIVEN).output_text
    with server.openai.responses.stream(**GIVEN, extra_body={"stop": [whole[3]]}) as stream:
        for _ in stream:
            pass
        final = stream.get_final_response()
    assert final.status == "completed"
    assert final.output_text == whole[: whole.index(whole[3])]


def test_going_on_with_an_earlier_response(server: LiveServer) -> None:
    first = server.openai.responses.create(**GIVEN, instructions="only once")
    second = server.openai.responses.create(**{**GIVEN, "input": "and then?"}, previous_response_id=first.id)
    said = f"user: hi\nassistant: {first.output_text}\nuser: and then?\nassistant:"
    assert prompt_of(server) == said
    assert second.previous_response_id == first.id
    server.openai.responses.create(
        **{**GIVEN, "input": "why?"}, previous_response_id=second.id, instructions="new"
    )
    assert prompt_of(server) == (f"system: new\n{said} {second.output_text}\nuser: why?\nassistant:")
    # It branches: the first can be gone on with again.
    server.openai.responses.create(**{**GIVEN, "input": "else?"}, previous_response_id=first.id)
    assert "and then?" not in prompt_of(server)


def test_reading_and_deleting(server: LiveServer) -> None:
    response = server.openai.responses.create(**GIVEN)
    assert server.openai.responses.retrieve(response.id) == response
    [item] = server.openai.responses.input_items.list(response.id).data
    assert item.content[0].text == "hi"  # type: ignore[union-attr]
    assert server.http.delete(f"/v1/responses/{response.id}").json()["deleted"] is True
    for call in (
        lambda: server.openai.responses.retrieve(response.id),
        lambda: server.openai.responses.delete(response.id),
        lambda: server.openai.responses.create(**GIVEN, previous_response_id=response.id),
    ):
        with pytest.raises(openai.NotFoundError, match="there is no response"):
            call()


def test_what_is_not_to_be_stored_is_not(server: LiveServer) -> None:
    response = server.openai.responses.create(**GIVEN, store=False)
    assert response.status == "incomplete"
    with pytest.raises(openai.NotFoundError):
        server.openai.responses.retrieve(response.id)


def test_the_least_recently_used_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    with live_server(ServerConfig(max_stored_responses=2)) as server:
        one, two = (server.openai.responses.create(**GIVEN) for _ in range(2))
        server.openai.responses.retrieve(one.id)
        three = server.openai.responses.create(**GIVEN)
        with pytest.raises(openai.NotFoundError):
            server.openai.responses.retrieve(two.id)
        for kept in (one, three):
            assert server.openai.responses.retrieve(kept.id).id == kept.id
        monkeypatch.setattr(store_module, "MAX_CHARACTERS", 2000)
        four = server.openai.responses.create(**GIVEN)
        with pytest.raises(openai.NotFoundError):
            server.openai.responses.retrieve(three.id)
        assert server.openai.responses.retrieve(four.id).id == four.id
        monkeypatch.setattr(store_module, "MAX_CHARACTERS", 100)
        huge = server.openai.responses.create(**GIVEN)
        with pytest.raises(openai.NotFoundError):
            server.openai.responses.retrieve(huge.id)


def test_another_key_s_responses_are_not_there() -> None:
    with live_server(ServerConfig(api_key=("one", "two"))) as server:
        clients = [
            openai.OpenAI(base_url=f"{server.url}/v1", api_key=k, max_retries=0) for k in ("one", "two")
        ]
        response = clients[0].responses.create(**GIVEN)
        assert clients[0].responses.retrieve(response.id).id == response.id
        with pytest.raises(openai.NotFoundError):
            clients[1].responses.retrieve(response.id)
        with pytest.raises(openai.NotFoundError):
            clients[1].responses.create(**GIVEN, previous_response_id=response.id)
        assert httpx.get(f"{server.url}/v1/responses/{response.id}").status_code == 401
        for client in clients:
            client.close()


def test_ids_are_drawn_whatever_the_client_says(server: LiveServer) -> None:
    headers = {"X-Request-Id": "mine"}
    ids = {server.openai.responses.create(**GIVEN, extra_headers=headers).id for _ in range(2)}
    assert len(ids) == 2
    assert not any("mine" in each for each in ids)


def test_log_probabilities(server: LiveServer) -> None:
    include: Any = ["message.output_text.logprobs"]
    response = server.openai.responses.create(**GIVEN, include=include, top_logprobs=2)
    entries = response.output[0].content[0].logprobs  # type: ignore[union-attr]
    assert entries is not None
    assert len(entries) == 12
    assert all(len(entry.top_logprobs) == 2 for entry in entries)
    events = list(server.openai.responses.create(**GIVEN, include=include, stream=True))
    assert sum(len(e.logprobs) for e in events if e.type == "response.output_text.delta") == 12


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"background": True}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"truncation": "auto"}, "truncation"),
        ({"reasoning": {"effort": "high"}}, "reasoning"),
        ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format"),
        ({"text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": 1}}}}, "text.format"),
        ({"text": {"format": {"type": "json_schema", "schema": {}, "rules": 1}}}, "text.format"),
        ({"text": {"format": "json"}}, "text.format"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"include": ["file_search_call.results"]}, "include"),
        ({"structured_outputs": {"json": 1}}, "structured_outputs"),
        ({"inputs": "x"}, "inputs"),
        ({"input": []}, "input"),
        ({"input": None}, "input"),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": "5"}]}, "input[0]"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0]"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input[0]"),
        ({"input": [{"role": "user"}]}, "input[0]"),
        ({"input": "x" * 300}, "input"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_output_tokens": 1000}, "max_output_tokens"),
        ({"metadata": {str(i): "x" for i in range(17)}}, "metadata"),
        ({"temperature": 9999}, "temperature"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"stop": ["x"] * 65}, "stop"),
    ],
)
def test_what_can_not_be_is_refused_by_name(server: LiveServer, change: dict[str, Any], param: str) -> None:
    response = server.post("/v1/responses", **{**GIVEN, **change})
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param


def test_an_answer_that_the_clock_ends_has_failed() -> None:
    long = {**GIVEN, "max_output_tokens": 200}
    with live_server(ServerConfig(request_timeout=60.0), clock_seconds=5.0) as server:
        response = server.openai.responses.create(**long)
        assert response.status == "failed"
        assert response.error is not None
        assert "time was over" in response.error.message
        assert response.output_text
        events = list(server.openai.responses.create(**long, stream=True))
        assert events[-1].type == "response.failed"


def test_an_engine_that_is_gone_ends_the_stream_with_an_error() -> None:
    with live_server(step_seconds=0.02) as server:

        def end() -> None:
            server.engine._end("it is broken")
            server.engine._client = None

        long = {**GIVEN, "max_output_tokens": 200, "extra_body": {"ignore_eos": True}}
        stream = server.openai.responses.create(**long, stream=True)
        assert next(stream).type == "response.created"
        server.call(end)
        with pytest.raises(openai.APIError, match="it is broken"):
            for _ in stream:
                pass
