"""Blocks are found by whoever computes the same bits, and by nobody else."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from support.random_llama import SPEC, llama_spec, random_llama

from octavo.engine.kv.offload.content_key import content_key
from octavo.formats.tensor import Tensor
from octavo.model.decoder import trace
from octavo.model.rope import Rope
from octavo.runtime.kv_cache import KVCacheSpec


def key(max_model_len: int = 64, **changes: Any) -> bytes:
    kv_cache = KVCacheSpec(trace(SPEC).cache_layers, changes.pop("dtype", "float16"))
    spec = llama_spec(**changes.pop("spec", {}))
    model = random_llama(max_model_len=max_model_len)
    weights = dict(model.weights)
    weights |= {name: Tensor.from_array(table) for name, table in spec.tables(max_model_len).items()}
    if name := changes.pop("weight", None):
        data = weights[name].data.copy()
        data.reshape(-1).view(np.uint8)[-1] ^= 1
        weights[name] = dataclasses.replace(weights[name], data=data)
    return content_key(trace(spec), weights, kv_cache, **{"code": "c", "hash_algorithm": "sha256", **changes})


def test_it_is_the_same_for_the_same_and_whatever_the_longest_sequence():
    assert len(key()) == 32
    assert key() == key() == key(max_model_len=128)


def test_a_fingerprint_stands_for_the_weights_but_not_for_the_frequencies():
    weight = next(name for name in trace(SPEC).weight_names if name != "rope.full")
    assert key(fingerprint="f") == key(fingerprint="f", weight=weight, max_model_len=128)
    spec = {"rope": Rope(dim=16, theta=20.0)}
    keys = [key(), key(fingerprint="f"), key(fingerprint="g"), key(fingerprint="f", spec=spec)]
    assert len(set(keys)) == len(keys)


def test_anything_that_changes_a_bit_of_the_cache_changes_it():
    weight = next(name for name in trace(SPEC).weight_names if name not in ("rope.full", "embed.weight"))
    keys = [
        key(),
        key(weight=weight),
        key(dtype="float32"),
        key(code="another build"),
        key(hash_algorithm="blake2b"),
        key(spec={"norm_eps": 2e-5}),
    ]
    assert len(set(keys)) == len(keys)
