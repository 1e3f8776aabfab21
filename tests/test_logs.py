"""Logs as JSON: one object a line, the request's id in it, whatever wrote it."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from pathlib import Path

import pytest
from support.serve_command import serve

from octavo.logs import JSONFormatter, request_id


def record(message: str, *args: object, name: str = "octavo.x", **extra: object) -> logging.LogRecord:
    made = logging.makeLogRecord(
        {"name": name, "levelname": "INFO", "levelno": logging.INFO, "msg": message, "args": args}
    )
    vars(made).update(extra)
    return made


def test_a_record_is_an_object() -> None:
    line = json.loads(JSONFormatter().format(record('a "quoted" %s\nline', "é", tokens=3)))
    assert line.pop("time").endswith("Z")
    assert line == {"level": "INFO", "logger": "octavo.x", "message": 'a "quoted" é\nline', "tokens": 3}


def test_it_has_the_request_s_id_where_there_is_one() -> None:
    token = request_id.set("abc")
    try:
        assert json.loads(JSONFormatter().format(record("x")))["request_id"] == "abc"
    finally:
        request_id.reset(token)
    assert "request_id" not in json.loads(JSONFormatter().format(record("x")))


def test_an_access_line_is_taken_apart() -> None:
    args = ("127.0.0.1:5", "POST", "/v1/completions", "1.1", 200)
    line = json.loads(JSONFormatter().format(record('%s - "%s %s HTTP/%s" %d', *args, name="uvicorn.access")))
    assert (line["method"], line["path"], line["status"]) == ("POST", "/v1/completions", 200)
    assert line["message"] == '127.0.0.1:5 - "POST /v1/completions HTTP/1.1" 200'


def test_an_exception_keeps_its_traceback() -> None:
    try:
        raise ValueError("wrong")
    except ValueError:
        made = record("failed", exc_info=sys.exc_info())
    line = json.loads(JSONFormatter().format(made))
    assert line["exception"].endswith("ValueError: wrong")


def test_every_line_of_a_server_is_json(demo_model: Path) -> None:
    pytest.importorskip("octavo._native", reason="the kernels are not built")
    with serve(demo_model, "--log-format", "json", "--log-stats-interval", "0.1") as command:
        headers = {"x-request-id": "my-request"}
        body = {"prompt": "One, two,", "max_tokens": 40, "ignore_eos": True}
        response = command.http.post("/v1/completions", json=body, headers=headers)
        assert response.json()["id"] == "cmpl-my-request"
        command.http.get("/health")
        children = Path(f"/proc/{command.process.pid}/task/{command.process.pid}/children").read_text()
        os.kill(int(children.split()[0]), signal.SIGKILL)
        assert command.http.post("/v1/completions", json=body).status_code == 200
    lines = [json.loads(line) for line in command.lines]
    by_request = [line for line in lines if line.get("request_id") == "my-request"]
    assert [(line["logger"], line["status"]) for line in by_request] == [("uvicorn.access", 200)]
    [health] = [line for line in lines if line.get("path") == "/health"]
    assert "request_id" not in health
    messages = [line["message"] for line in lines]
    assert any("serving demo at" in message for message in messages)
    assert any("Avg generation throughput" in message for message in messages)
    assert any("killed by SIGKILL" in message for message in messages)
