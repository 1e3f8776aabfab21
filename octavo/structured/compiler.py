"""Compiles grammars, on threads of its own: whoever waits for one can go on with other work."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import msgspec

from octavo.structured.grammar import grammar_of
from octavo.structured.matcher import Matcher, error_of
from octavo.structured.params import StructuredOutputsParams
from octavo.structured.vocabulary import Vocabulary, grammar_vocabulary, vocabulary_of

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer

    from octavo.tokenizer.tokenizer import Tokenizer

_NUM_THREADS = 2
_STACK_BYTES = 256 << 20
"""llguidance recurses for a rule that is another rule, some 4 kB each time; within the bounds of a request's
size that may be 10,000 times. Memory is taken as it is used."""
_MOST_KEPT = 64
_MOST_KEPT_CHARACTERS = 1 << 20
"""Of the grammars that are kept, as text: memory follows from it."""
_MOST_LEXER_STATES = 50_000
"""Some 2 kB each, for a sequence."""
_MOST_SYMBOLS = 200_000


class GrammarCompiler:
    """Makes matchers for one model; grammars that were compiled lately are kept.

    The tokenizer is asked for, and llguidance imported, when the first grammar comes. Safe to use from
    several threads.
    """

    def __init__(
        self, tokenizer: Callable[[], Tokenizer], vocab_size: int, eos_token_ids: Sequence[int]
    ) -> None:
        self._load = tokenizer
        self._vocab_size = vocab_size
        self._eos_token_ids = list(eos_token_ids)
        self._lock = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None
        self._vocabulary_lock = threading.Lock()
        self._vocabulary: Vocabulary | None = None
        self._tokens: LLTokenizer | None = None
        self._kept: OrderedDict[bytes, LLMatcher] = OrderedDict()
        self._kept_characters = 0

    def check(self, params: StructuredOutputsParams) -> None:
        """Raise ValueError, naming the field, unless there is such a grammar. Blocks while it compiles."""
        self.submit(params).result()

    def submit(
        self, params: StructuredOutputsParams, output_token_ids: Sequence[int] = ()
    ) -> Future[Matcher]:
        """A matcher that has followed `output_token_ids`, once there is one.

        The future's exception is a ValueError that begins with the field at fault.
        """
        key = _key(params)
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None:
                self._kept.move_to_end(key)
            if self._executor is None:
                self._executor = _start_threads()
        if kept is None or output_token_ids:
            return self._executor.submit(self._make, key, params, list(output_token_ids))
        ready: Future[Matcher] = Future()
        ready.set_result(Matcher(kept.deep_copy(), self._vocab_size))
        return ready

    def _make(self, key: bytes, params: StructuredOutputsParams, output_token_ids: list[int]) -> Matcher:
        with self._lock:
            grammar = self._kept.get(key)
            if grammar is not None:
                self._kept.move_to_end(key)
        if grammar is None:
            grammar = self._compile(params)
            self._keep(key, grammar)
        return Matcher(grammar.deep_copy(), self._vocab_size, output_token_ids)

    def _compile(self, params: StructuredOutputsParams) -> LLMatcher:
        from llguidance import LLMatcher

        tokens, special_tokens = self._read_tokens()
        text = grammar_of(params, special_tokens)
        field = f"structured_outputs.{params.kind}"
        try:
            grammar = LLMatcher(tokens, text, log_level=0, limits=_limits())
            first = grammar.deep_copy()
            if not grammar.is_error():
                first.compute_bitmask()
        except BaseException as error:  # a panic in Rust is no Exception
            raise ValueError(f"{field}: llguidance failed: {error}") from error
        if first.is_error():
            reason = error_of(first)
            # What llguidance calls it when the very first token is impossible.
            reason = "nothing matches it" if reason.startswith("NoExtension") else reason
            raise ValueError(f"{field}: {reason}")
        return grammar

    @property
    def vocabulary(self) -> Vocabulary:
        """The model's tokens; read when the first grammar is compiled, or now."""
        return self._vocabulary or self._read_vocabulary()

    def use(self, vocabulary: Vocabulary) -> None:
        """Take the tokens from one who has them, in place of the tokenizer's, if they were not read yet."""
        # Without the lock, which is held while they are compiled: the caller has other things to do.
        self._vocabulary = self._vocabulary or vocabulary

    def _read_vocabulary(self) -> Vocabulary:
        if self._vocabulary is None:
            self._vocabulary = vocabulary_of(self._load(), self._vocab_size)
        return self._vocabulary

    def _read_tokens(self) -> tuple[LLTokenizer, frozenset[str]]:
        with self._vocabulary_lock:
            vocabulary = self._read_vocabulary()
            if self._tokens is None:
                self._tokens = grammar_vocabulary(vocabulary, self._eos_token_ids)
            return self._tokens, vocabulary.special_tokens

    def _keep(self, key: bytes, grammar: LLMatcher) -> None:
        with self._lock:
            if key in self._kept:
                return
            self._kept[key] = grammar
            self._kept_characters += len(key)
            while len(self._kept) > 1 and (
                len(self._kept) > _MOST_KEPT or self._kept_characters > _MOST_KEPT_CHARACTERS
            ):
                oldest, _ = self._kept.popitem(last=False)
                self._kept_characters -= len(oldest)


def _start_threads() -> ThreadPoolExecutor:
    executor = ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="grammar")
    usual = threading.stack_size(_STACK_BYTES)
    try:  # a thread starts with a job for which none is idle
        all_started = threading.Barrier(_NUM_THREADS)
        for started in [executor.submit(all_started.wait) for _ in range(_NUM_THREADS)]:
            started.result()
    finally:
        threading.stack_size(usual)
    return executor


def _limits() -> LLParserLimits:
    from llguidance import LLParserLimits

    return LLParserLimits(
        max_lexer_states=_MOST_LEXER_STATES,
        max_grammar_size=_MOST_SYMBOLS,
        verbose_errors=False,
    )


def _key(params: StructuredOutputsParams) -> bytes:
    """Equal for equal parameters, the order of a schema's properties included: it is the output's."""
    try:
        return msgspec.msgpack.encode(params)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"structured_outputs.{params.kind}: not plain JSON: {error}") from None
