"""How a request wants its tokens chosen: vLLM's `SamplingParams`, checked at construction."""

from __future__ import annotations

import math
from enum import Enum

import msgspec

from octavo.structured.params import StructuredOutputsParams

MAX_N = 128
MAX_LOGPROBS = 100
MAX_STOP_STRINGS = 64
MAX_STOP_CHARACTERS = 8192
MAX_LOGIT_BIAS = 4096
MAX_BAD_WORDS = 1024
MAX_BAD_WORD_CHARACTERS = 16384
SEED_RANGE = (-(2**63), 2**63 - 1)


GuidedDecodingParams = StructuredOutputsParams
"""vLLM's older name."""


class RequestOutputKind(Enum):
    """What each update of a stream holds: all text so far, only what is new, or only the end."""

    CUMULATIVE = 0
    DELTA = 1
    FINAL_ONLY = 2


class SamplingParams(msgspec.Struct, kw_only=True):
    """Parameters of one request, with vLLM's names, meanings and defaults.

    `n` completions; with `best_of` so many are generated and the `n` given that are the most likely per token
    (OpenAI's meaning), all at the end. `temperature` 0 is greedy; `top_k` 0 or -1 is off; `seed` None draws a
    fresh one, and the token at each position then depends only on the logits, the seed and the position.
    `max_tokens` None means up to the model's length. `logprobs` -1 asks for the whole vocabulary.
    `logit_bias` maps a token id to what is added to its logit. `bad_words` are never put out;
    `bad_words_token_ids` are their tokens and more such sequences, filled in when a request is made.
    `skip_reading_prefix_cache` computes the whole prompt anew, as `prompt_logprobs` always does; what it
    computes is cached for others.
    `structured_outputs` is the form of the output, which ends where that does, `min_tokens` or not.

    Raises ValueError that names the field, what it got and what it takes.
    """

    n: int = 1
    best_of: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop: list[str] = msgspec.field(default_factory=list)
    stop_token_ids: list[int] = msgspec.field(default_factory=list)
    ignore_eos: bool = False
    max_tokens: int | None = 16
    min_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    detokenize: bool = True
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    include_stop_str_in_output: bool = False
    output_kind: RequestOutputKind = RequestOutputKind.CUMULATIVE
    logit_bias: dict[int, float] | None = None
    allowed_token_ids: list[int] | None = None
    bad_words: list[str] = msgspec.field(default_factory=list)
    bad_words_token_ids: list[list[int]] = msgspec.field(default_factory=list)
    skip_reading_prefix_cache: bool | None = None
    structured_outputs: StructuredOutputsParams | None = None
    guided_decoding: StructuredOutputsParams | None = None
    """The older name of `structured_outputs`; None once this is made."""

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            self.stop = [self.stop]
        self.stop = list(self.stop or [])
        self.stop_token_ids = list(self.stop_token_ids or [])
        self.bad_words = list(self.bad_words or [])
        self.bad_words_token_ids = [list(token_ids) for token_ids in self.bad_words_token_ids or []]
        if self.logit_bias:
            self.logit_bias = {int(token): float(bias) for token, bias in self.logit_bias.items()}
        if self.top_k == -1:
            self.top_k = 0
        if self.guided_decoding is not None:
            if self.structured_outputs is not None:
                raise ValueError("guided_decoding is the older name of structured_outputs; give one of them")
            self.structured_outputs, self.guided_decoding = self.guided_decoding, None
        self._check()

    @property
    def num_sequences(self) -> int:
        """How many completions are generated, of which `n` are given."""
        return self.best_of or self.n

    @property
    def is_ranked(self) -> bool:
        """Whether more completions are generated than given."""
        return self.num_sequences > self.n

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is always taken."""
        return self.temperature < 1e-5

    def clone(self) -> SamplingParams:
        """A copy that shares nothing."""
        return msgspec.structs.replace(self)

    def _check(self) -> None:
        check_integer("n", self.n, 1, MAX_N)
        if self.best_of is not None:
            check_integer("best_of", self.best_of, self.n, MAX_N)
        check_number("presence_penalty", self.presence_penalty, -2.0, 2.0)
        check_number("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        check_number("repetition_penalty", self.repetition_penalty, 1e-3, 1e3)
        check_number("temperature", self.temperature, 0.0, 1e3)
        check_number("top_p", self.top_p, 1e-6, 1.0)
        check_integer("top_k", self.top_k, 0, 2**31 - 1)
        check_number("min_p", self.min_p, 0.0, 1.0)
        check_integer("min_tokens", self.min_tokens, 0, 2**31 - 1)
        if self.seed is not None:
            check_integer("seed", self.seed, *SEED_RANGE)
        if self.max_tokens is not None:
            check_integer("max_tokens", self.max_tokens, 1, 2**31 - 1)
            if self.min_tokens > self.max_tokens:
                raise ValueError(
                    f"min_tokens must be at most max_tokens={self.max_tokens}, got {self.min_tokens}"
                )
        if self.logprobs is not None and self.logprobs != -1:
            check_integer("logprobs", self.logprobs, 0, MAX_LOGPROBS)
        if self.prompt_logprobs is not None and self.prompt_logprobs != -1:
            check_integer("prompt_logprobs", self.prompt_logprobs, 0, MAX_LOGPROBS)
        if len(self.stop) > MAX_STOP_STRINGS:
            raise ValueError(f"stop takes at most {MAX_STOP_STRINGS} strings, got {len(self.stop)}")
        for text in self.stop:
            if not isinstance(text, str) or not text:
                raise ValueError(f"stop must hold strings that are not empty, got {text!r}")
        if sum(map(len, self.stop)) > MAX_STOP_CHARACTERS:
            raise ValueError(
                f"stop takes at most {MAX_STOP_CHARACTERS} characters in all, got {sum(map(len, self.stop))}"
            )
        if self.stop and not self.detokenize:
            raise ValueError("stop needs detokenize=True: stop strings are looked for in the text")
        for token in self.stop_token_ids:
            check_integer("stop_token_ids", token, 0, 2**31 - 1)
        if self.logit_bias is not None:
            if len(self.logit_bias) > MAX_LOGIT_BIAS:
                raise ValueError(
                    f"logit_bias takes at most {MAX_LOGIT_BIAS} tokens, got {len(self.logit_bias)}"
                )
            for token, bias in self.logit_bias.items():
                check_integer("logit_bias", token, 0, 2**31 - 1)
                check_number(f"logit_bias[{token}]", bias, -100.0, 100.0)
        self._check_bad_words()
        if self.allowed_token_ids is not None and not self.allowed_token_ids:
            raise ValueError("allowed_token_ids must not be empty; leave it out to allow every token")
        if self.ignore_eos and self.structured_outputs is not None:
            raise ValueError("ignore_eos: not with structured_outputs, which say where the output ends")

    def _check_bad_words(self) -> None:
        if len(self.bad_words) > MAX_BAD_WORDS:
            raise ValueError(f"bad_words takes at most {MAX_BAD_WORDS} words, got {len(self.bad_words)}")
        for word in self.bad_words:
            if not isinstance(word, str) or not word.strip():
                raise ValueError(f"bad_words must hold words that are not blank, got {word!r}")
        if sum(map(len, self.bad_words)) > MAX_BAD_WORD_CHARACTERS:
            total = sum(map(len, self.bad_words))
            raise ValueError(
                f"bad_words takes at most {MAX_BAD_WORD_CHARACTERS} characters in all, got {total}"
            )
        if not all(self.bad_words_token_ids):
            raise ValueError("bad_words_token_ids must hold lists of at least one token id")


def check_number(name: str, value: float, low: float, high: float) -> None:
    """Raise ValueError, naming the field, unless `value` is a finite number in `[low, high]`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name} must be a number, got {value!r}")
    if not low <= value <= high:
        raise ValueError(f"{name} must be between {low:g} and {high:g}, got {value:g}")


def check_integer(name: str, value: int, low: int, high: int) -> None:
    """Raise ValueError, naming the field, unless `value` is an integer in `[low, high]`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name} must be an integer, got {value!r}")
    if not low <= value <= high:
        top = f" and at most {high}" if high < 2**31 - 1 else ""
        raise ValueError(f"{name} must be at least {low}{top}, got {value}")
