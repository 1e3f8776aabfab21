"""The property behind the table of bad requests: no body, however odd, is the server's fault."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.live_server import LiveServer

from octavo.server.requests.chat_request import ChatCompletionRequest
from octavo.server.requests.completion_request import CompletionRequest

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
SCALARS = st.none() | st.booleans() | st.integers(-2, 300) | st.integers() | st.floats() | TEXT
SCALARS |= st.sampled_from(["user", "assistant", "text", "hash", 2**63, -(2**63), 1e308, 0.5, 1.0])
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["role", "content", "type", "text", "1", "include_usage"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)
MESSAGES = st.lists(st.fixed_dictionaries({"role": st.just("user"), "content": TEXT | VALUES}), max_size=3)


def bodies(kind: type[Any], required: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """Bodies with few fields, half of them with none but the required: so some get through to the engine."""
    names = [name for name in kind.__struct_fields__ if name not in required]
    extra = st.just({}) | st.dictionaries(st.sampled_from([*names, "unknown"]), VALUES, max_size=3)
    return st.builds(lambda a, b: {**b, **a}, st.fixed_dictionaries(required), extra)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (
            "/v1/completions",
            bodies(CompletionRequest, {"prompt": TEXT | VALUES, "max_tokens": st.integers(-1, 4)}),
        ),
        (
            "/v1/chat/completions",
            bodies(ChatCompletionRequest, {"messages": MESSAGES, "max_tokens": st.just(2)}),
        ),
    ],
)
def test_any_body_is_answered_or_refused(
    server: LiveServer, path: str, body: st.SearchStrategy[dict[str, Any]]
) -> None:
    statuses = set()

    @settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
    @given(body)
    def check(body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        response = server.http.post(path, content=content, headers={"Content-Type": "application/json"})
        statuses.add(response.status_code)
        assert response.status_code in (200, 400, 404), (body, response.text)
        if response.status_code == 200 and "text/event-stream" in response.headers["content-type"]:
            assert b'"error"' not in response.content
            assert response.content.endswith(b"data: [DONE]\n\n")

    check()
    assert {200, 400} <= statuses
    assert server.metric("num_requests_running") == 0
    assert server.metric("request_failure_total") == 0
