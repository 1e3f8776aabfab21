"""Sampling defaults: from the model, from another directory, from the command line, or from nowhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import gguf
import pytest

from octavo.config import EngineConfig
from octavo.formats.gguf import GGUFFile
from octavo.model.generation_config import model_sampling, sampling_defaults
from octavo.model.load import read_model_info

OWN = {"temperature": 0.6, "top_p": 0.9}


def defaults(of_model: dict[str, Any] = OWN, **settings: Any) -> dict[str, Any]:
    return sampling_defaults(of_model, EngineConfig(**settings))


def write(directory: Path, **fields: Any) -> None:
    (directory / "generation_config.json").write_text(json.dumps(fields))


def test_the_model_s_own_are_taken_unless_told_otherwise(tmp_path: Path) -> None:
    assert defaults() == OWN
    assert defaults(generation_config="vllm") == {}
    write(tmp_path, top_k=20, do_sample=True, eos_token_id=2, min_p=None, max_new_tokens=99)
    assert defaults(generation_config=str(tmp_path)) == {"top_k": 20, "max_tokens": 99}


def test_single_ones_are_replaced() -> None:
    override = {"temperature": 0.0, "max_new_tokens": 10}
    assert defaults(override_generation_config=override) == {
        "temperature": 0.0,
        "top_p": 0.9,
        "max_tokens": 10,
    }
    assert defaults(generation_config="vllm", override_generation_config={"top_k": 3}) == {"top_k": 3}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"temperature": -1}, r"\(--override-generation-config\): temperature must be between"),
        ({"temperature": "hot"}, r"\(--override-generation-config\): temperature must be a number"),
        ({"eos_token_id": 3}, "takes temperature, top_p, .* got 'eos_token_id'"),
        ({"max_new_tokens": 0}, "max_tokens must be at least 1"),
    ],
)
def test_overrides_that_can_not_be(override: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        defaults(override_generation_config=override)


def test_a_file_that_can_not_be_is_named_and_the_way_out_told(tmp_path: Path) -> None:
    write(tmp_path, top_p=7)
    with pytest.raises(ValueError, match=r"generation_config\.json: top_p .* --generation-config vllm"):
        defaults(generation_config=str(tmp_path))
    with pytest.raises(ValueError, match="cannot read"):
        defaults(generation_config=str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"model \(--model\) m: top_p"):
        defaults({"top_p": 7}, model="m")


def test_a_hugging_face_directory_says_it_in_its_file(tiny_model: Any, tmp_path: Path) -> None:
    directory = tmp_path / "model"
    shutil.copytree(tiny_model("llama").path, directory)
    (directory / "generation_config.json").unlink(missing_ok=True)
    assert read_model_info(directory).sampling == {}
    write(directory, temperature=0.7, repetition_penalty=1.1)
    assert read_model_info(directory).sampling == {"temperature": 0.7, "repetition_penalty": 1.1}


def test_a_gguf_file_says_it_in_its_metadata(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_float32("general.sampling.temp", 0.5)
    writer.add_int32("general.sampling.top_k", 30)
    writer.add_string("general.sampling.sequence", "top_k;temperature")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert model_sampling(GGUFFile(path)) == {"temperature": 0.5, "top_k": 30}
    assert sampling_defaults(model_sampling(GGUFFile(path)), EngineConfig()) == {
        "temperature": 0.5,
        "top_k": 30,
    }
