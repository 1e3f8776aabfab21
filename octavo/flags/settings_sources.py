"""Flags that the command line leaves out: from the environment's OCTAVO_*, then from the file of --config."""

from __future__ import annotations

import argparse
import difflib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from octavo.flags.from_config import ExtendList

PREFIX = "OCTAVO_"
ONLY_ON_THE_COMMAND_LINE = ("middleware",)
"""What names code to run: who may set the environment or write the file need not be who starts the server."""
_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")


def add_config_flag(parser: argparse.ArgumentParser) -> None:
    """Add `--config`."""
    parser.add_argument(
        "--config",
        metavar="FILE",
        default=argparse.SUPPRESS,
        help="A YAML file of flags, as in `max-model-len: 4096`. The command line comes first, then the "
        "environment (OCTAVO_MAX_MODEL_LEN=4096), then the file.",
    )


def fill_in(
    arguments: argparse.Namespace, parser: argparse.ArgumentParser, environment: Mapping[str, str]
) -> None:
    """Add to what was parsed what the environment and the file say.

    `parser` has the flags, all without defaults of their own. Raises ValueError that names the variable or
    the key which is unknown (only in the file) or has a value that its flag does not take.
    """
    flags = _flags(parser)
    given = set(vars(arguments))
    if getattr(arguments, "positional_model", None) is not None:
        given.add("model")
    for dest, value in _from_environment(flags, environment).items():
        if dest not in given:
            setattr(arguments, dest, value)
            given.add(dest)
    if (file := getattr(arguments, "config", None)) is not None:
        for dest, value in _from_file(flags, Path(file)).items():
            if dest not in given:
                setattr(arguments, dest, value)


def _flags(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """Flags by their names with underscores."""
    return {
        option.removeprefix("--").replace("-", "_"): action
        for action in parser._actions
        for option in action.option_strings
        if option.startswith("--") and action.dest != "help" and not _is_negation(option, action)
    }


def _is_negation(option: str, action: argparse.Action) -> bool:
    return isinstance(action, argparse.BooleanOptionalAction) and option.startswith("--no-")


def _from_environment(flags: Mapping[str, argparse.Action], environment: Mapping[str, str]) -> dict[str, Any]:
    values = {}
    for name, action in flags.items():
        text = environment.get(PREFIX + name.upper(), "")
        # OCTAVO_API_KEY is one key more, and OCTAVO_PORT what Kubernetes tells of a service named octavo.
        if not text or name == "api_key" or (name == "port" and text.startswith("tcp://")):
            continue
        if name in ONLY_ON_THE_COMMAND_LINE:
            raise ValueError(f"{PREFIX}{name.upper()}: --{name} is only for the command line")
        values[action.dest] = _value(f"{PREFIX}{name.upper()}", action, text)
    return values


def _from_file(flags: Mapping[str, argparse.Action], file: Path) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"config (--config): cannot read {file}: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"config (--config): {file} must hold flags, as in `port: 8000`")
    values = {}
    for key, value in content.items():
        name = str(key).replace("-", "_")
        if name not in flags or name == "config":
            near = difflib.get_close_matches(name, flags, n=1)
            hint = f"; did you mean {near[0].replace('_', '-')}?" if near else ""
            raise ValueError(f"config (--config): {file}: unknown key {key}{hint}")
        if name in ONLY_ON_THE_COMMAND_LINE:
            raise ValueError(f"config (--config): {file}: {key} is only for the command line")
        if value is not None:
            values[flags[name].dest] = _value(f"config (--config): {file}: {key}", flags[name], value)
    return values


def _value(source: str, action: argparse.Action, value: Any) -> Any:
    """What `action` makes of a value, text in the environment and what YAML knows in a file."""
    try:
        if isinstance(action, argparse.BooleanOptionalAction):
            return _boolean(value)
        parse = action.type if callable(action.type) else str
        if isinstance(action, ExtendList):
            return [item for part in _items(value) for item in parse(_text(part))]
        found = parse(_text(value))
    except (argparse.ArgumentTypeError, ValueError, TypeError) as error:
        raise ValueError(f"{source}: {error}") from error
    if action.choices is not None and found not in action.choices:
        raise ValueError(f"{source} must be one of {', '.join(map(str, action.choices))}; got {found!r}")
    return found


def _items(value: Any) -> Iterable[Any]:
    return value if isinstance(value, list) else [value]


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return json.dumps(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        raise ValueError("a list is not expected here")
    return str(value)


def _boolean(value: Any) -> bool:
    text = str(value).lower()
    if text not in (*_TRUE, *_FALSE):
        raise ValueError(f"expected true or false, got {value!r}")
    return text in _TRUE
