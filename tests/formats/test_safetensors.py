"""The Hugging Face directory reader against the safetensors library, and against broken directories."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support.mutations import assert_survives, mutations, truncations

from octavo.formats.checkpoint import open_checkpoint
from octavo.formats.gguf import GGUFFile
from octavo.formats.safetensors import SafetensorsDirectory, SafetensorsFile
from octavo.formats.tensor import Encoding


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(6, 5, generator=generator)
    return {"single": values, "half": values.half(), "brain": values.bfloat16(), "vector": values[0].clone()}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    return path


def write_shards(directory: Path, shards: dict[str, dict[str, torch.Tensor]], **index: str) -> None:
    """Shards and their index; `index` entries override where it says that a tensor is."""
    weight_map = {}
    for shard, tensors in shards.items():
        save_file(tensors, directory / shard)
        weight_map.update(dict.fromkeys(tensors, shard))
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map | index}))


def raw_file(header: object, data: bytes = b"") -> bytes:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + data


def read_everything(path: Path) -> None:
    file = SafetensorsFile(path)
    for name in file.tensors:
        file.tensor(name).to_float32()


def test_single_file(directory, tensors):
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    checkpoint = SafetensorsDirectory(directory)
    assert checkpoint.config["architectures"] == ["LlamaForCausalLM"]
    assert checkpoint.tensors == tensors.keys()
    for name, value in tensors.items():
        ours = checkpoint.tensor(name)
        assert ours.shape == tuple(value.shape)
        assert np.array_equal(ours.to_float32(), value.float().numpy())
    assert checkpoint.tensor("brain").encoding is Encoding.BF16


def test_shards(directory, tensors):
    parts = [{"single": tensors["single"]}, {key: tensors[key] for key in ("half", "brain", "vector")}]
    write_shards(directory, {"a.safetensors": parts[0], "b.safetensors": parts[1]})
    checkpoint = SafetensorsDirectory(directory)
    assert checkpoint.tensors == tensors.keys()
    for name, value in tensors.items():
        assert np.array_equal(checkpoint.tensor(name).to_float32(), value.float().numpy())


@pytest.mark.parametrize(
    "shard", ["../out.safetensors", "/etc/passwd", "sub/x.safetensors", "..", "", "a\\b", "a\0", 3, None]
)
def test_shards_stay_in_the_directory(directory, tensors, shard):
    write_shards(directory, {"a.safetensors": tensors}, single=shard)
    with pytest.raises(ValueError, match="must name files of its own directory"):
        SafetensorsDirectory(directory).tensor("single")


def test_a_shard_may_be_a_symbolic_link(tmp_path, tensors):
    """As in the hub's cache, where files are links to blobs; to any other place they may not lead."""
    snapshot, blobs = tmp_path / "snapshots" / "main", tmp_path / "blobs"
    for folder in (snapshot, blobs):
        folder.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    save_file(tensors, blobs / "hash")
    (snapshot / "model.safetensors").symlink_to("../../blobs/hash")
    assert SafetensorsDirectory(snapshot).tensors == tensors.keys()
    save_file(tensors, tmp_path / "elsewhere")
    (snapshot / "model.safetensors").unlink()
    (snapshot / "model.safetensors").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="outside of its folder"):
        SafetensorsDirectory(snapshot).tensor("half")


def test_a_tensor_in_two_shards(directory, tensors):
    write_shards(directory, {"a.safetensors": tensors, "b.safetensors": {"half": tensors["half"]}})
    with pytest.raises(ValueError, match=r"b\.safetensors: tensor 'half' is in a\.safetensors too"):
        SafetensorsDirectory(directory).tensor("half")


def test_an_index_that_is_wrong(directory, tensors):
    write_shards(directory, {"a.safetensors": tensors}, nothing="a.safetensors")
    with pytest.raises(ValueError, match=r"index\.json: tensor 'nothing' is not in 'a\.safetensors'"):
        SafetensorsDirectory(directory).tensor("half")


def test_a_missing_shard(directory, tensors):
    write_shards(directory, {"a.safetensors": tensors})
    (directory / "a.safetensors").unlink()
    with pytest.raises(ValueError, match=r"a\.safetensors: cannot read"):
        SafetensorsDirectory(directory).tensor("half")


