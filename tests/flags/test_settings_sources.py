"""Flags from the environment and from a YAML file, and which of them comes first."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from octavo.cli import serve
from octavo.config import EngineConfig, Flag, flag_name
from octavo.flags.from_config import config_of, expand_flags
from octavo.flags.model_argument import engine_config
from octavo.flags.settings_sources import fill_in
from octavo.server.config import ServerConfig

FIELDS = [
    pytest.param(config, field, id=field.name)
    for config in (EngineConfig, ServerConfig)
    for field in dataclasses.fields(config)
]
OTHERS: dict[str, Any] = {
    "quantization": "awq",
    "block_size": 16,
    "override_generation_config": {"temperature": 0.5},
    "structured_outputs_config": {"backend": "guidance"},
    "gpu_memory_utilization": 0.5,
    "threads": 3,
    "max_model_len": 77,
    "target_ttft": 9.0,
    "target_itl": 9.0,
    "max_waiting": 5,
    "max_log_len": 5,
    "request_timeout": 2.5,
    "api_server_count": 1,
    "ssl_cert_reqs": 0,
    "max_logprobs": 7,
    "kv_cache_metrics_sample": 0.5,
}


def parse(
    arguments: list[str], environment: dict[str, str] | None = None
) -> tuple[EngineConfig, ServerConfig]:
    parser = argparse.ArgumentParser(exit_on_error=False, allow_abbrev=False)
    serve.add_arguments(parser)
    parsed = parser.parse_args(expand_flags(arguments))
    fill_in(parsed, parser, environment or {})
    return engine_config(parsed), config_of(ServerConfig, parsed)


def other_value(field: dataclasses.Field[Any]) -> Any:
    """A value that is not the field's default, where there is one."""
    flag, default = Flag.of(field), field.default
    if field.name in OTHERS:
        return OTHERS[field.name]
    if flag.choices:
        return next(choice for choice in flag.choices if choice != default)
    if isinstance(default, bool) or str(field.type) == "bool | None":
        return not default
    if isinstance(default, int | float):
        return default + 1
    if isinstance(default, tuple):
        return ("one", "two")
    return "some text" if "int" not in str(field.type) else 4096


def written(value: Any) -> str:
    """As an environment variable has it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple | dict):
        return json.dumps(value)
    return str(value)


def extras(name: str) -> dict[str, Any]:
    """What a setting can not be without."""
    return {
        "ssl_keyfile": {"ssl-certfile": "c"},
        "ssl_certfile": {"ssl-keyfile": "k"},
        "ssl_ca_certs": {"ssl-keyfile": "k", "ssl-certfile": "c"},
        "enable_auto_tool_choice": {"tool-call-parser": "hermes"},
        "allow_credentials": {"allowed-origins": ["http://a"]},
    }.get(name, {})


@pytest.mark.parametrize(("config", "field"), FIELDS)
def test_every_flag_has_a_variable_and_a_key(
    config: type[Any], field: dataclasses.Field[Any], tmp_path: Path
) -> None:
    if field.name in ("middleware", "api_key"):
        return
    value = other_value(field)
    variable = "OCTAVO_" + field.name.upper()
    more = [
        part
        for name, each in extras(field.name).items()
        for part in (f"--{name}", *([each] if isinstance(each, str) else each))
    ]
    index = 0 if config is EngineConfig else 1
    assert getattr(parse(more, {variable: written(value)})[index], field.name) == value
    file = tmp_path / "config.yaml"
    key = flag_name(field.name).removeprefix("--")
    file.write_text(yaml.safe_dump({key: list(value) if isinstance(value, tuple) else value}))
    assert getattr(parse([*more, "--config", str(file)])[index], field.name) == value


def test_the_command_line_comes_first_then_the_environment_then_the_file(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("port: 1\nmax_num_seqs: 2\nmax-num-batched-tokens: 3\nserved-model-name: [a, b]\n")
    environment = {"OCTAVO_PORT": "11", "OCTAVO_MAX_NUM_SEQS": "12", "OCTAVO_CONFIG": str(file)}
    engine, server = parse(["--port", "21", "--served-model-name", "c"], environment)
    assert (server.port, engine.max_num_seqs, engine.max_num_batched_tokens) == (21, 12, 3)
    assert server.served_model_name == ("c",)


def test_the_model_may_come_from_anywhere(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("model: from-file\nenable-prefix-caching: false\n")
    assert parse(["--config", str(file)])[0].model == "from-file"
    assert parse(["given", "--config", str(file)])[0].model == "given"
    assert parse(["--model", "given", "--config", str(file)])[0].model == "given"
    assert not parse(["--config", str(file)])[0].enable_prefix_caching
    assert parse(["--config", str(file), "--enable-prefix-caching"])[0].enable_prefix_caching


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("prot: 8000", "unknown key prot; did you mean port"),
        ("port: many", "port: invalid literal"),
        ("port: [1, 2]", "port: a list is not expected"),
        ("dtype: float99", "dtype must be one of auto, float32"),
        ("enable-prefix-caching: perhaps", "expected true or false"),
        ("middleware: a.b", "middleware is only for the command line"),
        ("config: other.yaml", "unknown key config"),
        ("- port", "must hold flags"),
        ("port: [", "cannot read"),
        ("!!python/object/apply:os.system ['true']", "cannot read"),
        ("tensor-parallel-size: 2", "--tensor-parallel-size 2 does not work"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=says):
        parse(["--config", str(file)])


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="cannot read /no/such/file"):
        parse(["--config", "/no/such/file"])


def test_what_is_wrong_in_the_environment_is_named() -> None:
    with pytest.raises(ValueError, match=r"^OCTAVO_PORT: invalid literal"):
        parse([], {"OCTAVO_PORT": "many"})
    with pytest.raises(ValueError, match=r"^OCTAVO_MIDDLEWARE: .* only for the command line"):
        parse([], {"OCTAVO_MIDDLEWARE": "a.b"})


def test_what_kubernetes_says_of_a_service_named_octavo_is_not_a_port() -> None:
    assert (
        parse([], {"OCTAVO_PORT": "tcp://10.0.0.1:8000", "OCTAVO_SERVICE_HOST": "10.0.0.1"})[1].port == 8000
    )


def test_an_empty_variable_is_not_set() -> None:
    assert parse([], {"OCTAVO_PORT": ""})[1].port == 8000
