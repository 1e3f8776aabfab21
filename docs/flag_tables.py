"""The tables of flags, made from the config dataclasses. `write_tables.py` puts them into the pages."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from octavo.bench.load.config import LoadConfig
from octavo.config import EngineConfig, Flag, flag_name
from octavo.quantise.config import QuantiseConfig
from octavo.server.config import ServerConfig

CONFIGS: dict[str, type[Any]] = {
    config.__name__: config for config in (EngineConfig, ServerConfig, LoadConfig, QuantiseConfig)
}


def table(config: type[Any], only: str | None = None) -> str:
    """The flags of a config in Markdown: a table for each group, or the table of the group `only`.

    Raises KeyError for a group that no flag of the config has.
    """
    groups: dict[str, list[str]] = {}
    for field in dataclasses.fields(config):
        flag = Flag.of(field)
        names = ", ".join(f"`{name}`" for name in (flag_name(field.name), *flag.aliases))
        text = flag.help.replace("|", "\\|")
        groups.setdefault(flag.group, []).append(f"| {names} | {_default(field)} | {text}{_bounds(flag)} |")
    head = "| flag | default | meaning |\n|---|---|---|\n"
    if only is not None:
        return head + "\n".join(groups[only])
    return "\n\n".join(f"### {group}\n\n{head}" + "\n".join(rows) for group, rows in groups.items())


def _default(field: dataclasses.Field[Any]) -> str:
    value, unit = field.default, Flag.of(field).unit
    if value in (None, "", ()):
        return ""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        value = " ".join(value)
    if unit == "bytes" and value % (1 << 20) == 0:
        value, unit = value >> 20, "MiB"
    return f"`{value}` {unit}".strip()


def _bounds(flag: Flag) -> str:
    if flag.choices:
        return f" One of {', '.join(f'`{choice}`' for choice in flag.choices)}."
    if flag.low is not None and flag.high is not None:
        return f" From {flag.low:g} to {flag.high:g}." if flag.low != flag.high else f" Only {flag.low:g}."
    return f" At least {flag.low:g}." if flag.low is not None and flag.low > 0 else ""
