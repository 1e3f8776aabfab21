"""What completions and chat completions have in common; a field that is not declared is refused.

Null always means the default. Sources: the OpenAI API reference and vLLM's OpenAI-compatible server.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from octavo.frontend.beam_search import LENGTH_PENALTY_RANGE, MAX_BEAM_WIDTH
from octavo.sampling_params import RequestOutputKind, SamplingParams, check_integer, check_number
from octavo.server.config import ServerConfig
from octavo.server.errors import APIError, bad_input
from octavo.server.requests.output_form import (
    OutputForm,
    from_guided,
    from_response_format,
    from_structured_outputs,
    the_form,
)
from octavo.server.requests.sampling_request import SamplingRequest

MAX_ID_CHARS = 256
MAX_TIMEOUT = 7 * 24 * 3600.0
MAX_USER_CHARS = 1024
MAX_STOP_TOKEN_IDS = 1024
"""Each token that is generated is looked for among them."""
MAX_ALLOWED_TOKEN_IDS = 1 << 20

SAMPLING_FIELDS = (
    "n",
    "best_of",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "stop",
    "stop_token_ids",
    "ignore_eos",
    "min_tokens",
    "prompt_logprobs",
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "include_stop_str_in_output",
    "logit_bias",
    "allowed_token_ids",
    "skip_reading_prefix_cache",
    "bad_words",
)
"""Fields that mean in a request what they mean in `SamplingParams`."""

_NOT_WITH_BEAMS = (
    "best_of",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "stop",
    "stop_token_ids",
    "min_tokens",
    "logit_bias",
    "allowed_token_ids",
    "bad_words",
    "echo",
    "prompt_logprobs",
)
"""What beam search can not honour, as it can no form of the output. What is about chance (temperature, top_p,
seed) does not concern it."""

_GUIDED_FIELDS = (
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "guided_decoding_backend",
    "guided_whitespace_pattern",
    "structural_tag",
)


class FieldNames(NamedTuple):
    """How an API calls the fields that errors of every API are about."""

    prompt: str
    max_tokens: str
    logprobs: str


class Wanted(NamedTuple):
    """How much a body wants, whatever its fields are called."""

    max_tokens: int | None
    most_by_default: int | None
    """Tokens where `max_tokens` does not say; None for all that the model's length leaves."""
    logprobs: int | None
    names: FieldNames
    prompt_only: bool = False
    """Whether only the prompt is wanted, as `max_tokens=0` with `echo` says."""


