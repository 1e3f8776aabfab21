"""vLLM's serving flags: what each changes."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.live_server import live_server
from support.serve_command import ROOT

from octavo.server.config import ServerConfig

HI = [{"role": "user", "content": "hi"}]
MIDDLEWARE = """
async def stamp(request, call_next):
    response = await call_next(request)
    response.headers["X-Stamp"] = "async"
    return response


class Outer:
    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        async def stamped(message):
            if message["type"] == "http.response.start":
                message["headers"].append((b"x-outer", b"class"))
            await send(message)

        await self.app(scope, receive, stamped)
"""


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"api_server_count": 0}, "api_server_count"),
        ({"enable_auto_tool_choice": True}, "needs --tool-call-parser"),
        ({"enable_log_requests": True, "disable_log_requests": True}, "exclude each other"),
        ({"allow_credentials": True}, "needs --allowed-origins"),
        ({"ssl_cert_reqs": 2}, "need --ssl-certfile"),
    ],
)
def test_settings_that_can_not_be(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        ServerConfig(**settings)


def test_request_ids_come_back() -> None:
    with live_server(ServerConfig(enable_request_id_headers=True)) as server:
        response = server.http.get("/health", headers={"X-Request-Id": "mine"})
        assert response.headers["x-request-id"] == "mine"
        response = server.post("/v1/completions", prompt="x", max_tokens=1)
        assert response.json()["id"] == f"cmpl-{response.headers['x-request-id']}"
        assert len(response.headers["x-request-id"]) == 32


def test_no_docs() -> None:
    with live_server(ServerConfig(disable_fastapi_docs=True)) as server:
        for path in ("/docs", "/openapi.json", "/redoc"):
            assert server.http.get(path).status_code == 404
        assert server.http.get("/health").status_code == 200


def test_cors_as_it_is_set() -> None:
    config = ServerConfig(
        allowed_origins=("http://a.example",),
        allowed_methods=("POST",),
        allowed_headers=("x-one",),
        allow_credentials=True,
    )
    with live_server(config) as server:
        preflight = {"Origin": "http://a.example", "Access-Control-Request-Method": "POST"}
        response = server.http.options("/v1/completions", headers=preflight)
        assert response.status_code == 200
        assert response.headers["access-control-allow-origin"] == "http://a.example"
        assert response.headers["access-control-allow-credentials"] == "true"
        assert "x-one" in response.headers["access-control-allow-headers"].lower()
        assert response.headers["access-control-allow-methods"] == "POST"
        other = {**preflight, "Origin": "http://b.example"}
        assert server.http.options("/v1/completions", headers=other).status_code == 400


def test_what_streams_and_log_probabilities_look_like() -> None:
    config = ServerConfig(
        enable_force_include_usage=True, return_tokens_as_token_ids=True, response_role="robot"
    )
    with live_server(config) as server:
        events = server.post("/v1/completions", prompt="x", max_tokens=3, stream=True).text.split("\n\n")
        assert json.loads(events[-3].removeprefix("data: "))["usage"]["completion_tokens"] == 3
        body = {"messages": HI, "max_tokens": 2, "logprobs": True}
        [choice] = server.post("/v1/chat/completions", **body).json()["choices"]
        assert choice["message"]["role"] == "robot"
        assert all(entry["token"].startswith("token_id:") for entry in choice["logprobs"]["content"])
        body["return_tokens_as_token_ids"] = False
        [choice] = server.post("/v1/chat/completions", **body).json()["choices"]
        assert not any(entry["token"].startswith("token_id:") for entry in choice["logprobs"]["content"])


def test_prompts_are_logged_only_when_asked_for_and_cut(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "octavo")
    with live_server(ServerConfig()) as server:
        server.post("/v1/completions", prompt="a secret of mine", max_tokens=1)
        assert "secret" not in caplog.text
    with live_server(ServerConfig(enable_log_requests=True, max_log_len=8)) as server:
        # make_server sets the loggers up anew: what they propagate is what is caught here.
        logging.getLogger("octavo").propagate = True
        server.post("/v1/completions", prompt="a secret\nof mine", max_tokens=1, request_id="r1")
        [line] = [record.getMessage() for record in caplog.records if "received" in record.getMessage()]
        assert line.startswith("received cmpl-r1: 16 tokens, prompt: 'a secret', token ids: [97, 32,")
        assert "mine" not in line
        assert "max_tokens=1" in line


def test_the_prefix_that_a_proxy_strips() -> None:
    with live_server(ServerConfig(root_path="/llm", api_key=("k",))) as server:
        assert server.http.get("/v1/models").status_code == 401
        assert server.http.get("/v1/models", headers={"Authorization": "Bearer k"}).status_code == 200
        assert server.http.get("/health").status_code == 200
        assert server.http.get("/openapi.json").json()["servers"] == [{"url": "/llm"}]


@contextmanager
def serve(arguments: list[str], folder: Path, **environment: str) -> Iterator[tuple[Any, list[str]]]:
    """`octavo serve` once it says that it serves, and the lines that it has written."""
    command = [sys.executable, "-m", "octavo", "serve", *arguments]
    path = os.pathsep.join((str(ROOT), str(folder)))
    with subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path, **environment},
    ) as process:
        lines: list[str] = []
        serving = threading.Event()

        def read() -> None:
            assert process.stderr is not None
            for line in process.stderr:
                lines.append(line)
                if "ready after" in line:
                    serving.set()
            serving.set()

        reader = threading.Thread(target=read)
        reader.start()
        try:
            assert serving.wait(60)
            yield process, lines
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)
            reader.join(10)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_socket_a_file_the_environment_and_middleware_at_once(
    demo_model: Path, tmp_path: Path, processes: int
) -> None:
    pytest.importorskip("octavo._native", reason="the kernels are not built")
    path = tmp_path / "octavo.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    (tmp_path / "stamps.py").write_text(MIDDLEWARE)
    file = tmp_path / "config.yaml"
    file.write_text(f"model: {demo_model}\nuds: {path}\nmax-model-len: 512\nserved-model-name: [demo]\n")
    arguments = [
        "--config",
        str(file),
        "--api-server-count",
        str(processes),
        "--middleware",
        "stamps.stamp",
        "stamps.Outer",
    ]
    arguments += ["--enable-log-requests", "--max-log-len", "5"]
    arguments += ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"]
    with serve(arguments, tmp_path, OCTAVO_KV_CACHE_MEMORY="64MiB") as (process, lines):
        assert any(str(path) in line for line in lines), lines
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), timeout=60) as http:
            response = http.get("http://octavo/v1/models")
            assert response.json()["data"][0]["max_model_len"] == 512
            assert response.headers["x-stamp"] == "async"
            assert response.headers["x-outer"] == "class"
            body = {"prompt": "One, two,", "max_tokens": 3}
            assert http.post("http://octavo/v1/completions", json=body).json()["choices"][0]["text"]
            tools = [{"type": "function", "function": {"name": "f"}}]
            refused = http.post("http://octavo/v1/chat/completions", json={"messages": HI, "tools": tools})
            assert refused.status_code == 400
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert not path.exists()
    assert any("prompt: 'One, '" in line for line in lines)
    assert any("tool calling is not served yet" in line for line in lines)


def test_a_path_that_is_in_use(tmp_path: Path) -> None:
    from octavo.cli.errors import CommandError
    from octavo.cli.listener import listen_on_path

    (tmp_path / "file").write_text("mine")
    with pytest.raises(CommandError, match="not a socket"):
        listen_on_path(str(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "mine"
    with listen_on_path(str(tmp_path / "socket")) as listener:
        listener.listen()
        with pytest.raises(CommandError, match="another server"):
            listen_on_path(str(tmp_path / "socket"))


def test_an_address_that_several_sockets_share_is_taken_all_the_same() -> None:
    from octavo.cli.errors import CommandError
    from octavo.cli.listener import listen

    with ExitStack() as opened:
        listeners = [opened.enter_context(each) for each in listen("127.0.0.1", 0, 3)]
        [address] = {each.getsockname() for each in listeners}
        for each in listeners:
            each.listen()
        for count in (1, 3):
            with pytest.raises(CommandError, match="in use"):
                listen(*address, count)


@pytest.mark.parametrize("path", ["nothing", "no.such.module", "os.environ", "os.getcwd"])
def test_middleware_that_is_none(path: str) -> None:
    from octavo.server.guards.middleware import load_middleware

    with pytest.raises(ValueError, match=r"^middleware \(--middleware\)"):
        load_middleware(path)
