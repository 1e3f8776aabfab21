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

TESTS = Path(__file__).parent


SLOW = {
    "bench/test_compare.py",
    "cli/test_plan.py",
    "deploy/test_prometheus_live.py",
    "docs/test_client_examples.py",
    "docs/test_docs.py",
    "doctor/test_servers.py",
    "engine/kv/offload/test_kv_offload.py",
    "engine/test_batch_invariance.py",
    "engine/test_drafts.py",
    "engine/test_engine.py",
    "formats/test_quantised.py",
    "frontend/test_async_engine.py",
    "model/test_demo_greedy.py",
    "model/test_logits.py",
    "model/test_quantised_logits.py",
    "plan/test_shape_and_memory.py",
    "quantise/test_awq.py",
    "quantise/test_job.py",
    "runtime/test_kv_groups.py",
    "runtime/test_native_attention.py",
    "sampling/test_native_sampler.py",
    "server/test_api_processes.py",
    "server/test_clients.py",
    "server/test_kv_offload_restart.py",
    "server/test_many_streams.py",
    "server/test_schemathesis.py",
    "server/test_serve_demo.py",
    "server/test_serving_flags.py",
    "test_demo_model_streams.py",
    "test_structured_outputs.py",
}
"""Modules of tests that take most of the suite's time: not in the fast tier. A new module is in it."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of the modules above."""
    for item in items:
        if item.path.relative_to(TESTS).as_posix() in SLOW:
            item.add_marker(pytest.mark.slow)


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
