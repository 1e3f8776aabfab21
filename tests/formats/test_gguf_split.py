"""GGUF checkpoints in several files, written by gguf-py."""

from __future__ import annotations

import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest
from support.mutations import assert_survives, mutations

from octavo.formats.gguf import GGUFFile

TENSORS = {f"t{i}": np.full((2, 32), i, np.float32) for i in range(5)}


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    """TENSORS in three files, two in each but the last."""
    return write_parts(tmp_path / "model.gguf", TENSORS)


def write_parts(path: Path, tensors: dict[str, np.ndarray], most: int = 2) -> list[Path]:
    writer = gguf.GGUFWriter(path, "llama", split_max_tensors=most)
    writer.add_context_length(77)
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return sorted(path.parent.glob(f"{path.stem}-*.gguf"))


@pytest.mark.parametrize("given", [0, 1, 2])
def test_any_part_opens_all(parts, given):
    file = GGUFFile(parts[given])
    assert file.metadata["llama.context_length"] == 77
    assert list(file.tensors) == list(TENSORS)
    for name, values in TENSORS.items():
        assert np.array_equal(file.tensor(name).to_float32(), values)


def test_a_tensor_that_no_part_has(parts):
    with pytest.raises(ValueError, match=r"model-00002-of-00003\.gguf: there is no tensor 't9'"):
        GGUFFile(parts[1]).tensor("t9")


def test_a_missing_part(parts):
    parts[2].unlink()
    with pytest.raises(ValueError, match=r"model-00003-of-00003\.gguf: cannot read"):
        GGUFFile(parts[0])


def test_a_part_under_another_name(parts):
    moved = parts[0].rename(parts[0].with_name("renamed.gguf"))
    with pytest.raises(ValueError, match=r"renamed\.gguf: is a part of a split model, of 3 parts, but"):
        GGUFFile(moved)


def test_a_name_of_another_count(parts):
    moved = parts[0].rename(parts[0].with_name("model-00001-of-00004.gguf"))
    with pytest.raises(ValueError, match="is a part of a split model, of 3 parts, but"):
        GGUFFile(moved)


def test_parts_in_the_wrong_places(parts):
    shutil.copy(parts[1], parts[2])
    with pytest.raises(
        ValueError, match=r"00003-of-00003\.gguf: split\.no and split\.count are \(1, 3\), not 2 and 3"
    ):
        GGUFFile(parts[0])


def test_a_whole_model_in_the_place_of_a_part(parts, tmp_path):
    write_parts(tmp_path / "whole.gguf", TENSORS, most=0)
    shutil.copy(tmp_path / "whole.gguf", parts[1])
    with pytest.raises(
        ValueError, match=r"00002-of-00003\.gguf: split\.no and split\.count are \(None, None\)"
    ):
        GGUFFile(parts[0])


def test_parts_with_the_same_tensor(parts, tmp_path):
    other = write_parts(tmp_path / "other.gguf", {f"t{i}": TENSORS["t0"] for i in (7, 8, 0, 9, 6)})
    shutil.copy(other[1], parts[1])
    with pytest.raises(
        ValueError, match=r"00002-of-00003\.gguf: tensor 't0' is in model-00001-of-00003\.gguf"
    ):
        GGUFFile(parts[0])


def test_fewer_tensors_than_stated(parts, tmp_path):
    longer = write_parts(tmp_path / "longer.gguf", TENSORS | {"t5": TENSORS["t0"]})
    shutil.copy(longer[0], parts[0])
    with pytest.raises(ValueError, match=r"00001-of-00003\.gguf: the parts have 5 tensors, not 6 as stated"):
        GGUFFile(parts[0])


def test_mutated_parts(parts):
    def read(path: Path) -> None:
        file = GGUFFile(path)
        for name in file.tensors:
            file.tensor(name).to_float32()

    for part in (parts[0], parts[1]):
        data = part.read_bytes()
        with np.errstate(all="ignore"):
            header = gguf.GGUFReader(part).data_offset
            failures = assert_survives(read, mutations(data, header, 300, seed=2), part, folder=True)
        assert failures > 100
        part.write_bytes(data)
