"""How `octavo chat` and `octavo complete` choose tokens."""

from __future__ import annotations

import argparse
import dataclasses
from dataclasses import dataclass
from typing import Any

from octavo.config import check_settings, setting
from octavo.flags.from_config import config_of

GROUP = "Sampling"


@dataclass(slots=True, kw_only=True)
class SamplingFlags:
    """The sampling parameters that a terminal needs, with the names of the API's."""

    max_tokens: int | None = setting(
        None, "Most tokens of an answer. Default: what the model has room for.", GROUP, unit="tokens", low=1
    )
    temperature: float = setting(0.7, "0 always takes the most likely token.", GROUP, low=0.0, high=1e3)
    top_p: float = setting(
        0.95, "Choose among the most likely tokens that reach this probability together.", GROUP, high=1.0
    )
    top_k: int = setting(0, "Choose among this many most likely tokens; 0 among all.", GROUP, low=0)
    stop: tuple[str, ...] = setting((), "Texts that end the answer.", GROUP)

    def __post_init__(self) -> None:
        check_settings(self)


def request_fields(arguments: argparse.Namespace) -> dict[str, Any]:
    """The sampling fields of a request; raises ValueError for one out of bounds.

    The engine's own `--seed` is also the request's, so that an answer can be repeated.
    """
    fields = dataclasses.asdict(config_of(SamplingFlags, arguments))
    fields["seed"] = getattr(arguments, "seed", None)
    return {name: value for name, value in fields.items() if value not in (None, ())}
