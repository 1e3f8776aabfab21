"""Logits of quantised checkpoints against transformers on the dequantised weights, and the float original."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from support import quantised_checkpoints as write
from support.batches import run_schedule
from support.tiny_models import expected_logits, read_gguf, write_gguf

from octavo.formats.tensor import Encoding
from octavo.runtime.backend import Backend, LogitsExecutable
from octavo.runtime.reference import ReferenceBackend

# A prompt, a step of one token, and one of two.
TOKENS = np.random.default_rng(3).integers(0, 160, 40).tolist()
SCHEDULE = [[(0, 37)], [(0, 1)], [(0, 2)]]

GGUF_TYPES = [
    name
    for name, each in Encoding.__members__.items()
    if each.group_size > 1 and name in GGMLQuantizationType.__members__ and name != "Q8_K"
]

EXACT = 1e-5
"""Largest difference, in parts of the logits' range, that the order of float32 sums explains."""
FLOAT16 = 4e-3
"""That which scales or weights rounded to float16 explain besides."""
TABLE = 0.02
"""That which NF4's table in integers explains besides: here the format itself moves them by 0.27."""
INT8_ACTIVATIONS = 0.03
"""That which rounding activations to int8 explains besides: the integer kernels of the native backend do."""


def logits_of(executable: LogitsExecutable) -> np.ndarray:
    (rows,) = run_schedule(executable, [TOKENS], SCHEDULE)
    return np.stack([rows[position] for position in range(len(TOKENS))])


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference, in parts of the range of `theirs`."""
    return float(np.abs(ours - theirs).max() / np.ptp(theirs))


def check(
    path: Path,
    dequantised: np.ndarray,
    original: np.ndarray,
    backend: Backend,
    compile_model,
    rounding: float = FLOAT16,
) -> None:
    """The model at `path` against logits of its dequantised weights, and of what it was quantised from."""
    _, exact = compile_model(path, backend, "float32")
    assert difference(logits_of(exact), dequantised) < EXACT
    _, packed = compile_model(path, backend, "auto")
    ours = logits_of(packed)
    allowed = rounding if isinstance(backend, ReferenceBackend) else rounding + INT8_ACTIVATIONS
    assert difference(ours, dequantised) < allowed
    assert difference(ours, original) < difference(dequantised, original) + allowed


@pytest.mark.parametrize("kind", GGUF_TYPES)
def test_gguf_types(kind, tiny_model, tmp_path, backend, compile_model):
    model, path = tiny_model("llama-wide").model, tmp_path / "model.gguf"
    write_gguf(model, path, GGMLQuantizationType[kind])
    dequantised = expected_logits(read_gguf(path), TOKENS)
    check(path, dequantised, expected_logits(model, TOKENS), backend, compile_model)


FP8_BLOCK = {"quant_method": "fp8", "weight_block_size": [128, 128]}
INT4_GROUPS = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128, "symmetric": False}
INT8_ROWS = {"num_bits": 8, "type": "int", "strategy": "channel"}
CHECKPOINTS = {
    "awq": ({"quant_method": "awq", "bits": 4}, lambda: write.awq(64)),
    "gptq": ({"quant_method": "gptq", "bits": 4}, write.gptq),
    "gptq-act-order": ({"quant_method": "gptq", "bits": 4}, lambda: write.gptq(act_order=True)),
    "gptq-8": ({"quant_method": "gptq", "bits": 8}, lambda: write.gptq(8, 64)),
    "w8a8": (
        write.compressed_tensors_config("int-quantized", **INT8_ROWS),
        lambda: write.compressed_tensors("int-quantized", **INT8_ROWS),
    ),
    "w4a16": (
        write.compressed_tensors_config("pack-quantized", **INT4_GROUPS),
        lambda: write.compressed_tensors("pack-quantized", **INT4_GROUPS),
    ),
    "fp8-block": (FP8_BLOCK, lambda: write.float8("block")),
    "nf4": ({"quant_method": "bitsandbytes", "load_in_4bit": True}, lambda: write.bitsandbytes("nf4")),
    "mxfp4": ({"quant_method": "mxfp4"}, lambda: write.mxfp4),
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_hugging_face_methods(name, tiny_model, tmp_path, backend, compile_model):
    model, (config, writer) = tiny_model("llama-wide").model, CHECKPOINTS[name]
    dequantised = write.write_checkpoint(model, tmp_path, writer(), config)
    rounding = FLOAT16 + TABLE if name == "nf4" else FLOAT16
    expected, original = expected_logits(dequantised, TOKENS), expected_logits(model, TOKENS)
    check(tmp_path, expected, original, backend, compile_model, rounding)
