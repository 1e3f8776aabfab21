"""The tables of the API: every route and field has its row, and each row is true of a server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.routing import APIRoute
from support.docs_script import ROOT, docs_script
from support.live_server import MODEL, LiveServer, live_server

from octavo.config import EngineConfig
from octavo.server.config import ServerConfig

HI = [{"role": "user", "content": "hi"}]
FRAMEWORK = {"/openapi.json", "/docs", "/redoc", "/docs/oauth2-redirect"}
ALSO = {"/v1/score", "/v1/rerank", "/v2/rerank"}  # named in the notes of others

REQUIRED: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "x"},
    "/v1/chat/completions": {"messages": HI},
    "/v1/responses": {"input": "hi"},
    "/v1/messages": {"model": MODEL, "messages": HI, "max_tokens": 2},
    "/tokenize": {"prompt": "x"},
    "/detokenize": {"tokens": [65]},
    "/api/chat": {"model": MODEL, "messages": HI},
    "/api/generate": {"model": MODEL, "prompt": "hi"},
    "/api/show": {"model": MODEL},
}
VALUES: dict[str, Any] = {
    "model": MODEL,
    "name": MODEL,
    "stream_options": {"include_usage": True},
    "n": 2,
    "best_of": 2,
    "max_tokens": 2,
    "max_completion_tokens": 2,
    "max_output_tokens": 2,
    "min_tokens": 1,
    "temperature": 0.5,
    "top_p": 0.5,
    "top_k": 5,
    "min_p": 0.1,
    "seed": 1,
    "presence_penalty": 0.5,
    "frequency_penalty": 0.5,
    "repetition_penalty": 1.5,
    "logit_bias": {"65": 1.0},
    "allowed_token_ids": [65, 66],
    "bad_words": ["no"],
    "stop": ["zz"],
    "stop_sequences": ["zz"],
    "stop_token_ids": [3],
    "prompt_logprobs": 1,
    "truncate_prompt_tokens": 5,
    "priority": 1,
    "cache_salt": "salt",
    "request_id": "id",
    "user": "someone",
    "timeout": 30,
    "length_penalty": 1.0,
    "metadata": {"a": "b"},
    "top_logprobs": 1,
    "chat_template": "hello",
    "chat_template_kwargs": {"a": 1},
    "documents": [{"text": "x"}],
    "instructions": "be brief",
    "include": ["message.output_text.logprobs"],
    "text": {"format": {"type": "text"}},
    "system": "be brief",
    "messages": HI,
    "prompt": "x",
    "input": "hi",
    "tokens": [65],
    "options": {"temperature": 0},
    "format": "json",
    "response_format": {"type": "json_object"},
    "structured_outputs": {"regex": "a"},
    "guided_json": {"type": "object"},
    "guided_choice": ["a"],
    "guided_grammar": 'root ::= "a"',
    "guided_decoding_backend": "auto",
    "guided_whitespace_pattern": " ",
    "structural_tag": {
        "structures": [{"begin": "<f>", "schema": {}, "end": "</f>"}],
        "triggers": ["<f>"],
    },
    "output_config": {"format": {"type": "json_schema", "schema": {}}},
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "functions": [{"name": "f"}],
    "modalities": ["audio"],
    "truncation": "auto",
    "reasoning": {"effort": "high"},
    "prompt_cache_options": {"mode": "implicit"},
    "context": [1],
    "images": ["x"],
    "mcp_servers": [{}],
    "keep_alive": "5m",
}
TEXTS = {
    "suffix",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "reasoning_effort",
    "verbosity",
    "template",
    "guided_regex",
}
DICTS = {
    "kv_transfer_params",
    "vllm_xargs",
    "thinking",
    "audio",
    "context_management",
    "mm_processor_kwargs",
}
WITH: dict[str, dict[str, Any]] = {
    "stream_options": {"stream": True},
    "top_logprobs": {"logprobs": True},
    "length_penalty": {"use_beam_search": True},
    "use_beam_search": {"temperature": 0},
    "guided_whitespace_pattern": {"guided_json": {}},
    "continue_final_message": {
        "add_generation_prompt": False,
        "messages": [*HI, {"role": "assistant", "content": "I"}],
    },
}


TABLES = docs_script("api_tables")
ROWS = [
    pytest.param(path, name, TABLES.status(body, name), id=f"{path}-{name}")
    for path, body in TABLES.BODIES.items()
    for name in dict.fromkeys((*body.struct.__struct_fields__, *body.vllm.split()))
]


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    config = ServerConfig(trust_request_chat_template=True)
    with live_server(config, engine=EngineConfig(scheduling_policy="priority", max_num_seqs=16)) as server:
        yield server


def value_of(path: str, name: str) -> Any:
    if path == "/v1/messages" and name == "metadata":
        return {"user_id": "someone"}
    if path == "/v1/completions" and name == "logprobs":
        return 1
    if path == "/v1/messages" and name in ("tool_choice", "container"):
        return {"type": "any"}
    if path == "/v1/responses" and name == "stream_options":
        return {"include_obfuscation": False}
    if path == "/v1/responses" and name in ("conversation", "prompt"):
        return "an-id"
    if path == "/v1/responses" and name == "previous_response_id":
        return None  # test_responses.py goes on with one
    if name in TEXTS:
        return "text"
    if name in DICTS:
        return {"type": "x"}
    return VALUES.get(name, True if name != "max_tool_calls" else 3)


@pytest.mark.parametrize(("path", "name", "status"), ROWS)
def test_each_row_is_true(server: LiveServer, path: str, name: str, status: str) -> None:
    body = {**REQUIRED[path], **(WITH.get(name, {}) if path != "/v1/responses" else {})}
    if path == "/tokenize" and name in ("chat_template", "chat_template_kwargs", "add_generation_prompt"):
        body = {"messages": HI}
    if path == "/tokenize" and name in ("messages", "continue_final_message"):
        body = {"messages": body.get("messages", HI), "add_generation_prompt": False}
    value = value_of(path, name)
    response = server.post(path, **{**body, name: value})
    if status.startswith("refused"):
        assert response.status_code == 400, response.text
        assert name in response.text
    else:
        assert response.status_code == 200, response.text


def test_every_path_has_a_row(server: LiveServer) -> None:
    served = {
        (method, route.path.replace("{name:path}", "{name}"))
        for included in server.app.routes
        # A router that is included is one route in newer releases of FastAPI.
        for route in getattr(included, "original_router", server.app).routes
        if isinstance(route, APIRoute)
        for method in route.methods
    }
    rows = {tuple(path.split(" ")): row for path, row in TABLES.PATHS.items()}
    for method, path in served:
        if path not in FRAMEWORK | ALSO and method != "HEAD" and (method, path) != ("POST", "/ping"):
            assert (method, path) in rows, f"{method} {path}"
            assert rows[method, path].octavo != TABLES.NO
    for (method, path), row in rows.items():
        if row.octavo != TABLES.NO and path not in FRAMEWORK:
            assert (method, path) in served, f"{method} {path}"


def test_the_page_has_every_table() -> None:
    page = (ROOT / "docs" / "api.md").read_text()
    for name in ("paths", *TABLES.BODIES):
        assert TABLES.table(name) in page