class StreamOptions(msgspec.Struct, forbid_unknown_fields=True):
    """What a stream says of its usage: in a last chunk, and also in each chunk."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: bool | None = None


class GenerationRequest(SamplingRequest, kw_only=True, forbid_unknown_fields=True):
    """What completions and chat completions have in common."""

    model: str | None = None
    stream_options: StreamOptions | None = None

    n: int | None = None
    best_of: int | None = None
    max_tokens: int | None = None
    allowed_token_ids: list[int] | None = None
    bad_words: list[str] | None = None
    spaces_between_special_tokens: bool | None = None
    echo: bool | None = None
    prompt_logprobs: int | None = None
    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = None
    add_special_tokens: bool | None = None
    truncate_prompt_tokens: int | None = None
    skip_reading_prefix_cache: bool | None = None
    request_id: str | None = None
    use_beam_search: bool | None = None
    length_penalty: float | None = None
    metadata: dict[str, Any] | None = None  # see WITHOUT_EFFECT

    response_format: dict[str, Any] | None = None
    guided_json: str | dict[str, Any] | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    guided_decoding_backend: str | None = None
    guided_whitespace_pattern: str | None = None
    structural_tag: str | dict[str, Any] | None = None

    # Refused, unless they ask for what happens anyway.
    logits_processors: Any = None
    kv_transfer_params: Any = None
    vllm_xargs: Any = None

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with its usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def continuous_usage(self) -> bool:
        """Whether each chunk of a stream carries the usage so far."""
        return self.include_usage and bool(self.stream_options and self.stream_options.continuous_usage_stats)

    @property
    def beam_length_penalty(self) -> float | None:
        """That of a beam search, None where none is asked for."""
        if not self.use_beam_search:
            return None
        return 1.0 if self.length_penalty is None else self.length_penalty

    def fill_in(self, config: ServerConfig) -> None:
        """Take what the request does not say from the server's settings."""
        if self.return_tokens_as_token_ids is None:
            self.return_tokens_as_token_ids = config.return_tokens_as_token_ids
        if self.stream and config.enable_force_include_usage:
            self.stream_options = self.stream_options or StreamOptions()
            self.stream_options.include_usage = True

    def check(self) -> None:
        """Raise APIError for what the types above allow but the server does not."""
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if value and name in UNSUPPORTED and value not in HARMLESS.get(name, ()):
                raise APIError(400, f"{name}: {UNSUPPORTED[name]} is not supported", name)
        if self.stream_options is not None and not self.stream:
            raise APIError(400, "stream_options: only with stream=true", "stream_options")
        if self.best_of is not None and self.best_of > (self.n or 1) and self.stream:
            raise APIError(400, "best_of: with stream=true, only the value of n", "best_of")
        self._check_beam_search()
        if self.prompt_logprobs is not None and self.stream:
            raise APIError(400, "prompt_logprobs: not with stream=true", "prompt_logprobs")
        for name, text in (("request_id", self.request_id), ("cache_salt", self.cache_salt)):
            if text is not None and not 1 <= len(text) <= MAX_ID_CHARS:
                raise APIError(400, f"{name} must have 1 to {MAX_ID_CHARS} characters, got {len(text)}", name)
        if self.user is not None and len(self.user) > MAX_USER_CHARS:
            raise APIError(
                400, f"user takes at most {MAX_USER_CHARS} characters, got {len(self.user)}", "user"
            )
        for name, token_ids, most in (
            ("stop_token_ids", self.stop_token_ids, MAX_STOP_TOKEN_IDS),
            ("allowed_token_ids", self.allowed_token_ids, MAX_ALLOWED_TOKEN_IDS),
        ):
            if token_ids is not None and len(token_ids) > most:
                raise APIError(400, f"{name} takes at most {most} token ids, got {len(token_ids)}", name)
        with bad_input(self.__struct_fields__):
            if self.timeout is not None:
                check_number("timeout", self.timeout, 0.001, MAX_TIMEOUT)
            if self.truncate_prompt_tokens not in (None, -1):
                check_integer("truncate_prompt_tokens", self.truncate_prompt_tokens, 1, 2**31 - 1)

    def _check_beam_search(self) -> None:
        if not self.use_beam_search:
            if self.length_penalty not in (None, 1.0):
                raise APIError(400, "length_penalty: only with use_beam_search=true", "length_penalty")
            return
        with bad_input(self.__struct_fields__):
            check_integer("n", 1 if self.n is None else self.n, 1, MAX_BEAM_WIDTH)
            if self.length_penalty is not None:
                check_number("length_penalty", self.length_penalty, *LENGTH_PENALTY_RANGE)
        refused = [name for name in _NOT_WITH_BEAMS if getattr(self, name) not in (None, False, [], {})]
        for name in refused:
            raise APIError(400, f"{name}: not with use_beam_search=true", name)

    def wanted(self) -> Wanted:
        """How much of what the body wants."""
        raise NotImplementedError

    def output_form(self) -> OutputForm | None:
        """The form that the output must have, if any; raises APIError for one that can not be."""
        guided = {name: getattr(self, name) for name in _GUIDED_FIELDS}
        return the_form(
            (
                from_response_format(self.response_format),
                from_structured_outputs(self.structured_outputs),
                *from_guided(guided),
            )
        )

    def sampling_params(
        self,
        defaults: Mapping[str, Any],
        *,
        max_tokens: int,
        logprobs: int | None,
        form: OutputForm | None = None,
    ) -> SamplingParams:
        """The request's `SamplingParams`, `defaults` where it does not say, for an output of that form.

        Raises APIError that names a field out of bounds.
        """
        given = {name: value for name in SAMPLING_FIELDS if (value := getattr(self, name)) is not None}
        structured_outputs = None if form is None else form.params
        own = {"max_tokens": max_tokens, "logprobs": logprobs, "structured_outputs": structured_outputs}
        kind = RequestOutputKind.DELTA if self.stream else RequestOutputKind.FINAL_ONLY
        with bad_input(self.__struct_fields__):
            return SamplingParams(**{**defaults, **given, **own}, output_kind=kind)


UNSUPPORTED = {
    "suffix": "insertion into a text",
    "prompt_embeds": "a prompt of embeddings",
    "logits_processors": "code of a request",
    "kv_transfer_params": "KV transfer",
    "vllm_xargs": "passing arguments to plugins",
    "mm_processor_kwargs": "input other than text",
    "tools": "tool calling",
    "tool_choice": "tool calling",
    "functions": "function calling",
    "function_call": "function calling",
    "modalities": "output other than text",
    "audio": "audio",
    "store": "storing completions",
    "prediction": "predicted output",
    "verbosity": "choosing the verbosity",
    "web_search_options": "web search",
}
"""Fields that the server knows but can not honour."""

WITHOUT_EFFECT = frozenset(
    {
        "include_reasoning",
        "metadata",
        "parallel_tool_calls",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
    }
)
"""Fields that change nothing here, and nothing of what is generated."""

HARMLESS: dict[str, tuple[Any, ...]] = {
    "modalities": (["text"],),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
}
"""Values of those that ask for nothing."""
