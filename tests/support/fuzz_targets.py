"""The models that `support.fuzz` breaks: one for each reader, small, with everything that it reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType
from safetensors.torch import save_file
from support.fuzz import Target
from support.k_quant_writer import quantise
from support.model_with_tokenizer import save_model
from support.quantised_cases import CASES, save_case

from octavo.formats.checkpoint import open_checkpoint
from octavo.formats.on_load import FLOATS
from octavo.formats.tensor import Encoding, Tensor
from octavo.model.load import read_model_info
from octavo.model.weights import stored_weights
from octavo.tokenizer.load import load_tokenizer

GGUF_TYPES = [
    kind for kind in GGMLQuantizationType if kind.name in Encoding.__members__ and kind.name != "Q8_K"
]


def _read_weights(path: Path) -> None:
    """Each weight, some rows at a time."""
    checkpoint = open_checkpoint(path if path.suffix == ".gguf" else path.parent)
    for name in checkpoint.tensors:
        weight = checkpoint.tensor(name)
        if isinstance(weight, Tensor) and weight.encoding in FLOATS:
            weight.data.sum()
            continue
        for chunk in weight.chunks():
            chunk.values()


def _read_model(path: Path) -> None:
    """What is read of a model before its weights, and how they are stored."""
    path = path if path.suffix == ".gguf" else path.parent
    spec = read_model_info(path).spec
    stored_weights(open_checkpoint(path), spec)


def _read_tokenizer(path: Path) -> None:
    tokenizer = load_tokenizer(path if path.suffix == ".gguf" else path.parent)
    ids = tokenizer.encode("A quick text, 12 words.")
    tokenizer.decode(ids)


def _gguf(folder: Path) -> Path:
    path = folder / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint32("llama.block_count", 3)
    writer.add_float64("a.double", 1 / 3)
    writer.add_bool("a.bool", True)
    writer.add_array("some.tokens", ["<s>", "", "Ġthe"] + [f"token{i}" for i in range(40)])
    writer.add_array("some.numbers", [1, -2, 3])
    writer.add_array("some.scores", [0.5, -0.25])
    rng = np.random.default_rng(0)
    for kind in GGUF_TYPES:
        values = rng.normal(size=(3, 256)).astype(np.float32)
        writer.add_tensor(f"{kind.name}.weight", quantise(values, kind), raw_dtype=kind)
    # Q8_K has no writer anywhere: any bytes will do.
    blocks = rng.integers(0, 100, (2, 292), dtype=np.uint8)
    writer.add_tensor("Q8_K.weight", blocks, raw_dtype=GGMLQuantizationType.Q8_K)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _gguf_part(folder: Path) -> Path:
    writer = gguf.GGUFWriter(folder / "model.gguf", "llama", split_max_tensors=2)
    for number in range(5):
        writer.add_tensor(f"t{number}", np.full((2, 32), number, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return folder / "model-00002-of-00003.gguf"


def _gguf_model(kind: str) -> Callable[[Path], Path]:
    def build(folder: Path) -> Path:
        import tempfile

        from octavo.quantise.config import QuantiseConfig
        from octavo.quantise.job import quantise as write

        with tempfile.TemporaryDirectory() as source:
            save_model(Path(source), num_hidden_layers=1, hidden_size=64, intermediate_size=64)
            config = QuantiseConfig(model=source, output=str(folder / "model.gguf"), format="gguf-q4_0")
            path = write(config)
        if kind == "sentencepiece":
            _as_sentencepiece(path)
        return path

    return build


def _as_sentencepiece(path: Path) -> None:
    """Replace the file by one that has only a SentencePiece tokenizer."""
    writer = gguf.GGUFWriter(path, "llama")
    tokens = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁",
        "a",
        "b",
        "▁a",
        "ab",
        "▁ab",
    ]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * 259 + [-1.0, -2.0, -3.0, -4.0, -5.0, -6.0])
    writer.add_token_types([2, 3, 3] + [6] * 256 + [1] * 6)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template("{{ messages }}")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _safetensors(folder: Path) -> Path:
    tensors = {
        "a": torch.ones(3, 64),
        "b": torch.ones(2, 3, 32, dtype=torch.bfloat16),
        "c": torch.ones(5, dtype=torch.float16),
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text("{}")
    return folder / "model.safetensors"


def _index(folder: Path) -> Path:
    weight_map = {}
    for number in range(3):
        name = f"model-0000{number + 1}-of-00003.safetensors"
        save_file({f"t{number}": torch.ones(4, 32), f"u{number}": torch.ones(3)}, folder / name)
        weight_map |= {f"t{number}": name, f"u{number}": name}
    (folder / "config.json").write_text("{}")
    index = {"metadata": {"total_size": 1584}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder / "model.safetensors.index.json"


def _case(name: str, file: str) -> Callable[[Path], Path]:
    def build(folder: Path) -> Path:
        save_case(folder, name, (64, 128) if "row" not in name else (64, 512))
        return folder / file

    return build


def _model(file: str) -> Callable[[Path], Path]:
    def build(folder: Path) -> Path:
        save_model(folder, num_hidden_layers=1, hidden_size=64, intermediate_size=64)
        return folder / file

    return build


def _torchao(folder: Path) -> Path:
    parts = {
        "a._weight_qdata": torch.zeros(16, 32, dtype=torch.int8),
        "a._weight_scale": torch.ones(2, 16),
        "a._weight_zero_point": torch.ones(2, 16),
        "b._weight_qdata": torch.ones(16, 64, dtype=torch.int8),
        "b._weight_scale": torch.ones(16, 2),
        "b._weight_zero_point": torch.ones(16, 2, dtype=torch.int8),
    }
    int4 = {"_type": "torch.dtype", "_data": "int4"}
    intx = {"_type": "IntxUnpackedToInt8Tensor", "_data": {"target_dtype": int4}}
    metadata = {"a.weight": json.dumps({"_type": "Int4Tensor", "_data": {}}), "b.weight": json.dumps(intx)}
    save_file(parts, folder / "model.safetensors", metadata=metadata)
    (folder / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "torchao"}}))
    return folder / "model.safetensors"


def _method(name: str) -> str:
    return str(CASES[name][0]["quant_method"])


TARGETS = [
    Target("gguf", "gguf", _gguf, _read_weights),
    Target("gguf-split", "gguf-split", _gguf_part, _read_weights),
    Target("gguf-model", "gguf-model", _gguf_model("bpe"), _read_model),
    Target("gguf-tokenizer", "gguf-tokenizer", _gguf_model("bpe"), _read_tokenizer),
    Target("gguf-tokenizer-spm", "gguf-tokenizer", _gguf_model("sentencepiece"), _read_tokenizer),
    Target("safetensors", "safetensors", _safetensors, _read_weights),
    Target("safetensors-index", "safetensors-index", _index, _read_weights),
    Target("config", "config", _model("config.json"), _read_model),
    Target("generation-config", "config", _model("generation_config.json"), _read_model),
    Target("tokenizer", "tokenizer", _model("tokenizer.json"), _read_tokenizer),
    Target("torchao", "torchao", _torchao, _read_weights),
    Target("tokenizer-config", "tokenizer", _model("tokenizer_config.json"), _read_tokenizer),
    *(
        Target(f"{name}-tensors", _method(name), _case(name, "model.safetensors"), _read_weights)
        for name in CASES
    ),
    *(Target(f"{name}-config", _method(name), _case(name, "config.json"), _read_weights) for name in CASES),
]