def test_a_missing_tensor(directory, tensors):
    save_file(tensors, directory / "model.safetensors")
    with pytest.raises(ValueError, match="there is no tensor 'nothing'"):
        SafetensorsDirectory(directory).tensor("nothing")


def test_no_weights(directory):
    (directory / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(ValueError, match=r"has neither model\.safetensors nor"):
        SafetensorsDirectory(directory).tensor("half")


@pytest.mark.parametrize("dtype", [torch.int64, torch.float64, torch.int8, torch.float8_e4m3fn, torch.bool])
def test_other_dtypes_name_tensor_dtype_and_file(directory, dtype):
    save_file({"w": torch.zeros(2, 2).to(dtype)}, directory / "model.safetensors")
    with pytest.raises(
        ValueError, match=r"model\.safetensors: tensor 'w' has dtype '[FIB]\w+'; octavo reads"
    ):
        SafetensorsDirectory(directory).tensor("w")


def entry(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict[str, object]:
    return {"t": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"\1\0\0", "ends inside its header"),
        (struct.pack("<Q", 2**63) + b"{}", "ends inside its header"),
        (raw_file(b"nonsense"), "not valid JSON"),
        (raw_file(b"\xff\xff"), "not valid JSON"),
        (raw_file(b"[" * 100_000), "nested too deeply"),
        (raw_file([1]), "must hold a JSON object"),
        (raw_file(b'{"t": {}, "t": {}}'), "'t' is there twice"),
        (raw_file({"t": 3}), "no tensor 't'"),
        (raw_file(entry(dtype=["F32"]), b"\0" * 8), "has dtype"),
        (raw_file(entry(dtype="F\n" * 200), b"\0" * 8), "has dtype"),
        (raw_file(entry(shape=[2.0]), b"\0" * 8), "has shape"),
        (raw_file(entry(shape=[-1, -2]), b"\0" * 8), "has shape"),
        (raw_file(entry(shape=[True, 2]), b"\0" * 8), "has shape"),
        (raw_file(entry(shape=[], offsets=[0, 4]), b"\0" * 8), "has shape"),
        (raw_file(entry(shape=[2, 0], offsets=[0, 0])), "has shape"),
        (raw_file(entry(offsets=[8, 0]), b"\0" * 8), "does not take"),
        (raw_file(entry(offsets=[0, 4]), b"\0" * 8), "does not take"),
        (raw_file(entry(offsets=[0]), b"\0" * 8), "has shape"),
        (raw_file(entry(shape=[2**40, 2**40], offsets=[0, 2**82]), b"\0" * 8), "has shape"),
        (raw_file(entry(shape=[2**20, 2**20], offsets=[0, 2**42]), b"\0" * 8), "goes past the end"),
        (raw_file(entry(shape=[2**62] * 9), b"\0" * 8), "has shape"),
        (raw_file(entry(offsets=[8, 16]), b"\0" * 8), "goes past the end"),
    ],
)
def test_broken_files(tmp_path, data, message):
    path = tmp_path / "broken.safetensors"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"broken\.safetensors: ") as caught:
        read_everything(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_truncated_and_mutated_files(tmp_path, tensors):
    path = tmp_path / "sound.safetensors"
    save_file(tensors, path)
    data = path.read_bytes()
    cuts = list(truncations(data, 100))
    assert assert_survives(read_everything, iter(cuts), tmp_path / "cut.safetensors") == len(cuts)
    header_bytes = 8 + struct.unpack_from("<Q", data)[0]
    with np.errstate(all="ignore"):
        broken = mutations(data, header_bytes, 400, seed=5)
        assert assert_survives(read_everything, broken, tmp_path / "mutated.safetensors") > 100


def test_open_checkpoint_knows_the_format(directory, tmp_path):
    assert isinstance(open_checkpoint(directory), SafetensorsDirectory)
    with pytest.raises(ValueError, match=r"no config\.json"):
        open_checkpoint(tmp_path)
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 0))
    assert isinstance(open_checkpoint(tmp_path / "model.gguf"), GGUFFile)
