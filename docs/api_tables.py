"""The tables of the API, vLLM beside octavo. `write_tables.py` puts them into the pages.

octavo's side is read from its request structs, and a test holds it against a server. vLLM's side is what its
documentation lists.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

sys.path.insert(0, str(Path(__file__).parents[1]))

from octavo.server.openai import tokens
from octavo.server.other_apis import anthropic, ollama, ollama_models
from octavo.server.requests import chat_request, completion_request, generation_request
from octavo.server.responses_api import request as responses

YES, NO = "yes", "no"


@dataclass(frozen=True)
class Support:
    """A path: whether vLLM has it, and what there is to say."""

    vllm: str
    octavo: str
    note: str = ""


TEXT_ONLY = "refused: the model generates text"
PATHS: dict[str, Support] = {
    "POST /v1/completions": Support(YES, YES),
    "POST /v1/chat/completions": Support(YES, YES),
    "POST /v1/responses": Support(
        YES, YES, "text; responses are kept in memory, and the least recently used is dropped first"
    ),
    "GET /v1/responses/{response_id}": Support(YES, YES),
    "DELETE /v1/responses/{response_id}": Support(NO, YES),
    "GET /v1/responses/{response_id}/input_items": Support(NO, YES),
    "POST /v1/responses/{response_id}/cancel": Support(YES, NO, "no response runs in the background"),
    "POST /v1/messages": Support(YES, YES, "Anthropic's, for text"),
    "POST /v1/messages/count_tokens": Support(YES, YES),
    "GET /v1/models": Support(YES, YES),
    "GET /v1/models/{name}": Support(NO, YES),
    "POST /tokenize": Support(YES, YES),
    "POST /detokenize": Support(YES, YES),
    "GET /tokenizer_info": Support(YES, NO),
    "POST /v1/embeddings": Support(YES, TEXT_ONLY),
    "POST /pooling": Support(YES, TEXT_ONLY),
    "POST /classify": Support(YES, TEXT_ONLY),
    "POST /score": Support(YES, TEXT_ONLY, "`/v1/score` too"),
    "POST /rerank": Support(YES, TEXT_ONLY, "`/v1/rerank` and `/v2/rerank` too"),
    "POST /v1/audio/transcriptions": Support(YES, NO, "text only"),
    "POST /v1/audio/translations": Support(YES, NO, "text only"),
    "POST /v1/load_lora_adapter": Support(YES, NO),
    "POST /v1/unload_lora_adapter": Support(YES, NO),
    "POST /invocations": Support(YES, YES),
    "POST /reset_prefix_cache": Support("in development mode", YES),
    "GET /health": Support(YES, YES, "503 while it shuts down"),
    "GET /ping": Support(YES, YES, "POST too"),
    "GET /load": Support("with a flag", YES),
    "GET /version": Support(YES, YES),
    "GET /metrics": Support(YES, YES, "vLLM's names"),
    "GET /openapi.json": Support(YES, YES, "and `/docs`, `/redoc`"),
    "POST /sleep": Support("in development mode", NO, "nor `/wake_up`, `/is_sleeping`, `/server_info`"),
    "POST /api/chat": Support(NO, YES, "Ollama's, for text"),
    "POST /api/generate": Support(NO, YES),
    "POST /api/show": Support(NO, YES),
    "GET /api/tags": Support(NO, YES),
    "GET /api/ps": Support(NO, YES),
    "GET /api/version": Support(NO, YES),
    "GET /": Support(NO, YES, "the page"),
    "GET /page/{name}": Support(NO, YES, "its files"),
    "GET /octavo/live": Support(NO, YES, "what the page shows, as events"),
}

_SAMPLING = """best_of use_beam_search top_k min_p repetition_penalty length_penalty stop_token_ids
    include_stop_str_in_output ignore_eos min_tokens skip_special_tokens spaces_between_special_tokens
    truncate_prompt_tokens prompt_logprobs allowed_token_ids"""
_COMMON = """model frequency_penalty logit_bias logprobs max_tokens n presence_penalty seed stop stream
    stream_options temperature top_p user add_special_tokens response_format structured_outputs guided_json
    guided_regex guided_choice guided_grammar guided_decoding_backend guided_whitespace_pattern structural_tag
    priority request_id logits_processors return_tokens_as_token_ids return_token_ids cache_salt
    kv_transfer_params vllm_xargs echo"""
_CHAT = """messages top_logprobs max_completion_tokens tools tool_choice parallel_tool_calls reasoning_effort
    include_reasoning bad_words add_generation_prompt continue_final_message documents chat_template
    chat_template_kwargs mm_processor_kwargs"""
_RESPONSES = """input model instructions previous_response_id max_output_tokens store stream metadata include
    top_logprobs temperature top_p top_k logit_bias skip_special_tokens include_stop_str_in_output priority
    cache_salt user service_tier prompt_cache_key parallel_tool_calls max_tool_calls text reasoning truncation
    tools tool_choice background prompt request_id mm_processor_kwargs enable_response_messages
    previous_input_messages"""
_MESSAGES = """model messages max_tokens metadata stop_sequences stream system temperature tools tool_choice
    top_k top_p"""
_TOKENIZE = """model prompt messages add_special_tokens return_token_strs add_generation_prompt
    continue_final_message chat_template chat_template_kwargs mm_processor_kwargs tools"""


@dataclass(frozen=True)
class Body:
    """A request body: octavo's struct, what it refuses and what changes nothing, and vLLM's fields."""

    struct: type[msgspec.Struct]
    refused: Mapping[str, str] = field(default_factory=dict)
    without_effect: Collection[str] = ()
    vllm: str = ""
    harmless: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)


BODIES: dict[str, Body] = {
    "/v1/completions": Body(
        completion_request.CompletionRequest,
        generation_request.UNSUPPORTED,
        generation_request.WITHOUT_EFFECT,
        f"prompt suffix prompt_embeds {_COMMON} {_SAMPLING}",
        generation_request.HARMLESS,
    ),
    "/v1/chat/completions": Body(
        chat_request.ChatCompletionRequest,
        generation_request.UNSUPPORTED,
        generation_request.WITHOUT_EFFECT,
        f"{_CHAT} {_COMMON} {_SAMPLING}",
        generation_request.HARMLESS,
    ),
    "/v1/responses": Body(
        responses.ResponsesRequest,
        responses.UNSUPPORTED,
        responses.WITHOUT_EFFECT,
        _RESPONSES,
        responses.HARMLESS,
        {
            "text": "yes: `format` text, json_object, json_schema; a verbosity other than medium is refused",
            "reasoning": "refused: thinking apart from the answer, unless all of it is null",
            "include": f"yes: `{responses.LOGPROBS}`",
        },
    ),
    "/v1/messages": Body(
        anthropic.MessagesRequest,
        anthropic.UNSUPPORTED,
        anthropic.WITHOUT_EFFECT,
        _MESSAGES,
        notes={"output_config": "yes: `format` json_schema; an effort is refused"},
    ),
    "/tokenize": Body(tokens.TokenizeRequest, vllm=_TOKENIZE),
    "/detokenize": Body(tokens.DetokenizeRequest, vllm="model tokens"),
    "/api/chat": Body(ollama.OllamaChat, ollama.UNSUPPORTED, ollama.WITHOUT_EFFECT),
    "/api/generate": Body(ollama.OllamaGenerate, ollama.UNSUPPORTED, ollama.WITHOUT_EFFECT),
    "/api/show": Body(ollama_models.OllamaShow, without_effect=("verbose",)),
}


def table(name: str) -> str:
    """The table of a path's fields in Markdown; for `paths` the table of all paths.

    Raises KeyError for a path that has no table.
    """
    if name == "paths":
        rows = [f"| `{path}` | {each.vllm} | {each.octavo} | {each.note} |" for path, each in PATHS.items()]
        return "| path | vLLM | octavo | note |\n|---|---|---|---|\n" + "\n".join(rows)
    body = BODIES[name]
    vllm = body.vllm.split()
    names = [*body.struct.__struct_fields__]
    names += [each for each in vllm if each not in names]
    rows = [f"| `{each}` | {YES if each in vllm else NO} | {status(body, each)} |" for each in names]
    return "| field | vLLM | octavo |\n|---|---|---|\n" + "\n".join(rows)


def status(body: Body, name: str) -> str:
    """What octavo makes of a field."""
    if name not in body.struct.__struct_fields__:
        return "refused: unknown"
    if name in body.notes:
        return body.notes[name]
    if name in body.refused:
        values = ", ".join(f"`{json.dumps(value)}`" for value in body.harmless.get(name, ()))
        return f"refused: {body.refused[name]}" + (f"; {values} is accepted" if values else "")
    return "accepted, without effect" if name in body.without_effect else YES
