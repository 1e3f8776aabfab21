"""Fixtures that the whole suite shares."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def demo_model() -> Path:
    """The demo model's GGUF file, fetched once and cached."""
    from octavo.model.demo import demo_model_path

    return demo_model_path()
