"""Runs code as if on other processors: NumPy and its BLAS choose their own code by what they find."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

TESTS = Path(__file__).parents[1]

_BLAS = {
    "X86_V2": "Nehalem",
    "SSE42": "Nehalem",
    "AVX2": "Haswell",
    "X86_V3": "Haswell",
    "AVX512_SKX": "SkylakeX",
    "X86_V4": "SkylakeX",
}
"""OpenBLAS's name of a processor that has one of NumPy's features."""


def environments() -> list[dict[str, str]]:
    """Variables for each of the processors that this one can stand for, which has all that they have."""
    simd = np.show_config(mode="dicts")["SIMD Extensions"]
    plain = {"NPY_DISABLE_CPU_FEATURES": " ".join(simd["found"])}
    cores = {_BLAS[each] for each in [*simd["baseline"], *simd["found"]] if each in _BLAS}
    return [{}, plain, *({"OPENBLAS_CORETYPE": core} for core in sorted(cores))]


def output_on(environment: dict[str, str], module: str) -> str:
    """What `python -m module`, a module of the tests, prints there."""
    done = subprocess.run(
        [sys.executable, "-m", module],
        cwd=TESTS,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
