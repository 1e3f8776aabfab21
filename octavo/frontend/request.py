"""A request, checked before anything is sent to the engine: what it asks for is something it can have."""

from __future__ import annotations

import random
import time
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, NotRequired, TypedDict

import msgspec

from octavo.request_options import NO_OPTIONS, RequestOptions, check_text
from octavo.sampling.bad_words import bad_word_tokens
from octavo.sampling.state import check_token_ids
from octavo.sampling_params import SamplingParams
from octavo.structured.compiler import GrammarCompiler
from octavo.structured.config import StructuredOutputsConfig
from octavo.structured.matcher import Matcher
from octavo.structured.params import StructuredOutputsParams

if TYPE_CHECKING:
    from octavo.tokenizer.tokenizer import Tokenizer


class TextPrompt(TypedDict):
    """A prompt as text. `cache_salt` keeps its prefix from being shared with prompts of another salt."""

    prompt: str
    cache_salt: NotRequired[str]


class TokensPrompt(TypedDict):
    """A prompt as token ids; `prompt` is the text that `RequestOutput.prompt` shows for it."""

    prompt_token_ids: list[int]
    prompt: NotRequired[str]
    cache_salt: NotRequired[str]


Prompt = str | list[int] | TextPrompt | TokensPrompt


@dataclass(frozen=True, slots=True)
class Request:
    """A request that the engine can run: tokens in the vocabulary, room to generate, a seed."""

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    params: SamplingParams
    eos_token_ids: list[int]
    arrival_time: float
    options: RequestOptions


class RequestBuilder:
    """Makes requests for one model; draws a seed, in order, for those that come without one."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        vocab_size: int,
        max_model_len: int,
        eos_token_ids: list[int],
        seed: int,
        grammars: GrammarCompiler | None = None,
        structured_outputs: StructuredOutputsConfig | None = None,
    ) -> None:
        """`grammars` are by default a compiler of its own."""
        self.tokenizer = tokenizer
        self.vocab_size = vocab_size
        self.max_model_len = max_model_len
        self.eos_token_ids = eos_token_ids
        self.grammars = grammars or GrammarCompiler(lambda: tokenizer, vocab_size, eos_token_ids)
        self._structured_outputs = structured_outputs or StructuredOutputsConfig()
        self._seeds = random.Random(seed)
        self._params_encoder = msgspec.msgpack.Encoder()
        self._params_decoder = msgspec.msgpack.Decoder(SamplingParams)

    def build(
        self,
        prompt: Prompt,
        params: SamplingParams,
        request_id: str,
        options: RequestOptions = NO_OPTIONS,
    ) -> Request:
        """The request for `prompt`, with parameters of its own.

        A cache salt of the options stands over one of the prompt. `max_tokens` is at most what the model's
        length leaves after the prompt, and that when it is None. Raises ValueError, its message beginning
        with the field. It does so for a prompt that is empty, is not text or token ids of the vocabulary, or
        leaves no room for a token, and for parameters out of bounds. Blocks while a grammar of
        `structured_outputs` is compiled that `grammars` has not compiled lately.
        """
        text, token_ids, salt = self._read(prompt)
        check_text("request_id", request_id)
        if salt != "" and not options.cache_salt:
            options = msgspec.structs.replace(options, cache_salt=salt)
        options.check()
        if text is not None:
            check_text("prompt", text)
        if token_ids is None:
            assert text is not None
            token_ids = self.tokenizer.encode(text)
        room = self.max_model_len - len(token_ids)
        if not token_ids:
            raise ValueError("prompt is empty; it needs at least one token")
        if room < 1:
            raise ValueError(
                f"prompt is {len(token_ids)} tokens long and max_model_len (--max-model-len) is "
                f"{self.max_model_len}, prompt and completion together; shorten the prompt to at most "
                f"{self.max_model_len - 1} tokens"
            )
        if min(token_ids) < 0 or max(token_ids) >= self.vocab_size:
            wrong = next(each for each in token_ids if not 0 <= each < self.vocab_size)
            raise ValueError(
                f"prompt holds token id {wrong}; the model's vocabulary is 0 to {self.vocab_size - 1}"
            )
        params = self._own(params)
        params.bad_words_token_ids += bad_word_tokens(params.bad_words, self.tokenizer)
        check_token_ids(params, self.vocab_size, self.eos_token_ids)
        if params.structured_outputs is not None:
            params.structured_outputs = self._structured_outputs.applied_to(params.structured_outputs)
            self.grammars.check(params.structured_outputs)
        params.max_tokens = room if params.max_tokens is None else min(params.max_tokens, room)
        params.min_tokens = min(params.min_tokens, params.max_tokens)
        if params.seed is None:
            params.seed = self._seeds.getrandbits(63)
        return Request(
            request_id=request_id,
            prompt=text,
            prompt_token_ids=token_ids,
            params=params,
            eos_token_ids=self.eos_token_ids,
            arrival_time=time.monotonic(),
            options=options,
        )

    def compile(self, params: StructuredOutputsParams) -> Future[Matcher]:
        """Begin to compile what requests for outputs of that form need; see `GrammarCompiler.submit`."""
        return self.grammars.submit(self._structured_outputs.applied_to(params))

    def _read(self, prompt: Prompt) -> tuple[str | None, list[int] | None, str]:
        """The prompt's text, token ids and cache salt; one of the first two may be None."""
        if isinstance(prompt, str):
            return prompt, None, ""
        if isinstance(prompt, dict):
            unknown = set(prompt) - {"prompt", "prompt_token_ids", "cache_salt"}
            if unknown:
                raise ValueError(f"prompt has no key {min(unknown)!r}; it takes prompt or prompt_token_ids")
            text, tokens = prompt.get("prompt"), prompt.get("prompt_token_ids")
            salt = prompt.get("cache_salt", "")
        else:
            text, tokens, salt = None, prompt, ""
        if tokens is None:
            if text is None:
                raise ValueError("prompt must be text, a list of token ids, or a dict with one of them")
            return text, None, salt
        if not isinstance(tokens, list | tuple) or not set(map(type, tokens)) <= {int}:
            raise ValueError("prompt must be text or a list of token ids, which are integers")
        return text, list(tokens), salt

    def _own(self, params: SamplingParams) -> SamplingParams:
        """A copy that shares nothing, every field's type and bounds checked again.

        Fields may have been set since `params` was made, and whatever arrives here travels on to an engine
        that others use too: the copy is made by the encoding that takes it there.
        """
        try:
            return self._params_decoder.decode(self._params_encoder.encode(params))
        except (msgspec.MsgspecError, TypeError, OverflowError, RecursionError) as error:
            raise ValueError(f"sampling_params: {error}") from error


def check_policy_takes(priority: int, policy: str) -> None:
    """Raise ValueError for a priority other than 0 where requests are served first come, first served."""
    if priority and policy == "fcfs":
        raise ValueError(
            f"priority is {priority}, which needs --scheduling-policy priority (or fair, for the order of a "
            "user's own requests); this engine serves first come, first served"
        )
