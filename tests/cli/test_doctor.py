"""`octavo doctor` from the command line."""

from __future__ import annotations

import json

import pytest
from support.live_server import live_server

from octavo.cli.main import main
from octavo.config import EngineConfig


def test_a_server_that_is_well(capsys: pytest.CaptureFixture[str]) -> None:
    with live_server(engine=EngineConfig()) as server:
        assert main(["doctor", f"{server.url}/v1", "--seconds", "0.1"]) == 0
        assert capsys.readouterr().out == "nothing found\n"
        assert main(["doctor", server.url, "--seconds", "0", "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == {"url": server.url, "findings": []}


def test_a_problem(capsys: pytest.CaptureFixture[str]) -> None:
    with live_server(engine=EngineConfig(enable_prefix_caching=False)) as server:
        assert main(["doctor", server.url, "--seconds", "0"]) == 3
        text = capsys.readouterr().out
        assert main(["doctor", server.url, "--seconds", "0", "--json"]) == 3
        [finding] = json.loads(capsys.readouterr().out)["findings"]
    assert text.startswith("warning: prefix-caching-off (latency)\n  seen ")
    assert text.endswith("  change  leave out --no-enable-prefix-caching\n")
    assert finding["severity"] == "warning"
    assert finding["change"] in text


def test_no_server(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "http://127.0.0.1:1"]) == 3
    text = capsys.readouterr().out
    assert text.startswith("critical: no-answer")
    assert "Connection refused" in text


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["localhost:8000"], 1, "URL must begin with http:// or https://"),
        (["--seconds", "-1"], 2, "expected a number from 0 to 3600"),
        (["--second", "1"], 2, "unknown argument --second; did you mean --seconds?"),
    ],
)
def test_what_is_wrong_is_one_line(
    arguments: list[str], code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        got = main(["doctor", *arguments])
    except SystemExit as error:
        got = int(error.code or 0)
    assert got == code
    [line] = capsys.readouterr().err.strip().splitlines()
    assert says in line
