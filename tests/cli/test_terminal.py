"""`octavo chat` and `octavo complete` against a server and against a scripted model."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pytest
from rich.console import Console
from support.live_server import LiveServer, live_server

from octavo.cli import chat
from octavo.cli.errors import CommandError
from octavo.cli.main import main
from octavo.cli.remote_model import RemoteModel
from octavo.server.config import ServerConfig


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    with live_server() as server:
        yield server


class ScriptedModel:
    """Answers with the number of messages; what it was asked is kept."""

    name = "scripted"

    def __init__(self, error: Exception | None = None) -> None:
        self.asked: list[list[dict[str, str]]] = []
        self.error = error

    def chat(self, messages: list[dict[str, str]], fields: dict[str, Any]) -> Iterator[str]:
        self.asked.append(messages)
        yield from ("answer ", f"[{len(messages)}]")
        if self.error is not None:
            raise self.error

    def complete(self, prompt: str, fields: dict[str, Any]) -> Iterator[str]:
        raise NotImplementedError

    def close(self) -> None: ...


def talk(model: ScriptedModel, typed: str, monkeypatch: pytest.MonkeyPatch, system: bool = False) -> str:
    """What is on the terminal after a conversation."""
    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    shown = io.StringIO()
    opening = [{"role": "system", "content": "s"}] if system else []
    chat.talk(Console(file=shown, force_terminal=False), model, opening, {})
    return shown.getvalue()


def test_turns_build_on_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ScriptedModel()
    shown = talk(model, "one\n\n  two  \n/exit\nthree\n", monkeypatch)
    assert "answer [1]" in shown
    assert "answer [3]" in shown
    assert model.asked[1] == [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "answer [1]"},
        {"role": "user", "content": "two"},
    ]
    assert len(model.asked) == 2


def test_clear_begins_again_with_the_system_message(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ScriptedModel()
    talk(model, "one\n/clear\ntwo\n", monkeypatch, system=True)
    assert [len(asked) for asked in model.asked] == [2, 2]
    assert model.asked[1][0] == {"role": "system", "content": "s"}


def test_an_unknown_command_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ScriptedModel()
    assert "/help is not known" in talk(model, "/help me\n", monkeypatch)
    assert model.asked == []


@pytest.mark.parametrize("error", [ValueError("it is too long"), CommandError("it is too long")])
def test_an_answer_that_fails_is_not_part_of_the_conversation(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    model = ScriptedModel(error)
    assert "it is too long" in talk(model, "one\ntwo\n", monkeypatch)
    assert [len(asked) for asked in model.asked] == [1, 1]


def test_an_interrupted_answer_is(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ScriptedModel(KeyboardInterrupt())  # type: ignore[arg-type]
    assert "(stopped)" in talk(model, "one\ntwo\n", monkeypatch)
    assert [len(asked) for asked in model.asked] == [1, 3]


def test_complete_with_a_server(server: LiveServer, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--url", server.url, "--prompt", "Once", "--max-tokens", "20", "--temperature", "0"]
    assert main(["complete", *arguments]) == 0
    completion = server.openai.completions.create(model="hash", prompt="Once", max_tokens=20, temperature=0)
    assert capsys.readouterr().out == completion.choices[0].text


def test_complete_reads_standard_input(
    server: LiveServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("Once"))
    assert main(["complete", "--url", f"{server.url}/v1/", "--max-tokens", "3", "--seed", "7"]) == 0
    request = server.engine.fake_client.requests[-1]
    assert request.prompt_token_ids == list(b"Once")
    assert (request.params.seed, request.params.temperature, request.params.max_tokens) == (7, 0.7, 3)


def test_chat_with_a_server(
    server: LiveServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("hi\nand\n/exit\n"))
    assert main(["chat", "--url", server.url, "--max-tokens", "5", "--system", "be kind", "--stop", "#"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("hash: ")
    request = server.engine.fake_client.requests[-1]
    assert bytes(request.prompt_token_ids).startswith(b"system: be kind\nuser: hi\nassistant: ")
    assert request.params.stop == ["#"]


def test_the_server_s_refusal_is_passed_on(server: LiveServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["complete", "--url", server.url, "--prompt", "x" * 300]) == 1
    line = capsys.readouterr().err
    assert line.startswith(f"octavo: error: {server.url}: prompt has 300 tokens")


def test_the_key_comes_from_the_flag_or_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with live_server(ServerConfig(api_key=("key",))) as guarded:
        with pytest.raises(CommandError, match="API key"):
            RemoteModel(guarded.url, None)
        arguments = ["complete", "--url", guarded.url, "--prompt", "x", "--max-tokens", "1"]
        assert main([*arguments, "--api-key", "key"]) == 0
        monkeypatch.setenv("OCTAVO_API_KEY", "key")
        assert main(arguments) == 0
