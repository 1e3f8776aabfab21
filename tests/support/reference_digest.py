"""Prints a digest of what the reference backend gives on this processor."""

from __future__ import annotations

from hashlib import sha256

import numpy as np
from support.batches import run_schedule
from support.random_llama import SPEC, random_llama

from octavo.model.decoder import trace
from octavo.runtime.backend import Limits
from octavo.runtime.kv_cache import KVCacheSpec
from octavo.runtime.reference import ReferenceBackend

LENGTHS = (90, 41)
SCHEDULE = [[(0, 50), (1, 1)], [(1, 39)], [(0, 40), (1, 1)]]


def logits() -> np.ndarray:
    """Of two sequences, in chunks."""
    random = np.random.default_rng(2)
    sequences = [random.integers(0, SPEC.vocab_size, length).tolist() for length in LENGTHS]
    kv_cache = KVCacheSpec(trace(SPEC).cache_layers, "int16")
    limits = Limits(96, 96, 2, 96, SPEC.vocab_size)
    executable = ReferenceBackend().compile(trace(SPEC), random_llama().weights, kv_cache, limits)
    rows = run_schedule(executable, sequences, SCHEDULE)
    return np.stack([row for each in rows for row in each.values()])


if __name__ == "__main__":
    print("logits", sha256(logits().tobytes()).hexdigest())
