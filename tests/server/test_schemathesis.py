"""Schemathesis makes requests from the served OpenAPI document: whatever it sends, the server has no fault.

The suite sends few of them, the same each time. With OCTAVO_FUZZ_EXAMPLES=10000 in the environment it is that
many, and others each time.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from support.live_server import MODEL, LiveServer, live_server

from octavo.server.config import ServerConfig

schemathesis = pytest.importorskip("schemathesis")

NUM_EXAMPLES = int(os.environ.get("OCTAVO_FUZZ_EXAMPLES", "150"))
REQUIRED = ("prompt", "messages", "input", "tokens", "max_tokens")
SEED = random.randrange(2**32) if "OCTAVO_FUZZ_EXAMPLES" in os.environ else 0


@pytest.fixture(scope="module")
def fuzzed() -> Iterator[LiveServer]:
    with live_server(ServerConfig(trust_request_chat_template=True, chat_template_timeout=0.5)) as server:
        yield server


def test_no_request_is_the_server_s_fault(fuzzed: LiveServer) -> None:
    schema = schemathesis.openapi.from_url(f"{fuzzed.url}/openapi.json")
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) >= 20
    # Those without a body or a path to vary are one request each.
    weights = [8 if each.body else 1 if each.path_parameters else 0 for each in operations]
    statuses: Counter[int] = Counter()
    for operation, weight in zip(operations, weights, strict=True):
        check_operation(operation, 1 + NUM_EXAMPLES * weight // sum(weights), statuses)
    print(f"\nseed {SEED}: {sum(statuses.values())} requests, by status {dict(sorted(statuses.items()))}")
    assert sum(statuses.values()) >= 0.9 * NUM_EXAMPLES
    assert min(statuses[200], statuses[400], statuses[404]) > 0
    assert fuzzed.metric("request_failure_total") == 0
    assert fuzzed.post("/v1/completions", prompt="x", max_tokens=1).status_code == 200


def check_operation(operation: Any, count: int, statuses: Counter[int]) -> None:
    @seed(SEED)
    @settings(max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(), chance=st.randoms(use_true_random=False))
    def check(case: Any, chance: random.Random) -> None:
        if isinstance(case.body, dict) and chance.random() < 0.8:
            case.body = thinned(case.body, chance)
        response = case.call(timeout=30)
        statuses[response.status_code] += 1
        # A request that sets its own time limit may run out of it.
        out_of_time = response.status_code == 504 and isinstance(case.body, dict) and "timeout" in case.body
        assert response.status_code < 500 or out_of_time, (case.as_curl_command(), response.text)

    check()


def thinned(body: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    """The body with few of its optional fields and the model that is served: one that may get through."""
    kept = {name: body[name] for name in REQUIRED if name in body}
    for name in chance.sample(sorted(body), min(len(body), chance.randrange(4))):
        kept[name] = body[name]
    return {**kept, "model": MODEL}
