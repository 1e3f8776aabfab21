"""Loading: paths, lengths, end tokens, and checkpoints that do not hold what they describe."""

from __future__ import annotations

import json
import shutil

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.mutations import assert_survives, mutations, truncations
from support.tiny_models import make_model, write_gguf

from octavo.config import EngineConfig
from octavo.formats.gguf import GGUFFile
from octavo.formats.tensor import Encoding
from octavo.model.load import load_model, read_model_info, resolve_max_model_len, resolve_model


@pytest.fixture
def copy(tiny_model, tmp_path):
    """A copy of a tiny model's directory, to be broken."""

    def make(name):
        return shutil.copytree(tiny_model(name).path, tmp_path / name)

    return make


def load(path, **settings):
    return load_model(EngineConfig(model=str(path), **settings))


def load_short(path):
    """Without a rope table for whatever context a file claims."""
    return load(path, max_model_len=1)


def rewrite(path, **changes):
    """Change the tensors of a directory; None takes one out."""
    tensors = load_file(path / "model.safetensors") | changes
    save_file({key: value for key, value in tensors.items() if value is not None}, path / "model.safetensors")


def test_the_empty_name_is_the_demo(demo_model):
    assert resolve_model("") == demo_model


def test_a_path_that_is_not_there():
    with pytest.raises(ValueError, match=r"model \(--model\): 'org/name' is not there"):
        resolve_model("org/name")


def test_max_model_len(tiny_model):
    path = tiny_model("llama").path
    assert load(path).max_model_len == 128
    short = load(path, max_model_len=50)
    assert short.max_model_len == 50
    assert short.weights["rope.full"].shape == (50, 16)
    with pytest.raises(ValueError, match=r"max_model_len \(--max-model-len\) is at most 128 .* got 129"):
        load(path, max_model_len=129)
    assert resolve_max_model_len(short.spec, None) == 128


def test_end_tokens_are_those_of_generation_config(copy):
    path = copy("llama")
    (path / "generation_config.json").unlink()
    assert read_model_info(path).eos_token_ids == [2]
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 0, 7]}))
    assert read_model_info(path).eos_token_ids == [7, 0]
    (path / "generation_config.json").write_text("{}")
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"eos_token_id": None}))
    assert read_model_info(path).eos_token_ids == []


def test_tied_embeddings_are_one_tensor(tiny_model):
    for dtype in ("auto", "float32"):
        weights = load(tiny_model("qwen2").path, dtype=dtype).weights
        assert weights["lm_head.weight"] is weights["embed.weight"]
    untied = load(tiny_model("llama").path).weights
    assert untied["lm_head.weight"] is not untied["embed.weight"]


def test_dtype_says_what_matrices_are(tmp_path):
    write_gguf(make_model("llama-biases"), tmp_path / "m.gguf", gguf.GGMLQuantizationType.Q4_0)
    stored, dequantised = (
        load(tmp_path / "m.gguf").weights,
        load(tmp_path / "m.gguf", dtype="float32").weights,
    )
    assert stored.keys() == dequantised.keys()
    for name, tensor in stored.items():
        is_vector = len(tensor.shape) == 1 or name == "rope.full"
        assert tensor.encoding is (Encoding.F32 if is_vector else Encoding.Q4_0), name
        assert dequantised[name].encoding is Encoding.F32
        assert np.array_equal(tensor.to_float32(), dequantised[name].to_float32()), name
    # All but q and k, whose rows are put in order, are still the file's bytes.
    assert not stored["layers.0.mlp.up.weight"].data.flags.owndata


def test_q_and_k_rows_of_a_llama_gguf_are_put_in_order(tmp_path):
    model = make_model("llama-biases")
    write_gguf(model, tmp_path / "m.gguf", gguf.GGMLQuantizationType.F32)
    weights, state = load(tmp_path / "m.gguf").weights, model.state_dict()
    file = GGUFFile(tmp_path / "m.gguf")
    for ours, hf in (("q", "q_proj"), ("k", "k_proj"), ("v", "v_proj")):
        for kind in ("weight", "bias"):
            expected = state[f"model.layers.1.self_attn.{hf}.{kind}"].numpy()
            assert np.array_equal(weights[f"layers.1.attn.{ours}.{kind}"].to_float32(), expected)
            in_file = file.tensor(f"blk.1.attn_{ours}.{kind}").to_float32()
            assert np.array_equal(in_file, expected) == (ours == "v")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model.layers.1.mlp.up_proj.weight": None},
            "there is no tensor 'model.layers.1.mlp.up_proj.weight'",
        ),
        ({"lm_head.weight": None}, "there is no tensor 'lm_head.weight'"),
        ({"model.norm.weight": torch.ones(63)}, r"'model.norm.weight' has shape \(63,\), not \(64,\)"),
        ({"model.norm.weight": torch.ones(64, dtype=torch.int64)}, "'model.norm.weight' has dtype 'I64'"),
        (
            {"model.layers.0.self_attn.q_proj.bias": torch.ones(64)},
            "'model.layers.0.self_attn.q_proj.bias' is not part of the model",
        ),
    ],
)
def test_checkpoints_that_do_not_fit(copy, changes, message):
    path = copy("llama")
    rewrite(path, **changes)
    with pytest.raises(ValueError, match=message) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_tensors_that_hold_no_weights_are_left_out(copy):
    path = copy("qwen2")
    frequencies = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}
    rewrite(path, **frequencies, **{"lm_head.weight": torch.zeros(160, 64)})
    assert load(path).weights["lm_head.weight"].to_float32().any()


def test_broken_gguf_models(tmp_path):
    """Whatever is changed in the header, loading gives a model or a ValueError of one line."""
    path = tmp_path / "sound.gguf"
    write_gguf(make_model("llama3-tied"), path, gguf.GGMLQuantizationType.Q4_1)
    data, header_bytes = path.read_bytes(), gguf.GGUFReader(path).data_offset
    with np.errstate(all="ignore"):
        cuts = truncations(data, 30)
        assert assert_survives(load_short, cuts, tmp_path / "cut.gguf") == 30
        broken = mutations(data, header_bytes, 300, seed=11)
        assert 100 < assert_survives(load_short, broken, tmp_path / "mutated.gguf") < 300
