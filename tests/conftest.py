"""Fixtures that the whole suite shares."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from octavo.engine.kv.integrity import VARIABLE

# How long an example takes is up to the machine and to what else runs on it.
settings.register_profile("any speed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any speed")


@pytest.fixture(scope="session")
def demo_model() -> Path:
    """The demo model's GGUF file, fetched once and cached."""
    from octavo.model.demo import demo_model_path

    return demo_model_path()


@pytest.fixture(scope="session", autouse=True)
def violations(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Engines, those of other processes too, check their blocks when they become idle, and report here."""
    file = tmp_path_factory.mktemp("violations") / "blocks"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, str(file))
        yield file


@pytest.fixture(autouse=True)
def _every_block_is_accounted_for(violations: Path) -> Iterator[None]:
    """An engine process that a violation ended is replaced, so that a test may pass all the same."""
    yield
    if violations.exists():
        report = violations.read_text()
        violations.unlink()
        pytest.fail(report)
