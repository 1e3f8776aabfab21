"""What sampling remembers of one sequence from token to token."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from octavo.sampling.bad_words import BadWords
from octavo.sampling.token_counts import TokenCounts
from octavo.sampling_params import SamplingParams


def check_token_ids(params: SamplingParams, vocab_size: int, eos_token_ids: Sequence[int] = ()) -> None:
    """Raise ValueError, naming the field, for a token id that the model does not have.

    Checks `logit_bias`, `allowed_token_ids`, `stop_token_ids` and the tokens of `bad_words`, and that
    neither `min_tokens` nor `bad_words` forbid every token that `allowed_token_ids` allows. The front-end
    calls it when a request comes in, where the error can still be answered.
    """
    _check_in_vocabulary("logit_bias", params.logit_bias or (), vocab_size)
    for token_ids in params.bad_words_token_ids:
        _check_in_vocabulary("bad_words_token_ids", token_ids, vocab_size)
    _check_in_vocabulary("stop_token_ids", params.stop_token_ids, vocab_size)
    if params.allowed_token_ids is None:
        return
    _check_in_vocabulary("allowed_token_ids", params.allowed_token_ids, vocab_size)
    if params.min_tokens and {*params.stop_token_ids, *eos_token_ids}.issuperset(params.allowed_token_ids):
        raise ValueError(
            "allowed_token_ids holds only tokens that end the completion, which min_tokens="
            f"{params.min_tokens} forbids; allow another token or leave out min_tokens"
        )
    if {ids[0] for ids in params.bad_words_token_ids if len(ids) == 1}.issuperset(params.allowed_token_ids):
        raise ValueError("allowed_token_ids holds only tokens that bad_words forbids; allow another one")


def _check_in_vocabulary(name: str, token_ids: Iterable[int], vocab_size: int) -> None:
    for token_id in token_ids:
        if not 0 <= token_id < vocab_size:
            raise ValueError(
                f"{name} must hold token ids of the model's vocabulary, 0 to {vocab_size - 1}; got {token_id}"
            )


class SamplingState:
    """Parameters of one sequence with what its own tokens add to them.

    `output_token_ids` are those it has already (a resumed sequence); each new one goes through `append`,
    so that the state after any mix of the two is the same. Raises ValueError as `check_token_ids` does,
    for a prompt token outside the vocabulary, and for a sequence that samples without a seed.
    """

    __slots__ = (
        "_needs_no_work",
        "allowed_ids",
        "bad_words",
        "bias",
        "bias_ids",
        "counts",
        "mask",
        "min_tokens",
        "num_outputs",
        "num_prompt",
        "params",
        "plan",
        "seed",
        "stop_ids",
        "vocab_size",
    )

    def __init__(
        self,
        params: SamplingParams,
        prompt_token_ids: Sequence[int],
        output_token_ids: Sequence[int],
        eos_token_ids: Sequence[int],
        vocab_size: int,
    ) -> None:
        check_token_ids(params, vocab_size, eos_token_ids)
        if params.seed is None and not params.greedy:
            raise ValueError("seed must be set before sampling: draw one when the request comes in")
        self.params = params
        self.vocab_size = vocab_size
        self.seed = params.seed or 0
        self.num_prompt = len(prompt_token_ids)
        self.num_outputs = 0
        self.plan: object = None
        """What the sampler of a backend makes of `params` when it first sees them; its own affair."""

        self.mask: NDArray[np.uint32] | None = None
        """The tokens that may come next, `[ceil(V / 32)]` words: bit `i % 32` of word `i // 32` is token `i`.
        None allows all. See `restrict`."""

        # Where the output is structured, its end is known best by whoever makes the mask.
        self.min_tokens = 0 if params.structured_outputs is not None else params.min_tokens

        self.allowed_ids = None if params.allowed_token_ids is None else _ids(params.allowed_token_ids)
        self.bad_words: BadWords | None = None
        bias = dict(params.logit_bias or {})
        if params.bad_words_token_ids:
            self.bad_words = BadWords(params.bad_words_token_ids)
            bias |= dict.fromkeys(self.bad_words.always, -np.inf)
        self.bias_ids = _ids(bias)
        self.bias = np.array(list(bias.values()), dtype=np.float32)
        # A model's configuration may name end tokens that its vocabulary does not have.
        known_eos = (token_id for token_id in eos_token_ids if 0 <= token_id < vocab_size)
        self.stop_ids = _ids({*params.stop_token_ids, *known_eos})

        self.counts: TokenCounts | None = None
        if params.repetition_penalty != 1.0:
            _check_in_vocabulary("prompt_token_ids", set(prompt_token_ids), vocab_size)
            self.counts = TokenCounts(prompt_token_ids)
        elif params.frequency_penalty or params.presence_penalty:
            self.counts = TokenCounts()

        self._needs_no_work = (
            params.greedy
            and params.logprobs is None
            and self.allowed_ids is None
            and not bias
            and self.bad_words is None
            and self.counts is None
        )
        for token_id in output_token_ids:
            self.append(token_id)

    def append(self, token_id: int) -> None:
        """Take note of the next output token. O(1)."""
        self.num_outputs += 1
        if self.counts is not None:
            _check_in_vocabulary("output_token_ids", (token_id,), self.vocab_size)
            self.counts.add(token_id)
        if self.bad_words is not None:
            self.bad_words.append(token_id)

    def restrict(self, mask: NDArray[np.uint32]) -> None:
        """Allow only the tokens of `mask` to come next, in a structured output.

        `min_tokens` keeps out the tokens that end the sequence as long as there are others.
        """
        if self.num_outputs < self.params.min_tokens:
            going_on = mask.copy()
            words, bits = np.divmod(self.stop_ids, 32)
            np.bitwise_and.at(going_on, words, ~(np.uint32(1) << bits.astype(np.uint32)))
            mask = going_on if going_on.any() else mask
        self.mask = mask

    @property
    def position(self) -> int:
        """Position in the sequence, prompt included, of the token that comes next."""
        return self.num_prompt + self.num_outputs

    @property
    def forbids_stop(self) -> bool:
        """Whether `min_tokens` still keeps the sequence from ending."""
        return self.num_outputs < self.min_tokens

    @property
    def plain_greedy(self) -> bool:
        """Whether the next token is the argmax of the raw logits and nothing else is asked for."""
        return self._needs_no_work and not self.forbids_stop and self.mask is None


def _ids(token_ids: Iterable[int]) -> NDArray[np.int64]:
    return np.array(list(token_ids), dtype=np.int64)
