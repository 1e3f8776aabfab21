"""The command from outside: what it imports, and how it fails."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

import octavo
from octavo.cli.main import COMMANDS, main

ROOT = Path(octavo.__file__).parents[1]


def fail(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Run a command that fails; returns its exit code and its only line."""
    try:
        code = main(list(arguments))
    except SystemExit as error:
        code = int(error.code or 0)
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = [line for line in captured.err.splitlines() if not line.startswith("octavo: loading")]
    assert len(lines) == 1
    return code, lines[0]


def test_help_imports_nothing_that_is_slow() -> None:
    program = (
        "import sys; from octavo.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'numpy', 'fastapi', 'msgspec', 'zmq', 'rich', 'asyncio'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert result.stdout.splitlines()[-1] == "[]"
    for name in COMMANDS:
        assert name in result.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([name, "--help"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: octavo {name} ")
    assert max(map(len, text.splitlines())) <= 120


def test_serve_help_is_by_group(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    text = capsys.readouterr().out
    for group in ("Model:", "Memory:", "Scheduler:", "Runtime:", "Server:", "Chat:", "Access:", "Logging:"):
        assert f"\n{group}\n" in text
    assert "(0 to 65535; default: 8000)" in text
    assert "default: 32MiB" in " ".join(text.split())
    assert "--max-model-len TOKENS" in text


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"octavo {octavo.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ([], 2, "COMMAND"),
        (["bake"], 2, "invalid choice: 'bake'"),
        (["serve", "--prot", "80"], 2, "unknown argument --prot; did you mean --port?"),
        (["serve", "--port", "http"], 2, "--port: invalid int value: 'http'"),
        (["serve", "--port", "70000"], 1, "port (--port) must be at most 65535, got 70000"),
        (["serve", "--kv-cache-memory-bytes", "much"], 2, "expected a size such as 4GiB"),
        (["serve", "--dtype", "float8"], 2, "invalid choice: 'float8'"),
        (["serve", "--chat-template", "no/such.jinja"], 1, "chat_template (--chat-template): cannot read"),
        (["serve", "--ssl-keyfile", "no", "--ssl-certfile", "such"], 1, "cannot use such and no: "),
        (["serve", "--port", "0", "no/such.gguf"], 1, "model (--model): 'no/such.gguf' is not there"),
        (["complete", "no/such.gguf", "--prompt", "x"], 1, "'no/such.gguf' is not there"),
        (["complete", "--prompt", ""], 1, "prompt (--prompt) is empty"),
        (["complete", "--prompt", "x", "--temperature", "-1"], 1, "temperature (--temperature)"),
        (["chat", "--url", "localhost:8000"], 1, "url (--url) must begin with http"),
        (["chat", "--url", "http://127.0.0.1:1"], 1, "http://127.0.0.1:1 does not answer (--url)"),
        (["chat", "m.gguf", "--url", "http://127.0.0.1:1"], 1, "exclude each other"),
    ],
)
def test_what_is_wrong_is_one_line(
    arguments: list[str], code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    got, line = fail(capsys, *arguments)
    assert got == code
    assert says in line
    assert line.startswith(("octavo: error: ", "octavo serve: error: "))


def test_a_file_that_is_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, content in (("short.gguf", b"GGUF\x03\x00"), ("other.gguf", b"PK\x03\x04" * 100)):
        path = tmp_path / name
        path.write_bytes(content)
        code, line = fail(capsys, "serve", "--port", "0", str(path))
        assert code == 1
        assert name in line


def test_a_model_that_is_cut_off(
    tmp_path: Path, demo_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "half.gguf"
    with demo_model.open("rb") as whole:
        path.write_bytes(whole.read(8 << 20))
    code, line = fail(capsys, "serve", "--port", "0", str(path))
    assert code == 1
    assert "half.gguf" in line


def test_a_port_that_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, line = fail(capsys, "serve", "--host", "127.0.0.1", "--port", port)
    assert code == 1
    assert (
        line
        == f"octavo: error: cannot listen on 127.0.0.1 port {port} (--host, --port): Address already in use"
    )


def test_a_host_that_is_not_ours(capsys: pytest.CaptureFixture[str]) -> None:
    code, line = fail(capsys, "serve", "--host", "no-such-host.invalid")
    assert code == 1
    assert "cannot listen on no-such-host.invalid port 8000" in line
