"""Health, models, an engine that dies, and a server that is told to stop."""

from __future__ import annotations

import json
import threading
from typing import Any

import openai
import pytest
from support.live_server import LiveServer, live_server

from octavo.server.config import ServerConfig

LONG = {"prompt": "x", "max_tokens": 200, "ignore_eos": True}


def test_what_is_served_is_listed(server: LiveServer) -> None:
    [model] = server.openai.models.list().data
    assert model.id == "hash"
    assert model.max_model_len == 256  # type: ignore[attr-defined]
    assert server.openai.models.retrieve("hash") == model


def test_several_names_for_the_model() -> None:
    with live_server(ServerConfig(served_model_name=("org/one", "two"))) as server:
        assert [model.id for model in server.openai.models.list().data] == ["org/one", "two"]
        assert server.http.get("/v1/models/org/one").json()["id"] == "org/one"
        assert server.post("/v1/completions", prompt="x").json()["model"] == "org/one"
        assert server.post("/v1/completions", prompt="x", model="two").json()["model"] == "two"
        assert server.post("/v1/completions", prompt="x", model="hash").status_code == 404
        assert 'model_name="org/one"' in server.http.get("/metrics").text


def test_probes(server: LiveServer) -> None:
    assert server.http.get("/health").status_code == 200
    assert server.http.post("/ping").status_code == 200
    assert server.http.get("/version").json()["version"]


def test_the_description_of_the_api(server: LiveServer) -> None:
    description = server.http.get("/openapi.json").json()
    content = description["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]
    reference = content["application/json"]["schema"]["$ref"]
    schema = description["components"]["schemas"][reference.rsplit("/", 1)[1]]
    assert "messages" in schema["required"]
    assert {"temperature", "top_k", "max_completion_tokens"} <= set(schema["properties"])


def test_the_header_s_request_id_is_used(server: LiveServer) -> None:
    response = server.http.post("/v1/completions", json={"prompt": "x"}, headers={"X-Request-Id": "abc"})
    assert response.json()["id"] == "cmpl-abc"


def test_an_engine_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    with live_server(step_seconds=0.1) as server:

        def end() -> None:
            server.engine._end("it is broken")
            server.engine._client = None

        body = {**LONG, "stream": True}
        with server.http.stream("POST", "/v1/completions", json=body) as response:
            lines = response.iter_lines()
            assert next(lines).startswith("data: {")
            server.call(end)
            events = [line for line in lines if line]
        assert events[-1] == "data: [DONE]"
        error = json.loads(events[-2].removeprefix("data: "))["error"]
        assert error["code"] == 503
        assert error["message"] == "the engine is down: it is broken"
        for path in ("/health", "/ping"):
            assert server.http.get(path).status_code == 503
        response = server.post("/v1/completions", prompt="x")
        assert response.status_code == 503
        assert response.json()["error"]["type"] == "ServiceUnavailableError"
        assert server.metric("request_failure_total") == 2
        with pytest.raises(openai.APIError, match="it is broken"):
            for _ in server.openai.completions.create(model="hash", prompt="x", stream=True):
                pass


def test_a_fault_of_ours_is_a_500_that_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("secret")
        yield

    with live_server() as server:
        monkeypatch.setattr(server.engine, "generate", broken)
        response = server.post("/v1/completions", prompt="x")
        assert response.status_code == 500
        assert response.json()["error"]["type"] == "InternalServerError"
        assert "secret" not in response.text
        assert server.metric("request_failure_total") == 1
        monkeypatch.undo()
        assert server.post("/v1/completions", prompt="x").status_code == 200


def test_open_requests_finish_before_the_server_ends() -> None:
    texts: list[str] = []
    with live_server() as server:

        def ask() -> None:
            chunks = server.openai.completions.create(
                model="hash", prompt="x", max_tokens=100, stream=True, extra_body={"ignore_eos": True}
            )
            texts.append("".join(chunk.choices[0].text for chunk in chunks))

        expected = server.openai.completions.create(model="hash", prompt="x", max_tokens=1).choices
        server.hold()
        client = threading.Thread(target=ask)
        client.start()
        server.wait_for_requests(2)
        server.run_steps(2)
        server.http_server.should_exit = True
        server.wait_until(lambda: not any(each.is_serving() for each in server.http_server.servers))
        server.release()
        client.join()
    assert len(texts[0]) > len(expected[0].text)
    assert not server.engine.healthy


@pytest.mark.parametrize("stream", [False, True])
def test_what_takes_too_long_is_cut_off_and_told(stream: bool) -> None:
    answers: list[Any] = []
    with live_server(ServerConfig(shutdown_timeout=0)) as server:
        server.hold()
        body = {**LONG, "stream": stream}
        client = threading.Thread(
            target=lambda: answers.append(server.http.post("/v1/completions", json=body))
        )
        client.start()
        server.wait_for_requests(1)
        server.run_steps(4)
        server.http_server.should_exit = True
        client.join()
    [response] = answers
    assert response.status_code == (200 if stream else 503)
    assert "shut down" in response.text
    assert response.text.endswith("data: [DONE]\n\n" if stream else "}")
