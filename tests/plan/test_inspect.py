"""What `octavo inspect` says, against transformers' count, the packed weights and the engine's refusal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from gguf import GGMLQuantizationType, GGUFWriter
from support import quantised_checkpoints as write
from support.batches import run_schedule
from support.tiny_models import make_model, write_gguf

from octavo.cli.main import main
from octavo.config import EngineConfig
from octavo.engine.build import build_engine, kv_cache_spec, scheduler_settings, step_limits
from octavo.machine.memory import Memory
from octavo.model.decoder import trace
from octavo.model.load import load_model
from octavo.plan.inspect import inspect_model
from octavo.runtime.backend import Limits
from octavo.runtime.kv_cache import KVCacheSpec
from octavo.runtime.reference import ReferenceBackend

PLENTY = Memory(1 << 34, 1 << 34)


@pytest.fixture(scope="module")
def model() -> transformers.PreTrainedModel:
    return make_model("llama-wide")


@pytest.fixture(params=["Q4_K", "Q6_K", "gptq", "awq", "fp8", "f32", "tied"])
def stored(request: pytest.FixtureRequest, model: transformers.PreTrainedModel, tmp_path: Path) -> Path:
    """A model in one of several forms."""
    path = tmp_path / "model"
    match request.param:
        case "Q4_K" | "Q6_K":
            write_gguf(model, path, GGMLQuantizationType[request.param])
        case "gptq":
            write.write_checkpoint(model, path, write.gptq(symmetric=False), {"quant_method": "gptq"})
        case "awq":
            write.write_checkpoint(model, path, write.awq(), {"quant_method": "awq"})
        case "fp8":
            write.write_checkpoint(model, path, write.float8("block"), {"quant_method": "fp8"})
        case "f32":
            model.save_pretrained(path)
        case "tied":
            make_model("llama3-tied").save_pretrained(path)
    return path


@pytest.mark.parametrize("dtype", ["auto", "float32"])
def test_packed_bytes_are_what_the_kernels_take(stored: Path, dtype: str) -> None:
    native = pytest.importorskip("octavo.runtime.native", exc_type=ImportError)
    config = EngineConfig(model=str(stored), dtype=dtype)
    loaded = load_model(config)
    scheduler = scheduler_settings(config, loaded.max_model_len)
    limits = step_limits(scheduler, loaded.max_model_len, loaded.spec.vocab_size)
    kv_cache = kv_cache_spec(config, trace(loaded.spec).cache_layers)
    executable = native.NativeBackend().compile(trace(loaded.spec), loaded.weights, kv_cache, limits)
    packed = inspect_model(config, PLENTY).packed_bytes
    assert 0 <= executable.weight_bytes - packed <= 64 * len(loaded.weights)  # each begins a cache line


def test_forms_are_what_the_weights_become(stored: Path) -> None:
    found = inspect_model(EngineConfig(model=str(stored)), PLENTY)
    weights = load_model(EngineConfig(model=str(stored))).weights
    assert [layer.name for layer in found.layers][:2] == ["embed", "lm_head"] or found.tie_embeddings
    for number in range(found.num_layers):
        (layer,) = [each for each in found.layers if each.name == f"layer {number}"]
        own = [w for n, w in weights.items() if n.startswith(f"layers.{number}.") and len(w.shape) > 1]
        assert {form.runs_as for form in layer.forms} == {each.encoding.value for each in own}
        assert sum(form.matrices for form in layer.forms) == len(own) == 7


def test_parameters_are_those_of_transformers(stored: Path, model: transformers.PreTrainedModel) -> None:
    found = inspect_model(EngineConfig(model=str(stored)), PLENTY)
    expected = make_model("llama3-tied") if found.tie_embeddings else model
    assert found.parameters == expected.num_parameters()


def inspect(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> dict[str, Any]:
    assert main(["inspect", *arguments, "--json"]) == code
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_text_and_json_say_the_same(
    model: transformers.PreTrainedModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_gguf(model, tmp_path / "m.gguf", GGMLQuantizationType.Q2_K)
    found = inspect(capsys, str(tmp_path / "m.gguf"))
    assert main(["inspect", str(tmp_path / "m.gguf")]) == 0
    text = capsys.readouterr().out
    assert "layers 0-1    7 x Q2_K" in text
    assert f"{found['parameters']:,}" in text
    # K and V, layers, KV heads, head dim of int16 and a scale
    assert found["kv_bytes_per_token"] == 2 * 2 * 2 * (64 * 2 + 4)
    assert "1,056 bytes a token" in text
    assert found["fits"] is True
    assert "fits here     yes: room for" in text


def test_a_gguf_whose_layers_differ(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its keys are lists; what differs is a list in the JSON, and from the least to the most in the text."""
    widths, path = [96, 32, 64], tmp_path / "m.gguf"
    writer = GGUFWriter(path, "qwen2")
    writer.add_block_count(3)
    writer.add_context_length(64)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(widths)
    writer.add_head_count(4)
    writer.add_head_count_kv([2, 2, 2])
    writer.add_layer_norm_rms_eps(1e-5)
    shapes = {"token_embd": (80, 64), "output_norm": (64,)}
    for layer, width in enumerate(widths):
        linears = {"attn_q": (64, 64), "attn_k": (32, 64), "attn_v": (32, 64), "attn_output": (64, 64)}
        linears |= {"ffn_gate": (width, 64), "ffn_up": (width, 64), "ffn_down": (64, width)}
        norms = {"attn_norm": (64,), "ffn_norm": (64,)}
        shapes |= {f"blk.{layer}.{part}": shape for part, shape in (linears | norms).items()}
    random = np.random.default_rng(0)
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", random.standard_normal(shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = inspect(capsys, str(path))
    assert (found["intermediate_size"], found["num_kv_heads"]) == (widths, 2)
    assert found["parameters"] == sum(int(np.prod(shape)) for shape in shapes.values())
    assert main(["inspect", str(path)]) == 0
    assert "4 heads of 16 on 2 KV heads, MLP 32-96, 80 tokens, tied" in capsys.readouterr().out
    logits = []
    native = pytest.importorskip("octavo.runtime.native", exc_type=ImportError)
    for backend in (ReferenceBackend(), native.NativeBackend()):
        model = load_model(EngineConfig(model=str(path)))
        program = trace(model.spec)
        kv_cache = KVCacheSpec(program.cache_layers, "float32")
        executable = backend.compile(program, model.weights, kv_cache, Limits(16, 16, 1, 64, 80))
        (rows,) = run_schedule(executable, [[1, 5, 9]], [[(0, 3)]])
        logits.append(np.stack([rows[position] for position in range(3)]))
    assert np.abs(logits[0] - logits[1]).max() < 1e-5 * np.ptp(logits[0])


def test_what_does_not_fit_is_what_the_engine_refuses(
    model: transformers.PreTrainedModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model.save_pretrained(tmp_path)
    found = inspect(capsys, str(tmp_path), "--kv-cache-memory", "1KiB", code=3)
    assert (found["fits"], found["kv_blocks"]) == (False, 0)
    with pytest.raises(ValueError, match="kv_cache_memory_bytes") as caught:
        build_engine(EngineConfig(model=str(tmp_path), kv_cache_memory_bytes=1024))
    assert found["why_not"] == str(caught.value)


def test_a_model_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "/nowhere"]) == 1
    assert "model (--model): '/nowhere' is not there" in capsys.readouterr().err
