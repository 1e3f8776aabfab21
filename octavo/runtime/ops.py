"""The op table: everything a model may ask of a backend.

A model is a plain Python function that calls these methods on a `Tracer`; each call appends one
`Instruction`. The semantics written here are the contract; `octavo.runtime.reference` is its NumPy
reading and every other backend is tested against that.

`T` is the number of tokens in the step, `R` the number of rows that want logits. Weights are named; a
linear weight is `[out_features, in_features]` as in PyTorch. All arithmetic is float32 unless a backend
says otherwise for a quantised weight.
"""

from __future__ import annotations

from collections.abc import Sequence

from octavo.runtime.kv_cache import PagedKV
from octavo.runtime.program import Attribute, Buffer, Instruction, Program, Rows, View, plan_arena


class Tracer:
    """Records the ops that a model calls; `finish` returns the planned `Program`."""

    def __init__(self) -> None:
        self._buffers: list[Buffer] = []
        self._instructions: list[Instruction] = []
        self._cache_layers: list[PagedKV] = []

    def embedding(self, weight: str, rows: int, cols: int) -> View:
        """`y[t] = weight[token_ids[t]]`: `[T, cols]`, from a `weight` of `[rows, cols]`."""
        return self._emit("embedding", (), self._new(Rows.TOKENS, cols), ((weight, (rows, cols)),))

    def rms_norm(self, x: View, weight: str, eps: float) -> View:
        """`y = x / sqrt(mean(x^2) + eps) * weight` over each row (Zhang and Sennrich, 2019)."""
        return self._emit("rms_norm", (x,), self._like(x), ((weight, (x.cols,)),), eps=eps)

    def head_rms_norm(self, x: View, weight: str, head_dim: int, eps: float) -> View:
        """`rms_norm` over each `head_dim` columns of `x` separately, written in place."""
        return self._emit("head_rms_norm", (x,), x, ((weight, (head_dim,)),), head_dim=head_dim, eps=eps)

    def linear(
        self,
        x: View,
        weights: Sequence[tuple[str, int]],
        biases: Sequence[str | None] = (),
        residual: View | None = None,
    ) -> View:
        """`y = x @ concat(weights).T + concat(biases) [+ residual]`.

        `weights` are (name, out_features) pairs that share the input: q, k and v, or gate and up, are one
        op, so that a backend quantises and reads `x` once. The weights may differ in encoding. `biases`
        is empty or has a name or None for each weight. `residual` has the shape of the output.
        """
        if biases and len(biases) != len(weights):
            raise ValueError(f"{len(biases)} biases for {len(weights)} weights")
        bias_names = tuple(name or "" for name in biases) or ("",) * len(weights)
        output = self._new(self._buffers[x.buffer].rows, sum(out for _, out in weights))
        widths: dict[str, Attribute] = {f"out{i}": out for i, (_, out) in enumerate(weights)}
        bias_attributes: dict[str, Attribute] = {
            f"bias{i}": name for i, name in enumerate(bias_names) if name
        }
        inputs = (x,) if residual is None else (x, residual)
        shapes: list[tuple[str, tuple[int, ...]]] = [(name, (out, x.cols)) for name, out in weights]
        shapes += [(name, (out,)) for name, (_, out) in zip(bias_names, weights, strict=True) if name]
        return self._emit("linear", inputs, output, shapes, **widths, **bias_attributes)

    def rope(self, x: View, weight: str, head_dim: int, rotary_dim: int) -> View:
        """Rotary position embedding (Su et al., 2021), half-split pairs, in place.

        Each `head_dim` columns of `x` are a head. With `(c, s)` the row of `weight` for the token's
        position and `h = rotary_dim / 2`: columns `i` and `i + h` (`i < h`) become `x[i] c[i] - x[i+h] s[i]`
        and `x[i+h] c[i] + x[i] s[i]`. `weight` is `[max_positions, rotary_dim]`: `h` cosines, then `h` sines.
        """
        table = ((weight, (-1, rotary_dim)),)
        return self._emit("rope", (x,), x, table, head_dim=head_dim, rotary_dim=rotary_dim)

    def paged_attention(
        self, q: View, k: View, v: View, *, num_heads: int, scale: float, cache: PagedKV
    ) -> View:
        """Causal attention over a layer of the paged KV cache: `[T, num_heads * value_dim]`.

        First writes each token's `k` and `v` rows to its slot, then attends: the query at position `p` of a
        sequence sees positions `j <= p`, and with a window `w` only `j > p - w`. Query head `h` reads KV head
        `h // (num_heads // num_kv_heads)`. Each call has a layer of the cache to itself, numbered in the
        order of the calls. Kwon et al., 2023, section 4.
        """
        layer = len(self._cache_layers)
        self._cache_layers.append(cache)
        return self._emit(
            "paged_attention",
            (q, k, v),
            self._new(Rows.TOKENS, num_heads * cache.value_dim),
            layer=layer,
            num_heads=num_heads,
            num_kv_heads=cache.num_kv_heads,
            head_dim=cache.key_dim,
            value_dim=cache.value_dim,
            scale=scale,
            window=cache.window,
        )

    def silu_mul(self, gate: View, up: View) -> View:
        """`y = gate * sigmoid(gate) * up` (SwiGLU, Shazeer 2020)."""
        return self._emit("silu_mul", (gate, up), self._like(gate))

    def add(self, x: View, y: View) -> View:
        """`x + y`, a new buffer."""
        return self._emit("add", (x, y), self._like(x))

    def gather_rows(self, x: View) -> View:
        """`y[r] = x[output_rows[r]]`: the rows of the step that want logits, `[R, cols]`."""
        return self._emit("gather_rows", (x,), self._new(Rows.OUTPUTS, x.cols))

    def finish(self, result: View) -> Program:
        """The Program that computes `result`."""
        return plan_arena(self._instructions, self._buffers, result, tuple(self._cache_layers))

    def _new(self, rows: Rows, cols: int) -> View:
        self._buffers.append(Buffer(rows, cols))
        return View(len(self._buffers) - 1, 0, cols)

    def _like(self, x: View) -> View:
        return self._new(self._buffers[x.buffer].rows, x.cols)

    def _emit(
        self,
        op: str,
        inputs: tuple[View, ...],
        output: View,
        weights: Sequence[tuple[str, tuple[int, ...]]] = (),
        **attributes: Attribute,
    ) -> View:
        """`weights` are (name, shape) pairs."""
        names, shapes = tuple(name for name, _ in weights), tuple(shape for _, shape in weights)
        self._instructions.append(Instruction(op, inputs, output, names, shapes, attributes))
        return output
