"""Ops of attention: rotary positions, and attention over the paged KV cache."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from octavo.runtime import fixed_order
from octavo.runtime.backend import Batch
from octavo.runtime.kv_cache import BLOCK_SIZE, PagedKV
from octavo.runtime.ops.opdef import Floats, OpDef, Run, Work, heads
from octavo.runtime.ops.recorder import Recorder
from octavo.runtime.program import Instruction, Rows, View

_QUERIES = 64
"""Queries of a sequence that attend at a time, so that their scores are few enough for memory."""


class AttentionOps(Recorder):
    """Traces them."""

    def rope(self, x: View, weight: str, head_dim: int, rotary_dim: int) -> View:
        """Rotary position embedding (Su et al., 2021), half-split pairs, in place.

        Each `head_dim` columns of `x` are a head. With `(c, s)` the row of `weight` for the token's
        position and `h = rotary_dim / 2`: columns `i` and `i + h` (`i < h`) become `x[i] c[i] - x[i+h] s[i]`
        and `x[i+h] c[i] + x[i] s[i]`. `weight` is `[max_positions, rotary_dim]`: `h` cosines, then `h` sines.
        """
        table = ((weight, (-1, rotary_dim)),)
        return self.emit("rope", (x,), x, table, head_dim=head_dim, rotary_dim=rotary_dim)

    def paged_attention(
        self, q: View, k: View, v: View, *, num_heads: int, scale: float, cache: PagedKV
    ) -> View:
        """Causal attention over a layer of the paged KV cache: `[T, num_heads * value_dim]`.

        First writes each token's `k` and `v` rows to its slot, then attends: the query at position `p` of a
        sequence sees positions `j <= p`, and with a window `w` only `j > p - w`. Query head `h` reads KV head
        `h // (num_heads // num_kv_heads)`. Each call has a layer of the cache to itself, numbered in the
        order of the calls. Kwon et al., 2023, section 4.
        """
        layer = len(self.cache_layers)
        self.cache_layers.append(cache)
        return self.emit(
            "paged_attention",
            (q, k, v),
            self.new(Rows.TOKENS, num_heads * cache.value_dim),
            layer=layer,
            num_heads=num_heads,
            num_kv_heads=cache.num_kv_heads,
            head_dim=cache.key_dim,
            value_dim=cache.value_dim,
            scale=scale,
            window=cache.window,
        )


def _rope(run: Run, batch: Batch, op: Instruction, inputs: list[Floats]) -> Floats:
    x = heads(inputs[0], op.attributes["head_dim"])
    half = int(op.attributes["rotary_dim"]) // 2
    table = run.weights[op.weights[0]][batch.positions][:, None, :]
    cosines, sines = table[..., :half], table[..., half:]
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    rotated = [first * cosines - second * sines, second * cosines + first * sines, rest]
    return np.concatenate(rotated, axis=-1).reshape(inputs[0].shape)


def _paged_attention(run: Run, batch: Batch, op: Instruction, inputs: list[Floats]) -> Floats:
    key_dim, value_dim = int(op.attributes["head_dim"]), int(op.attributes["value_dim"])
    layer = run.layers[int(op.attributes["layer"])]
    tables = batch.block_tables[layer.group]
    window, scale = int(op.attributes["window"]), np.float32(op.attributes["scale"])
    q, k, v = heads(inputs[0], key_dim), heads(inputs[1], key_dim), heads(inputs[2], value_dim)
    group = q.shape[1] // k.shape[1]
    queries = [slice(start, end) for start, end in pairwise(batch.query_starts)]
    for tokens, table in zip(queries, tables, strict=True):
        positions = batch.positions[tokens]
        slots = table[positions // BLOCK_SIZE], positions % BLOCK_SIZE
        layer.write(slots, k[tokens], v[tokens])

    output = np.zeros((*q.shape[:2], value_dim), np.float32)
    for tokens, table in zip(queries, tables, strict=True):
        for start in range(tokens.start, tokens.stop, _QUERIES):
            some = slice(start, min(start + _QUERIES, tokens.stop))
            positions = batch.positions[some]
            # What no query sees may be gone: its blocks belong to others.
            low = max(0, int(positions[0]) - window + 1) if window else 0
            seen = np.arange(low, int(positions[-1]) + 1, dtype=np.int32)
            keys, values = layer.read((table[seen // BLOCK_SIZE], seen % BLOCK_SIZE))
            # From where a run of the sum over positions begins, whatever the first that is seen.
            absent = ((low % fixed_order.RUN, 0), (0, 0), (0, 0))
            keys, values = np.pad(keys, absent), np.pad(values, absent)  # [context, KV heads, dim]
            places = np.arange(len(keys)) + (low - low % fixed_order.RUN)
            hidden = places > positions[:, None]  # [queries, context]
            if window:
                hidden |= places <= positions[:, None] - window
            hidden = np.repeat(hidden, group, axis=0)
            for head in range(k.shape[1]):
                of_head = slice(head * group, (head + 1) * group)
                rows = q[some, of_head].reshape(-1, key_dim)  # [queries * group, key dim]
                scores = run.product(rows, keys[:, head].T) * scale
                scores[hidden] = -np.inf
                attended = run.product(_softmax(scores), values[:, head])
                output[some, of_head] = attended.reshape(-1, group, value_dim)
    return output.reshape(len(output), -1)


def _softmax(scores: Floats) -> Floats:
    shares = fixed_order.exp(scores - scores.max(axis=-1, keepdims=True))
    normed: Floats = shares / fixed_order.total(shares)[..., None]
    return normed


def _attention_work(op: Instruction) -> Work:
    sizes = int(op.attributes["head_dim"]) + int(op.attributes["value_dim"])
    return Work(pair=int(op.attributes["num_heads"]) * sizes)


OPS = (OpDef("rope", _rope), OpDef("paged_attention", _paged_attention, _attention_work))
