"""Where octavo keeps what it can make or fetch again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_directory() -> Path:
    """`$OCTAVO_CACHE`, else `octavo` below `$XDG_CACHE_HOME`, else `~/.cache/octavo`.

    Raises ValueError when there is no home directory either.
    """
    if own := os.environ.get("OCTAVO_CACHE"):
        return Path(own)
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared) / "octavo"
    try:
        return Path.home() / ".cache" / "octavo"
    except RuntimeError as error:
        raise ValueError("there is no home directory; set OCTAVO_CACHE") from error
