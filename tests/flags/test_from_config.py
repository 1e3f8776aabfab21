"""Flags from the config dataclasses, and back."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo.config import EngineConfig, Flag, flag_name
from octavo.flags.from_config import add_flags, config_of, expand_flags, parse_bytes, parse_list, parse_object
from octavo.flags.model_argument import add_engine_flags, engine_config
from octavo.flags.sampling_flags import SamplingFlags
from octavo.flags.vllm_arguments import ONLY_AT, WITHOUT_EFFECT
from octavo.flags.vllm_flags import without_effect
from octavo.server.config import ServerConfig

CONFIGS = (EngineConfig, ServerConfig, SamplingFlags)


def parse(config: type[Any], *arguments: str) -> Any:
    parser = argparse.ArgumentParser(exit_on_error=False, allow_abbrev=False)
    add_flags(parser, config)
    return config_of(config, parser.parse_args(expand_flags(arguments)))


def engine(*arguments: str) -> EngineConfig:
    parser = argparse.ArgumentParser(exit_on_error=False, allow_abbrev=False)
    add_engine_flags(parser)
    return engine_config(parser.parse_args(expand_flags(arguments)))


@pytest.mark.parametrize("config", CONFIGS)
def test_without_flags_there_are_only_defaults(config: type[Any]) -> None:
    assert parse(config) == config()


@pytest.mark.parametrize(
    ("config", "field"), [(config, field) for config in CONFIGS for field in dataclasses.fields(config)]
)
def test_every_field_has_a_flag_with_help(config: type[Any], field: dataclasses.Field[Any]) -> None:
    parser = argparse.ArgumentParser()
    add_flags(parser, config)
    text = parser.format_help()
    for name in (flag_name(field.name), *Flag.of(field).aliases):
        assert name in text
    assert " ".join(Flag.of(field).help.split()[:2]) in " ".join(text.split())


def test_values_have_the_types_of_their_fields() -> None:
    config = parse(
        EngineConfig, "--max-model-len", "99", "--gpu-memory-utilization", "0.5", "--model", "m", "--seed=3"
    )
    assert (config.max_model_len, config.gpu_memory_utilization, config.model, config.seed) == (
        99,
        0.5,
        "m",
        3,
    )
    assert parse(EngineConfig, "--kv-cache-memory", "4GiB").kv_cache_memory_bytes == 4 << 30


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--enable-prefix-caching"], True),
        (["--no-enable-prefix-caching"], False),
        (["--enable-prefix-caching=false"], False),
        (["--enable-prefix-caching=True"], True),
        (["--enable_prefix_caching=0"], False),
        (["--no_enable_prefix_caching"], False),
    ],
)
def test_booleans_in_every_form_of_vllm(arguments: list[str], expected: bool) -> None:
    assert parse(EngineConfig, *arguments).enable_prefix_caching is expected


def test_lists_in_every_form_of_vllm() -> None:
    for arguments in (
        ["--served-model-name", "a", "b"],
        ["--served-model-name", "a", "--served-model-name", "b"],
        ["--served-model-name", '["a", "b"]'],
    ):
        assert parse(ServerConfig, *arguments).served_model_name == ("a", "b")
    assert parse(ServerConfig, "--allowed-origins", '["https://a.example"]').allowed_origins == (
        "https://a.example",
    )


def test_the_model_by_position_or_by_flag() -> None:
    assert engine().model == ""
    assert engine("path/to.gguf").model == "path/to.gguf"
    assert engine("--model", "path/to.gguf").model == "path/to.gguf"
    assert engine("--enable-chunked-prefill", "path", "--seed", "1").model == "path"
    assert engine("same", "--model", "same").model == "same"
    with pytest.raises(ValueError, match="both given"):
        engine("one", "--model", "two")


IN_VAIN = {
    "--attention-backend": ["--attention-backend", "FLASHINFER"],
    "--compilation-config": ["-cc.level=3"],
    "--cuda-graph-sizes": ["--cuda-graph-sizes", "1", "2", "4"],
    "--download-dir": ["--download_dir", "/x"],
    "--enforce-eager": ["--enforce-eager"],
    "--hf-token": ["--hf-token", "abc"],
    "--limit-mm-per-prompt": ["--limit-mm-per-prompt.image", "0"],
    "--optimization-level": ["-O3"],
    "--swap-space": ["--swap-space=4"],
    "--trust-remote-code": ["--trust-remote-code"],
}


def test_flags_of_vllm_that_change_nothing_here_are_accepted_and_named() -> None:
    in_vain = [argument for arguments in IN_VAIN.values() for argument in arguments]
    arguments = ["-tp", "1", *in_vain, "--model", "m.gguf", "--no-enable-lora", "-q", "awq"]
    parser = argparse.ArgumentParser(exit_on_error=False, allow_abbrev=False)
    add_engine_flags(parser)
    parsed = parser.parse_args(expand_flags(arguments))
    assert engine_config(parsed) == EngineConfig(model="m.gguf", quantization="awq")
    assert without_effect(parsed) == list(IN_VAIN)


@pytest.mark.parametrize("name", [*ONLY_AT, *WITHOUT_EFFECT])
def test_what_is_vllm_s_alone_is_no_flag_of_octavo_s(name: str) -> None:
    assert not any(name in {field.name for field in dataclasses.fields(config)} for config in CONFIGS[:2])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["-tp", "4"],
            r"^--tensor-parallel-size 4 does not work here: the model runs in one process; leave it out, or "
            r"at --tensor-parallel-size 1$",
        ),
        (["--cpu-offload-gb", "4"], "--cpu-offload-gb 4 does not work here"),
        (["--enable-lora"], "^--enable-lora does not .* leave it out, or at --no-enable-lora"),
        (
            ["--speculative-config", '{"model": "x"}'],
            r'^--speculative-config {"model": "x"} does .* leave it out$',
        ),
        (["--load-format", "dummy"], "or at --load-format auto or --load-format safetensors or"),
        (["--lora-modules", "a=b", "c=d"], "LoRA adapters are not supported yet"),
    ],
)
def test_flags_of_vllm_that_ask_for_more_say_why_not(arguments: list[str], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        engine(*arguments)


@pytest.mark.parametrize(
    ("given", "dtype"),
    [
        ("half", "auto"),
        ("float16", "auto"),
        ("bfloat16", "auto"),
        ("float", "float32"),
        ("float32", "float32"),
    ],
)
def test_types_of_vllm(given: str, dtype: str) -> None:
    assert engine("--dtype", given).dtype == dtype


@pytest.mark.parametrize(
    ("text", "expected"),
    [("4096", 4096), ("32K", 32768), ("32k", 32000), ("1.5k", 1500), ("1M", 1 << 20), ("1m", 10**6)],
)
def test_counts_of_tokens(text: str, expected: int) -> None:
    assert engine("--max-model-len", text).max_model_len == expected


@pytest.mark.parametrize("text", ["", "-1", "auto", "1.5K", "1.5", "4Ki", "1e3"])
def test_what_is_no_count_of_tokens(text: str) -> None:
    with pytest.raises(argparse.ArgumentError, match="expected a number such as 32768"):
        engine(f"--max-model-len={text}")


def test_bounds_are_the_config_s() -> None:
    with pytest.raises(ValueError, match=r"max_num_seqs \(--max-num-seqs\) must be at least 1"):
        parse(EngineConfig, "--max-num-seqs", "0")
    with pytest.raises(ValueError, match=r"block_size \(--block-size\) must be 16, got 32"):
        parse(EngineConfig, "--block-size", "32")
    with pytest.raises(argparse.ArgumentError, match="float32"):
        parse(EngineConfig, "--dtype", "int3")
    with pytest.raises(ValueError, match="go together"):
        parse(ServerConfig, "--ssl-keyfile", "x")
    with pytest.raises(ValueError, match="api_key"):
        parse(ServerConfig, "--api-key", "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1024", 1024),
        ("512MiB", 512 << 20),
        ("4GiB", 4 << 30),
        ("4g", 4 << 30),
        ("1.5 KiB", 1536),
        ("2GB", 2_000_000_000),
        ("1TB", 10**12),
        ("7b", 7),
    ],
)
def test_sizes(text: str, expected: int) -> None:
    assert parse_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "GiB", "4 GiBs", "-1", "1e9", "4GiB4", "nan", "١"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        parse_bytes(text)


@given(st.integers(0, 1 << 62), st.sampled_from(["", "B", "KiB", "MiB", "GiB"]))
def test_whole_sizes_are_exact_below_2_to_the_53(count: int, unit: str) -> None:
    scale = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}[unit]
    if count * scale < 1 << 53:
        assert parse_bytes(f"{count}{unit}") == count * scale


@pytest.mark.parametrize("text", ["[", "[1]", '{"a": 1}]', '[["a"]]'])
def test_what_is_no_list(text: str) -> None:
    if text.startswith("["):
        with pytest.raises(argparse.ArgumentTypeError):
            parse_list(text)
    else:
        assert parse_list(text) == [text]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), max_size=5))
def test_expanding_twice_changes_nothing_more(arguments: list[str]) -> None:
    once = expand_flags(arguments)
    assert len(once) == len(arguments)
    assert expand_flags(once) == once


def test_only_flags_are_expanded() -> None:
    kept = ["a_b", "-x_y", "--prompt=a_b=c_d", "--", "--max_model_len"]
    assert expand_flags(kept) == kept
    assert expand_flags(["--chat_template=x_y"]) == ["--chat-template=x_y"]


def test_an_object_is_written_as_json() -> None:
    config = parse(EngineConfig, "--override-generation-config", '{"temperature": 0.5}')
    assert config.override_generation_config == {"temperature": 0.5}


def test_an_object_is_written_a_field_at_a_time() -> None:
    flag = "--structured-outputs-config"
    config = parse(
        EngineConfig, *expand_flags([f"{flag}.backend", "guidance", f"{flag}.disable-any-whitespace=true"])
    )
    assert config.structured_outputs_config == {"backend": "guidance", "disable_any_whitespace": True}
    config = parse(
        EngineConfig, *expand_flags([flag, '{"backend": "auto"}', f"{flag}.disable_fallback", "false"])
    )
    assert config.structured_outputs_config == {"backend": "auto", "disable_fallback": False}
    for value in ("xgrammar", "outlines", "lm-format-enforcer"):
        with pytest.raises(
            ValueError, match=r"--structured-outputs-config.*backend must be auto or guidance"
        ):
            parse(EngineConfig, *expand_flags([f"{flag}.backend", value]))
    with pytest.raises(ValueError, match=r"--structured-outputs-config.*unknown field"):
        parse(EngineConfig, *expand_flags([f"{flag}.grammar", "x"]))
    for text in ("{", "[]", "1", "temperature=1"):
        with pytest.raises(argparse.ArgumentTypeError, match="expected a JSON object, got"):
            parse_object(text)
