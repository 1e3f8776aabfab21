"""The GGUF reader against gguf-py, and against files that are not what they say."""

from __future__ import annotations

import struct
import time
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from support.k_quant_writer import quantise
from support.mutations import assert_survives, mutations, truncations

from octavo.formats.gguf import GGUFFile
from octavo.formats.tensor import Encoding

FLOATS = [Type.F32, Type.F16, Type.BF16]
QUANTISED = [
    Type[name]
    for name, each in Encoding.__members__.items()
    if each.group_size > 1 and name in Type.__members__ and name != "Q8_K"
]
SUPPORTED = FLOATS + QUANTISED


@pytest.fixture
def small_file(tmp_path: Path) -> Path:
    """A file with every supported tensor type and metadata of many kinds."""
    path = tmp_path / "small.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint32("llama.block_count", 3)
    writer.add_float32("a.float", 0.5)
    writer.add_float64("a.double", 1 / 3)
    writer.add_int8("an.int8", -7)
    writer.add_uint64("a.uint64", 2**63)
    writer.add_bool("a.bool", True)
    writer.add_string("a.text", "naïve 😀")
    writer.add_array("some.tokens", ["<s>", "", "Ġthe", "日本"] + [f"token{i}" for i in range(40)])
    writer.add_array("some.numbers", [1, -2, 3])
    writer.add_array("some.scores", [0.5, -0.25])
    writer.add_array("some.flags", [True, False, True])
    rng = np.random.default_rng(0)
    for kind in SUPPORTED:
        values = rng.normal(size=(3, 256)).astype(np.float32)
        writer.add_tensor(f"{kind.name}.weight", quantise(values, kind), raw_dtype=kind)
    writer.add_tensor("vector", np.arange(5, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def read_everything(path: Path) -> None:
    file = GGUFFile(path)
    for name in file.tensors:
        file.tensor(name).to_float32()


def header_bytes(path: Path) -> int:
    return gguf.GGUFReader(path).data_offset


def build(*pairs: bytes, tensors: tuple[bytes, ...] = (), version: int = 3, data: bytes = b"") -> bytes:
    """A file from raw metadata pairs and tensor infos."""
    header = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(pairs)) + b"".join(pairs + tensors)
    return header + b"\0" * (-len(header) % 32) + data


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def tensor_info(name: str, dims: tuple[int, ...], kind: int, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


def error_of(tmp_path: Path, data: bytes) -> str:
    path = tmp_path / "broken.gguf"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"broken\.gguf: ") as caught:
        read_everything(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_metadata_of_every_kind(small_file):
    metadata = GGUFFile(small_file).metadata
    assert metadata["general.architecture"] == "llama"
    assert metadata["llama.block_count"] == 3
    assert metadata["a.float"] == 0.5
    assert metadata["a.double"] == 1 / 3
    assert metadata["an.int8"] == -7
    assert metadata["a.uint64"] == 2**63
    assert metadata["a.bool"] is True
    assert metadata["a.text"] == "naïve 😀"
    assert metadata["some.tokens"][:4] == ["<s>", "", "Ġthe", "日本"]
    assert metadata["some.tokens"][-1] == "token39"
    assert metadata["some.numbers"].tolist() == [1, -2, 3]
    assert metadata["some.scores"].tolist() == [0.5, -0.25]
    assert metadata["some.flags"].tolist() == [True, False, True]


@pytest.mark.parametrize("kind", SUPPORTED, ids=lambda kind: kind.name)
def test_tensors_bit_for_bit(small_file, kind):
    ours = GGUFFile(small_file).tensor(f"{kind.name}.weight")
    theirs = next(t for t in gguf.GGUFReader(small_file).tensors if t.name == f"{kind.name}.weight")
    assert ours.encoding is Encoding[kind.name]
    assert ours.shape == (3, 256)  # gguf-py and the file have it the other way round
    expected = gguf.dequantize(theirs.data, kind)
    assert np.array_equal(ours.to_float32().view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize("kind", QUANTISED, ids=lambda kind: kind.name)
def test_any_bits_decode_as_in_gguf_py(tmp_path, kind):
    """Not only what a quantiser writes: scales that are infinite, subnormal or not a number too."""
    group_size, group_bytes = gguf.GGML_QUANT_SIZES[kind]
    data = np.random.default_rng(1).integers(0, 256, (64, 512 // group_size * group_bytes), dtype=np.uint8)
    path = tmp_path / "random.gguf"
    path.write_bytes(build(tensors=(tensor_info("w", (512, 64), kind),), data=data.tobytes()))
    with np.errstate(all="ignore"):
        ours, theirs = GGUFFile(path).tensor("w").to_float32(), gguf.dequantize(data, kind)
    assert np.array_equal(ours, theirs, equal_nan=True)
    finite = np.isfinite(theirs)
    assert np.array_equal(ours[finite].view(np.uint32), theirs[finite].view(np.uint32))


def test_q8_k(tmp_path):
    """Not in gguf-py: a float32, 256 int8, and 16 sums of 16 of them."""
    rng = np.random.default_rng(2)
    scales = rng.normal(size=(6, 1)).astype(np.float32)
    codes = rng.integers(-128, 128, (6, 256)).astype(np.int8)
    sums = codes.reshape(6, 16, 16).sum(axis=2, dtype=np.int16)
    data = np.concatenate([each.view(np.uint8) for each in (scales, codes, sums)], axis=1)
    path = tmp_path / "q8_k.gguf"
    path.write_bytes(build(tensors=(tensor_info("w", (512, 3), Type.Q8_K),), data=data.tobytes()))
    assert np.array_equal(GGUFFile(path).tensor("w").to_float32(), (scales * codes).reshape(3, 512))


def test_tensor_is_a_view_of_the_file(small_file):
    file = GGUFFile(small_file)
    assert not file.tensor("F32.weight").data.flags.owndata
    assert not file.tensor("F32.weight").data.flags.writeable


def test_version_2_is_read(small_file):
    data = bytearray(small_file.read_bytes())
    data[4:8] = struct.pack("<I", 2)
    small_file.write_bytes(data)
    read_everything(small_file)


def test_empty_arrays(tmp_path):
    path = tmp_path / "empty.gguf"
    pairs = [text(f"key{kind}") + struct.pack("<IIQ", 9, kind, 0) for kind in (4, 7, 8)]
    path.write_bytes(build(*pairs))
    assert [len(value) for value in GGUFFile(path).metadata.values()] == [0, 0, 0]


def test_unsupported_type_names_tensor_type_and_file(tmp_path):
    data = build(tensors=(tensor_info("blk.0.ffn_up.weight", (256, 2), 29),), data=b"\0" * 420)
    message = error_of(tmp_path, data)
    assert "blk.0.ffn_up.weight" in message
    assert "IQ1_M" in message
    assert "Q4_0" in message  # what it does read


def test_unknown_tensor_is_an_error(small_file):
    with pytest.raises(ValueError, match=r"small\.gguf: there is no tensor 'nothing'"):
        GGUFFile(small_file).tensor("nothing")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"GGML" + b"\0" * 60, "not a GGUF file"),
        (build(version=1), "version 1;"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**40, 0), "tensors; at most"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**63), "metadata pairs; at most"),
        (build(*[text("k") + struct.pack("<II", 4, 1)] * 2), "'k' is there twice"),
        (build(text("k") + struct.pack("<I", 13)), "unknown type 13"),
        (build(text("k") + struct.pack("<IIQ", 9, 9, 1)), "array of unsupported type 9"),
        (build(text("k") + struct.pack("<IIQ", 9, 4, 2**61)), "more than the file holds"),
        (build(text("k") + struct.pack("<IIQ", 9, 8, 2**61)), "ends inside its header"),
        (build(text("k") + struct.pack("<IQ", 8, 2**62)), "past the end"),
        (build(struct.pack("<Q", 2) + b"\xff\xfe" + struct.pack("<II", 4, 1)), "not UTF-8"),
        (build(text("general.alignment") + struct.pack("<II", 4, 3)), "power of two"),
        (build(text("split.count") + struct.pack("<IH", 2, 3)), "split model"),
        (build(tensors=(tensor_info("t", (4,), 0),) * 2, data=b"\0" * 16), "'t' is there twice"),
        (build(tensors=(tensor_info("t", (), 0),)), "0 dimensions"),
        (build(tensors=(tensor_info("t", (1,) * 5, 0),)), "5 dimensions"),
        (build(tensors=(tensor_info("t", (4, 0), 0),)), "is empty"),
        (build(tensors=(tensor_info("t", (33,), 8),), data=b"\0" * 99), "groups"),
        (build(tensors=(tensor_info("t", (128,), 12),), data=b"\0" * 99), "not whole Q4_K groups"),
        (build(tensors=(tensor_info("t", (256, 2), 14),), data=b"\0" * 419), "ends at byte"),
        (build(tensors=(tensor_info("t", (4,), 0, 8),), data=b"\0" * 99), "not a multiple of 32"),
        (build(tensors=(tensor_info("t", (4,), 0),), data=b"\0" * 15), "ends at byte"),
        (build(tensors=(tensor_info("t", (2**32, 2**32), 0),), data=b"\0" * 16), "ends at byte"),
        (build(tensors=(tensor_info("t", (4,), 0, 2**63),), data=b"\0" * 16), "ends at byte"),
        (build(tensors=(tensor_info("t", (4,), 77),), data=b"\0" * 16), "type number 77"),
    ],
)  # fmt: skip
def test_broken_files(tmp_path, data, message):
    assert message in error_of(tmp_path, data)


