"""The fields that mean the same in a completion, a chat completion and a response: OpenAI's and vLLM's."""

from __future__ import annotations

from typing import Any

import msgspec

from octavo.request_options import RequestOptions


class SamplingRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """How to generate: declared once, for each body that may say it; null means the default."""

    stream: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[int, float] | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    min_tokens: int | None = None
    skip_special_tokens: bool | None = None
    structured_outputs: dict[str, Any] | None = None
    priority: int | None = None
    cache_salt: str | None = None
    user: str | None = None
    timeout: float | None = None

    # Nothing of what is generated depends on these.
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None

    def options(self, user: str) -> RequestOptions:
        """What the body says that goes with the request to the engine; `user` is whose share it takes."""
        given = {
            name: value
            for name in RequestOptions.__struct_fields__
            if (value := getattr(self, name, None)) is not None
        }
        return RequestOptions(**{**given, "user": user})
