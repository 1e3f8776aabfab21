"""What is said of quantised checkpoints that do not fit together, or do not fit --quantization."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from support.mutations import assert_survives, mutations, truncations
from support.quantised_cases import AWQ, CASES, GPTQ, save, save_case, weight_of
from support.quantised_checkpoints import compressed_tensors_config

from octavo.formats.checkpoint import open_checkpoint
from octavo.formats.quantised.directory import QuantisedDirectory


class TestRequestedMethod:
    """`--quantization`, beside what the checkpoint says."""

    def test_stands_in_for_a_config_that_says_nothing(self, tmp_path):
        values = save_case(tmp_path, "awq")
        (tmp_path / "config.json").write_text("{}")
        weight = open_checkpoint(tmp_path, "awq").tensor("m.weight")
        assert np.array_equal(weight.to_float32(), values)

    def test_may_agree(self, tmp_path):
        save_case(tmp_path, "fp8-row")
        assert isinstance(open_checkpoint(tmp_path, "fp8"), QuantisedDirectory)

    def test_must_not_differ(self, tmp_path):
        save_case(tmp_path, "gptq")
        with pytest.raises(
            ValueError, match=r"\(--quantization\) is awq, but \S+ is quantised by gptq; leave it out"
        ):
            open_checkpoint(tmp_path, "awq")

    def test_needs_its_tensors(self, tmp_path):
        save(tmp_path, None, {"m.weight": weight_of()})
        with pytest.raises(
            ValueError, match=r"is not quantised by gptq: it has no tensors named \*\.qweight"
        ):
            list(open_checkpoint(tmp_path, "gptq").tensors)

    def test_is_for_directories(self, tmp_path):
        with pytest.raises(ValueError, match=r"\(--quantization\) is awq, but \S+\.gguf is a GGUF file"):
            open_checkpoint(tmp_path / "m.gguf", "awq")
        save(tmp_path, None, {"m.weight": weight_of()})
        with pytest.raises(ValueError, match=r"is gguf, but \S+ is a Hugging Face directory"):
            open_checkpoint(tmp_path, "gguf")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("awq", "quantization_config must be an object"),
        ({}, "quant_method must be a name"),
        ({"quant_method": "hqq"}, "quant_method is 'hqq'; octavo reads awq, gptq, compressed-tensors, fp8"),
        (AWQ | {"bits": 3}, "bits is 3"),
        (AWQ | {"bits": "4"}, "bits must be an integer"),
        (AWQ | {"version": "gemv"}, "version is 'gemv'"),
        (
            GPTQ | {"checkpoint_format": "marlin"},
            "checkpoint_format is 'marlin'; octavo reads gptq and gptq_v2",
        ),
        (compressed_tensors_config("marlin-24"), "format is 'marlin-24'"),
        (compressed_tensors_config("nvfp4-pack-quantized"), "format is 'nvfp4-pack-quantized'"),
        ({"quant_method": "compressed-tensors", "config_groups": [1]}, "config_groups must be an object"),
        (
            compressed_tensors_config("int-quantized") | {"sparsity_config": {"format": "sparse-bitmask"}},
            "no sparse weights",
        ),
        (
            compressed_tensors_config("int-quantized") | {"transform_config": {"config_groups": {"R1": {}}}},
            "transforms of activations",
        ),
        ({"quant_method": "fp8", "fmt": "e5m2"}, "fmt is 'e5m2'"),
        (
            {"quant_method": "fp8", "weight_block_size": [128, 0]},
            "weight_block_size must be a list of two sizes",
        ),
    ],
)
def test_configs_that_are_not_read(config, message, tmp_path):
    save(tmp_path, config, {"m.weight": weight_of()})
    with pytest.raises(ValueError, match=f"{tmp_path}: .*{re.escape(message)}"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("name", "suffix", "part", "message"),
    [
        ("awq", "scales", None, "'m.scales' is missing"),
        (
            "awq",
            "scales",
            torch.ones(4, 639, dtype=torch.float16),
            "is F16 of shape (4, 639), not F16 or BF16",
        ),
        ("awq", "scales", torch.ones(3, 640, dtype=torch.float16), "'m.qzeros' is I32 of shape (4, 80), not"),
        ("awq", "qweight", torch.zeros(512, 80), "is F32 of shape (512, 80), not I32"),
        ("gptq", "qzeros", torch.zeros(4, 60, dtype=torch.int32), "are not codes of 4 or 8 bits"),
        ("gptq", "g_idx", torch.full((512,), 4, dtype=torch.int32), "has a g_idx from 4 to 4 for 4 groups"),
        ("gptq", "g_idx", torch.full((512,), -1, dtype=torch.int32), "has a g_idx from -1 to -1"),
        ("gptq", "g_idx", torch.zeros(511, dtype=torch.int32), "is I32 of shape (511,)"),
        ("w4a16", "weight_shape", torch.tensor([640, 500]), "are not codes of 4 or 8 bits"),
        ("w4a16", "weight_shape", torch.tensor([-640, -512]), "are not codes of 4 or 8 bits"),
        ("w4a16", "weight_scale", torch.ones(640, 7), "has 7 groups in rows of 512"),
        ("w4a16", "weight_scale", torch.ones(639, 8), "is F32 of shape (639, 8) for 640 rows"),
        (
            "w4a16-zeros",
            "weight_zero_point",
            torch.zeros(80, 7, dtype=torch.int32),
            "is I32 of shape (80, 7)",
        ),
        ("w8a8", "weight_scale", torch.ones(640, 513), "has 513 groups in rows of 512"),
        (
            "w8a8-zeros",
            "weight_zero_point",
            torch.zeros(3, 1, dtype=torch.int8),
            "is not int8 for each scale",
        ),
        ("fp8-block", "weight_scale_inv", torch.ones(5, 5), "of shape (5, 5) is no scale of a weight"),
        ("nf4", "weight.absmax", torch.ones(9), "'m.weight.absmax' is F32 of shape (9,), not U8"),
        ("nf4", "weight.quant_map", torch.ones(15), "not F32 of (16)"),
        ("nf4", "weight", torch.zeros(9, dtype=torch.uint8), "has 9 bytes for a matrix of 640 x 512"),
        ("nf4-plain", "weight.absmax", torch.ones(9), "has 9 scales for 327680 codes in blocks of 128"),
        ("nf4", "weight.quant_state.bitsandbytes__nf4", torch.ones(9, dtype=torch.uint8), "is not read"),
        ("mxfp4", "weight_scales", torch.ones(640, 17, dtype=torch.uint8), "does not have 16 bytes for each"),
        (
            "ct-mxfp4",
            "weight_scale",
            torch.ones(640, 17, dtype=torch.uint8),
            "does not have 16 bytes for each",
        ),
    ],
)
def test_parts_that_do_not_fit(name, suffix, part, message, tmp_path):
    config, writer, *_ = CASES[name]
    parts, _ = writer()(weight_of())
    parts = {key: value for key, value in parts.items() if key != f".{suffix}"}
    if part is not None:
        parts[f".{suffix}"] = part
    save(tmp_path, config, {f"m{key}": value for key, value in parts.items()})
    with pytest.raises(ValueError, match=f"{tmp_path}: .*{re.escape(message)}"):
        open_checkpoint(tmp_path).tensor("m.weight")


def read_everything(path: Path) -> None:
    """Everything beside the safetensors file at `path`."""
    checkpoint = open_checkpoint(path.parent)
    for name in checkpoint.tensors:
        checkpoint.tensor(name).to_float32()


@pytest.mark.parametrize(
    "name", ["awq", "gptq-act-order", "w8a8", "w4a16-zeros", "fp8-block", "nf4", "mxfp4"]
)
def test_truncated_and_mutated_files(name, tmp_path):
    save_case(tmp_path, name, (64, 128))
    path = tmp_path / "model.safetensors"
    data = path.read_bytes()
    with np.errstate(all="ignore"):
        assert assert_survives(read_everything, truncations(data, 40), path, folder=True) >= 39
        header_bytes = 8 + int.from_bytes(data[:8], "little")
        assert (
            assert_survives(read_everything, mutations(data, header_bytes, 150, seed=6), path, folder=True)
            > 40
        )
        assert_survives(read_everything, mutations(data, len(data), 60, seed=7), path, folder=True)


def test_mutated_configs(tmp_path):
    for name in ("awq", "w4a16-zeros", "fp8-block"):
        save_case(tmp_path, name, (64, 128))
        path = tmp_path / "config.json"
        data = path.read_bytes()
        failures = assert_survives(
            read_everything, mutations(data, len(data), 150, seed=8), path, folder=True
        )
        assert failures > 50
