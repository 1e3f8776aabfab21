"""vLLM's flags that octavo does not have: a command line brought along from vLLM works, or says why not."""

from __future__ import annotations

import argparse
from typing import Any

from octavo.cli.flags import json_value
from octavo.config import flag_name
from octavo.vllm_arguments import ONLY_AT, WITHOUT_EFFECT

NAMES = (*ONLY_AT, *sorted(WITHOUT_EFFECT))


def add_vllm_flags(parser: argparse.ArgumentParser) -> None:
    """Add them all, hidden from the help."""
    for name in NAMES:
        options: dict[str, Any] = {"type": json_value}
        if ONLY_AT.get(name, ((),))[0] == (False,) or name.startswith(
            ("disable_", "enable_", "enforce_", "exclude_", "use_")
        ):
            options = {"action": argparse.BooleanOptionalAction}
        parser.add_argument(
            flag_name(name), dest=name, default=argparse.SUPPRESS, help=argparse.SUPPRESS, **options
        )
