"""Broken models: mutations of every kind of file that octavo reads, and what may happen then.

    python tests/support/fuzz.py --count 20000            # for each reader
    python tests/support/fuzz.py --count 20000 --only gguf

A variant is read, or refused with a ValueError of one line that names the file. Memory stays within four
times the files' size and what a slice of rows takes; no file outside the model's folder is opened.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import os
import random
import shutil
import sys
import tempfile
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

import numpy as np  # noqa: E402

SLACK_BYTES = 2 << 20
"""For what does not grow with the files: slices of rows, error messages, Python's own."""

MOST_SECONDS = 10.0

HOSTILE: list[Any] = [
    None, True, False, 0, 1, -1, 2**31, 2**53 + 1, 2**63, 2**64, -(2**63), 10**30, 0.5, -0.0, 1e300,
    float("nan"), float("inf"), "", "x", "F32", "U8", "../../etc/passwd", "/etc/passwd", "..", "a/b", "\x00",
    "\ud800", "é" * 300, [], [0], [-1], [2**62, 2**62], [[[]]], {}, {"a": {}}, [None], "1" * 5000,
]  # fmt: skip


@dataclass(frozen=True)
class Target:
    """A model: `build` makes its folder, and gives the file to break; `read` reads all of it.

    Targets of one `reader` share the number of variants.
    """

    name: str
    reader: str
    build: Callable[[Path], Path]
    read: Callable[[Path], None]


def variants(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    """`data` broken in `count` ways: bytes, numbers, cuts, and JSON that says something else."""
    rng = random.Random(seed)
    for _ in range(count):
        choice = rng.random()
        value = _json_part(data) if choice < 0.6 else None
        if value is not None:
            yield _broken_json(data, value, rng)
        elif choice < 0.65:
            yield data[: rng.randrange(len(data))]
        else:
            yield _broken_bytes(data, rng)


def _header(data: bytes) -> int:
    """Bytes of a safetensors header; 0 for what is none."""
    length = int.from_bytes(data[:8], "little")
    return length if data[8:9] == b"{" and length <= len(data) else 0


_parsed: dict[int, Any] = {}


def _json_part(data: bytes) -> Any:
    key = hash(data)
    if key not in _parsed:
        _parsed.clear()
        length = _header(data)
        try:
            _parsed[key] = json.loads(data[8 : 8 + length] if length else data)
        except ValueError:
            _parsed[key] = None
    return _parsed[key]


def _broken_json(data: bytes, value: Any, rng: random.Random) -> bytes:
    value = copy.deepcopy(value) if len(data) < 20_000 else json.loads(json.dumps(value))
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        _break(value, rng)
    text = json.dumps(value).encode()
    length = _header(data)
    return len(text).to_bytes(8, "little") + text + data[8 + length :] if length else text


def _break(value: Any, rng: random.Random) -> None:
    """Change one thing, at any depth."""
    while isinstance(value, dict | list) and value:
        key = rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
        inner = value[key]
        if isinstance(inner, dict | list) and inner and rng.random() < 0.8:
            value = inner
            continue
        action = rng.random()
        if action < 0.15:
            del value[key]
        elif action < 0.25 and isinstance(value, dict):
            value[rng.choice(list(value))] = inner
        elif action < 0.35 and type(inner) is int:
            value[key] = inner + rng.choice([-1, 1, 7, 2**20])
        elif action < 0.4 and isinstance(value, dict):
            value[str(key) + "x"] = value.pop(key)
        else:
            value[key] = copy.deepcopy(rng.choice(HOSTILE))
        return


def _broken_bytes(data: bytes, rng: random.Random) -> bytes:
    broken = bytearray(data)
    header = min(len(data), (_header(data) or 1000) + 8)
    extremes = [0, 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1, len(data), len(data) + 1]
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(header if rng.random() < 0.7 else len(data))
        if rng.random() < 0.5:
            broken[at] = rng.choice([0, 1, 127, 128, 255, rng.randrange(256)])
        else:
            broken[at : at + 8] = rng.choice(extremes).to_bytes(8, "little")
    return bytes(broken[: len(data)])


_opened: list[str] = []
_watching = False


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if (
        _watching
        and event in ("open", "os.listdir", "os.scandir")
        and isinstance(arguments[0], str | os.PathLike)
    ):
        _opened.append(os.fspath(arguments[0]))


sys.addaudithook(_watch)


def survive(target: Target, count: int, seed: int, folder: Path) -> int:
    """Read `count` broken variants of `target`, made in `folder`; gives how many were refused.

    Raises AssertionError, with the variant left in the folder, for one that did what it should not.
    """
    global _watching
    path = target.build(folder)
    data = path.read_bytes()
    rest = sum(file.stat().st_size for file in folder.iterdir() if file.is_file()) - len(data)
    home = os.path.realpath(folder)
    target.read(path)  # whole, it is read; and what is imported for it is imported
    refused = 0
    for number, broken in enumerate(variants(data, count, seed)):
        path.write_bytes(broken)
        _opened.clear()
        began = time.monotonic()
        tracemalloc.start()
        message = ""
        try:
            _watching = True
            with np.errstate(all="ignore"):
                target.read(path)
        except ValueError as error:
            message = str(error)
            refused += 1
            assert message
            assert "\n" not in message, (number, message)
            assert len(message) < 1000, (number, message)
            assert str(folder) in message, (number, message)
        except BaseException as error:
            raise AssertionError(f"{target.name} {number}: {type(error).__name__}: {error}") from error
        finally:
            _watching = False
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        size = rest + len(broken)
        if peak > 4 * size + SLACK_BYTES:
            # Python's table of interned strings doubles now and then, in somebody's reading.
            peak = min(peak, _peak(target, path))
        assert peak < 4 * size + SLACK_BYTES, (target.name, number, peak, size, message)
        assert time.monotonic() - began < MOST_SECONDS, (target.name, number)
        for opened in _opened:
            inside = os.path.realpath(opened).startswith(home)
            assert inside or opened.endswith((".py", ".pyc")), (target.name, number, opened)
    return refused


def _peak(target: Target, path: Path) -> int:
    """Most bytes that reading `path` takes at a time."""
    tracemalloc.start()
    with contextlib.suppress(ValueError), np.errstate(all="ignore"):
        target.read(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def main() -> None:
    """Fuzz all targets, or those of the name or reader `--only`."""
    from support.fuzz_targets import TARGETS

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--only", default="")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after this many")
    arguments = parser.parse_args()
    began, failed = time.monotonic(), False
    sharing = Counter(target.reader for target in TARGETS)
    for target in TARGETS:
        if arguments.only not in (target.name, target.reader, ""):
            continue
        count = -(-arguments.count // sharing[target.reader])
        if time.monotonic() - began > arguments.seconds:
            print(f"{target.name}: not reached", flush=True)
            continue
        folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
        start = time.monotonic()
        try:
            refused = survive(target, count, arguments.seed, folder)
        except AssertionError as error:
            print(f"{target.name}: FAILED, see {folder}: {str(error)[:1000]}", flush=True)
            failed = True
            continue
        shutil.rmtree(folder)
        seconds = time.monotonic() - start
        print(
            f"{target.name:32}{count:>7} variants, {refused:>6} refused, {seconds:6.1f} s",
            flush=True,
        )
    sys.exit(failed)


if __name__ == "__main__":
    main()
