"""The model that is quantised, once a session."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A directory in bfloat16, and its model in float32."""
    from support.model_with_tokenizer import save_model

    path = tmp_path_factory.mktemp("original")
    return path, save_model(path)
