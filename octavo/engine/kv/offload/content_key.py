"""A name for all that the bytes of a KV block depend on besides its tokens."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from hashlib import sha256

import numpy as np

from octavo.formats.tensor import Tensor
from octavo.runtime.kv_cache import KVCacheSpec
from octavo.runtime.program import Program

_FREQUENCIES = "rope."
"""Tables of such names have a row a position, as many as `max_model_len` says; two tell them all."""


def content_key(
    program: Program,
    weights: Mapping[str, Tensor],
    kv_cache: KVCacheSpec,
    *,
    code: str,
    hash_algorithm: str,
    fingerprint: str = "",
) -> bytes:
    """32 bytes over the model's operations and weights, the cache's shape and type, and `code`.

    `code` says what computes, to the bit: kernels that round differently have another. The weights are known
    by the `fingerprint` of their files; where there is none, all are read.
    """
    key = sha256(b"octavo kv 1")
    machine = (platform.machine(), *platform.libc_ver())
    for part in (repr(program), repr(kv_cache), code, hash_algorithm, fingerprint, *machine):
        key.update(sha256(part.encode()).digest())
    for name in program.weight_names:
        if fingerprint and not name.startswith(_FREQUENCIES):
            continue
        tensor = weights[name]
        data = tensor.data.reshape(-1)
        shape: tuple[int, ...] = tensor.shape
        if name.startswith(_FREQUENCIES):
            data, shape = data[: 2 * data.size // tensor.shape[0]], tensor.shape[1:]
        key.update(sha256(f"{name} {shape} {tensor.encoding.value}".encode()).digest())
        key.update(sha256(np.ascontiguousarray(data).data).digest())
    return key.digest()
