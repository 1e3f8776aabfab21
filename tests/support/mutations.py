"""Broken copies of a file: what a reader must answer with one line, or survive."""

from __future__ import annotations

import random
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path


def truncations(data: bytes, count: int) -> Iterator[bytes]:
    """`data` cut at `count` places, the empty file among them, dense where the header is."""
    for i in range(count):
        yield data[: int(len(data) * (i / count) ** 2)]


def mutations(data: bytes, header_bytes: int, count: int, seed: int) -> Iterator[bytes]:
    """`data` with one to four bytes or 64-bit numbers of its header overwritten, mostly with extreme ones."""
    rng = random.Random(seed)
    extremes = [0, 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1, len(data), len(data) + 1]
    for _ in range(count):
        broken = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(header_bytes)
            if rng.random() < 0.5:
                broken[at] = rng.choice([0, 1, 127, 128, 255, rng.randrange(256)])
            else:
                broken[at : at + 8] = rng.choice(extremes).to_bytes(8, "little")
        yield bytes(broken[: len(data)])


def assert_survives(
    read: Callable[[Path], object], variants: Iterator[bytes], path: Path, *, folder: bool = False
) -> int:
    """`read` each variant: success or a ValueError of one line that names the file, quickly and in bounds.

    With `folder` it may name another file of the same folder. Gives the number of variants that failed.
    """
    failures = 0
    for data in variants:
        path.write_bytes(data)
        began = time.process_time()
        tracemalloc.start()
        try:
            read(path)
        except ValueError as error:
            failures += 1
            message = str(error)
            assert "\n" not in message
            assert str(path.parent if folder else path) in message
            assert len(message) < 1000
        finally:
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        assert peak < 8 * len(data) + (1 << 20)
        assert time.process_time() - began < 2
    return failures
