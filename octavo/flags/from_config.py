"""Command-line flags from the fields of a config dataclass, and the config back from what was parsed."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
import re
import types
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from octavo.config import Flag, flag_name

Config = TypeVar("Config")

_UNITS = {"": 1, "b": 1} | {
    f"{letter}{suffix}": base**power
    for power, letter in enumerate("kmgt", start=1)
    for suffix, base in (("", 1024), ("ib", 1024), ("b", 1000))
}
_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")


def add_flags(parser: argparse.ArgumentParser, config: type[Any], skip: Sequence[str] = ()) -> None:
    """Add a flag for each field of `config` but those of `skip`, by group; none has a default of its own."""
    groups: dict[str, Any] = {}
    types = get_type_hints(config)
    for field in dataclasses.fields(config):
        if field.name in skip:
            continue
        flag = Flag.of(field)
        if flag.group not in groups:
            groups[flag.group] = parser.add_argument_group(flag.group)
        names = [flag_name(field.name), *flag.aliases]
        options = _options(field.name, flag, types[field.name])
        groups[flag.group].add_argument(
            *names, dest=field.name, default=argparse.SUPPRESS, help=_help(field, flag), **options
        )


def config_of(config: type[Config], arguments: argparse.Namespace, **given: Any) -> Config:
    """The config that the parsed arguments ask for; raises ValueError as its constructor does."""
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        if hasattr(arguments, field.name):
            value = getattr(arguments, field.name)
            given.setdefault(field.name, tuple(value) if isinstance(value, list) else value)
    return config(**given)


def expand_flags(arguments: Sequence[str]) -> list[str]:
    """Put flags in the one form that argparse knows.

    As in vLLM, `--max_model_len` is `--max-model-len`, `--enable-x=false` is `--no-enable-x`, and `--x.y z`
    is `--x={"y": "z"}`.
    """
    expanded: list[str] = []
    rest = iter(range(len(arguments)))
    for position in rest:
        argument = arguments[position]
        if argument == "--":
            return [*expanded, *arguments[position:]]
        name, equals, value = argument.partition("=")
        if (
            dotted := re.fullmatch(r"(--[a-z][a-z0-9_-]*|-[A-Za-z]+)\.([A-Za-z][A-Za-z0-9_-]*)", name)
        ) is not None:
            if not equals and position + 1 < len(arguments):
                value = arguments[next(rest)]
            key = dotted[2].replace("-", "_")
            expanded.append(f"{dotted[1].replace('_', '-')}={json.dumps({key: json_value(value)})}")
        elif re.fullmatch(r"--[a-z][a-z0-9_-]*", name):
            name = name.replace("_", "-")
            if re.match("--(enable|disable|trust)-", name) and value.lower() in (*_TRUE, *_FALSE):
                expanded.append(name if value.lower() in _TRUE else f"--no-{name[2:]}")
            else:
                expanded.append(f"{name}{equals}{value}")
        else:
            expanded.append(argument)
    return expanded


def unknown_flag(argument: str, parser: argparse.ArgumentParser) -> str:
    """What to say of an argument that `parser` does not have."""
    name = argument.partition("=")[0]
    known = [option for action in parser._actions for option in action.option_strings]
    near = difflib.get_close_matches(name, known, n=1)
    return f"unknown argument {name}" + (f"; did you mean {near[0]}?" if near else "")


def parse_bytes(text: str) -> int:
    """A size in bytes: a number, or one with a unit as in 4GiB, 512M (both powers of 1024) or 4GB (1000)."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([a-z]*)", text.strip().lower())
    if match is None or match.group(2) not in _UNITS:
        raise argparse.ArgumentTypeError(f"expected a size such as 4GiB, 512MiB or 1000000, got {text!r}")
    return int(float(match.group(1)) * _UNITS[match.group(2)])


def parse_tokens(text: str) -> int:
    """A count of tokens; as in vLLM 32k is 32,000, 32K is 32,768, and 1.5k is 1,500."""
    match = re.fullmatch(r"([0-9]+)([KMGT]?)|([0-9]+(?:\.[0-9]+)?)([kmgt])", text.strip())
    if match is None:
        raise argparse.ArgumentTypeError(f"expected a number such as 32768, 32K or 32.8k, got {text!r}")
    whole, binary, number, decimal = match.groups()
    if whole is not None:
        return int(whole) << 10 * " KMGT".index(binary or " ")
    return round(float(number) * 10.0 ** (3 * " kmgt".index(decimal)))


def parse_list(text: str) -> list[str]:
    """The items of a JSON list of strings, as vLLM writes lists, or the text as the only item."""
    if not text.startswith("["):
        return [text]
    try:
        items = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected a JSON list, got {text!r}") from error
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise argparse.ArgumentTypeError(f"expected a JSON list of strings, got {text!r}")
    return items


def parse_object(text: str) -> dict[str, Any]:
    """A JSON object."""
    try:
        found = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected a JSON object, got {text!r}") from error
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError(f"expected a JSON object, got {text!r}")
    return found


def json_value(text: str) -> Any:
    """A number, true, false, null, a list or an object in JSON's writing; else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


class MergeObjects(argparse.Action):
    """Puts the fields of a flag's uses together."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option: Any = None) -> None:
        """Add the fields."""
        setattr(namespace, self.dest, {**getattr(namespace, self.dest, {}), **values})


class ExtendList(argparse.Action):
    """Collects the items of a flag's values, and of its every use."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option: Any = None) -> None:
        """Add the items."""
        known = getattr(namespace, self.dest, [])
        setattr(namespace, self.dest, known + [item for items in values for item in items])


def _options(name: str, flag: Flag, kind: Any) -> dict[str, Any]:
    """What `add_argument` needs for a field of type `kind`."""
    word = name.rsplit("_", 1)[-1].upper()
    if get_origin(kind) in (Union, types.UnionType):
        kind = next(each for each in get_args(kind) if each is not type(None))
    if kind is bool:
        return {"action": argparse.BooleanOptionalAction}
    if get_origin(kind) is tuple:
        return {"action": ExtendList, "type": parse_list, "nargs": "+", "metavar": word}
    if get_origin(kind) is dict:
        return {"action": MergeObjects, "type": parse_object, "metavar": "JSON"}
    if flag.choices:
        return {"choices": flag.choices}
    if kind is int:
        unit = flag.unit.upper() or "N"
        parse: Callable[[str], int] = {"bytes": parse_bytes, "tokens": parse_tokens}.get(flag.unit, int)
        return {"type": parse, "metavar": unit}
    return {"type": kind, "metavar": "X" if kind is float else word}


def _help(field: dataclasses.Field[Any], flag: Flag) -> str:
    notes = []
    if flag.low is not None and flag.high is not None:
        notes.append(f"{flag.low:g} to {flag.high:g}" if flag.low != flag.high else f"only {flag.low:g}")
    elif flag.low is not None and flag.low > 1:
        notes.append(f"at least {flag.low:g}")
    default = field.default
    if flag.unit == "bytes" and isinstance(default, int):
        default = f"{default >> 20}MiB" if default >= 1 << 20 else f"{default >> 10}KiB"
    if isinstance(default, tuple):
        default = " ".join(default)
    if isinstance(default, bool):
        default = "on" if default else "off"
    if default not in (None, "", dataclasses.MISSING):
        notes.append(f"default: {default}")
    return (flag.help + (f" ({'; '.join(notes)})" if notes else "")).replace("%", "%%")
