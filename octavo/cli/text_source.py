"""Where the text of `octavo chat` and `octavo complete` comes from: an engine of their own, or a server."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Iterator
from typing import Any, Protocol

from octavo.flags.from_config import add_flags
from octavo.flags.model_argument import add_engine_flags, engine_config
from octavo.flags.sampling_flags import SamplingFlags


class TextSource(Protocol):
    """A model that answers piece by piece; `fields` are sampling fields of a request.

    Raises ValueError for what the model can not do, CommandError when there is no answer.
    """

    name: str

    def chat(self, messages: list[dict[str, str]], fields: dict[str, Any]) -> Iterator[str]:
        """The answer to a conversation."""
        ...

    def complete(self, prompt: str, fields: dict[str, Any]) -> Iterator[str]:
        """The completion of a text."""
        ...

    def close(self) -> None:
        """Give back what it holds."""
        ...


def add_source_flags(parser: argparse.ArgumentParser) -> None:
    """MODEL or `--url`, the engine's flags, and how to sample."""
    add_engine_flags(parser)
    server = parser.add_argument_group("Server")
    server.add_argument("--url", help="ask the OpenAI-compatible server there instead of loading a model")
    server.add_argument("--api-key", metavar="KEY", help="its API key (default: OCTAVO_API_KEY)")
    add_flags(parser, SamplingFlags)


@contextlib.contextmanager
def open_source(arguments: argparse.Namespace) -> Iterator[TextSource]:
    """The source that the arguments ask for, closed at the end."""
    config = engine_config(arguments)
    source: TextSource
    if arguments.url:
        if config.model:
            raise ValueError("model (--model) and --url exclude each other")
        from octavo.cli.remote_model import RemoteModel

        source = RemoteModel(arguments.url, arguments.api_key or os.environ.get("OCTAVO_API_KEY"))
    else:
        from octavo.cli.local_model import LocalModel

        source = LocalModel(config)
    with contextlib.closing(source):
        yield source
