"""The largest sizes that a model may have: a corrupt description is refused before it costs memory."""

from __future__ import annotations

MAX_LAYERS = 1024
MAX_COLS = 1 << 20
MAX_HEADS = 1 << 12
MAX_HEAD_DIM = 1 << 10
MAX_VOCABULARY = 1 << 24
MAX_POSITIONS = 1 << 21


def check_size(name: str, value: int, most: int, least: int = 1) -> None:
    """Raise ValueError naming `name` unless `value` is from `least` to `most`."""
    if not least <= value <= most:
        raise ValueError(f"{name} must be from {least} to {most}, got {value}")
