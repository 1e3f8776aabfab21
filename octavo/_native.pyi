"""Types of the C++ module; `csrc/bindings/` is its source."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

def isas() -> list[str]: ...
def op_names() -> list[str]: ...
def panel_bytes(encoding: str, cols: int) -> int: ...
def fetch(data: NDArray[np.uint8]) -> None: ...
def multiply_add_rate(isa: str, threads: int, integer: bool) -> float: ...
def read_bandwidth(isa: str, threads: int, bytes: int) -> float: ...
def round_to_groups(
    isa: str,
    rounding: str,
    encoding: str,
    data: NDArray[np.uint8],
    cols: int,
    size: int,
    column_factors: NDArray[np.float32],
    row_factors: NDArray[np.float32],
    importance: NDArray[np.float32],
    codes: NDArray[np.uint8],
    scales: NDArray[np.float32],
    offsets: NDArray[np.float32],
) -> None: ...
def round_to_panels(
    isa: str,
    rounding: str,
    encoding: str,
    data: NDArray[np.uint8],
    cols: int,
    column_factors: NDArray[np.float32],
    row_factors: NDArray[np.float32],
    importance: NDArray[np.float32],
    order: NDArray[np.int32],
    out: NDArray[np.uint8],
) -> None: ...

class SamplingPlan:
    def __init__(
        self,
        *,
        vocab_size: int,
        num_prompt: int,
        min_tokens: int,
        greedy: bool,
        scale: float,
        floor: float,
        top_k: int,
        top_p: float,
        seed: int,
        num_logprobs: int,
        repetition_penalty: float,
        frequency_penalty: float,
        presence_penalty: float,
        allowed: Sequence[int] | None,
        bias_ids: Sequence[int],
        bias: Sequence[float],
        stop_ids: Sequence[int],
    ) -> None: ...

class Sampler:
    def sample(
        self,
        logits: NDArray[np.float32],
        plans: Sequence[SamplingPlan],
        num_outputs: Sequence[int],
        seen: Sequence[tuple[int, NDArray[np.int64], NDArray[np.float32]]],
        banned: Sequence[tuple[int, Sequence[int]]],
        masks: Sequence[tuple[int, NDArray[np.uint32]]],
    ) -> tuple[list[int], list[int], list[tuple[list[int], list[float], int]]]: ...
    def score(
        self, logits: NDArray[np.float32], token_ids: NDArray[np.int64], count: int
    ) -> list[tuple[list[int], list[float], int]]: ...

class Program:
    def __init__(self, threads: int, isa: str) -> None: ...
    def add_buffer(self, rows: int, cols: int, offset: int) -> None: ...
    def add_weight(self, name: str, encoding: str, rows: int, cols: int, data: NDArray[np.uint8]) -> None: ...
    def add_packed(
        self,
        name: str,
        encoding: str,
        rows: int,
        cols: int,
        data: NDArray[np.uint8],
        order: NDArray[np.int32],
    ) -> None: ...
    def pack(
        self,
        encoding: str,
        rows: int,
        cols: int,
        raw: NDArray[np.uint8],
        first_panel: int,
        out: NDArray[np.uint8],
    ) -> None: ...
    def add_instruction(
        self,
        op: str,
        inputs: Sequence[tuple[int, int, int]],
        output: tuple[int, int, int],
        weights: Sequence[str],
        attributes: Mapping[str, int | float | str],
    ) -> None: ...
    def finish(
        self,
        max_rows: Sequence[int],
        arena_cols: Sequence[int],
        max_position: int,
        vocab_size: int,
        result: tuple[int, int, int],
    ) -> None: ...
    def allocate_kv_cache(
        self,
        layers: Sequence[tuple[int, int, int]],
        groups: Sequence[Sequence[int]],
        dtype: str,
        blocks: int,
    ) -> None: ...
    def copy_blocks(self, sources: NDArray[np.int32], destinations: NDArray[np.int32]) -> None: ...
    def read_blocks(self, blocks: NDArray[np.int32], data: NDArray[np.uint8]) -> None: ...
    def write_blocks(self, blocks: NDArray[np.int32], data: NDArray[np.uint8]) -> None: ...
    def run(
        self,
        token_ids: NDArray[np.int32],
        positions: NDArray[np.int32],
        query_starts: NDArray[np.int32],
        context_lens: NDArray[np.int32],
        block_tables: NDArray[np.int32],
        output_rows: NDArray[np.int32],
    ) -> NDArray[np.float32]: ...
    def sampler(self) -> Sampler: ...
    @property
    def weight_bytes(self) -> int: ...
    @property
    def threads(self) -> int: ...
    @property
    def isa(self) -> str: ...