@pytest.mark.parametrize("path", ["missing.gguf", "."])
def test_files_that_cannot_be_opened(path):
    with pytest.raises(ValueError, match="cannot read"):
        GGUFFile(Path(path))


def test_truncated_files(small_file, tmp_path):
    variants = list(truncations(small_file.read_bytes(), 200))
    assert assert_survives(read_everything, iter(variants), tmp_path / "cut.gguf") == len(variants)


def test_mutated_files(small_file, tmp_path):
    data = small_file.read_bytes()
    variants = mutations(data, header_bytes(small_file), 800, seed=3)
    with np.errstate(all="ignore"):
        assert assert_survives(read_everything, variants, tmp_path / "mutated.gguf") > 250


def test_the_demo_opens_quickly(demo_model):
    """Some 25 ms for 100,000 tokens and merges; the bound leaves room for a busy machine."""
    seconds = []
    for _ in range(3):
        began = time.process_time()
        file = GGUFFile(demo_model)
        seconds.append(time.process_time() - began)
    assert min(seconds) < 0.1
    assert len(file.metadata["tokenizer.ggml.tokens"]) == 49152
    assert file.metadata["tokenizer.ggml.merges"][0] == "Ġ t"
    assert file.tensor("token_embd.weight").shape == (49152, 576)
