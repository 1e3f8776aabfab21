"""Log probabilities of the raw logits, before temperature, penalties and bias: vLLM's `raw_logprobs`."""

from __future__ import annotations

import math

import msgspec
import numpy as np
from numpy.typing import NDArray

from octavo.sampling.logits import leading, sanitise
from octavo.sampling.weights import ONE, weigh


class TokenLogprobs(msgspec.Struct, array_like=True):
    """Log probabilities at one position: the token that is there first, then the most likely ones.

    `ranks[0]` is the rank of that token; the others are ranked 1, 2, ... in order.
    """

    token_ids: list[int]
    logprobs: list[float]
    rank: int


def log_softmax(logits: NDArray[np.float32], token_ids: NDArray[np.int64]) -> NDArray[np.float64]:
    """`[N]` log probabilities of `token_ids` under a `[V]` row without NaN.

    The sum over the vocabulary is exact, of weights that were rounded to 2^-40 of the largest. A token with
    a logit of -inf has -inf.
    """
    top = logits.max()
    if top == -np.inf:
        return np.full(len(token_ids), -np.inf)
    log_sum = math.log(int(weigh(logits, top).sum()) / ONE)
    return logits[token_ids].astype(np.float64) - float(top) - log_sum


def token_logprobs(logits: NDArray[np.float32], token_id: int, count: int) -> TokenLogprobs:
    """`token_id` first, then the `count` most likely tokens (-1: all) of a `[V]` row without NaN.

    The token's rank is one more than the number of tokens strictly more likely.
    """
    top_ids = leading(logits, len(logits) if count == -1 else count) if count else np.empty(0, np.int64)
    token_ids = np.concatenate([[token_id], top_ids])
    return TokenLogprobs(
        token_ids=token_ids.tolist(),
        logprobs=log_softmax(logits, token_ids).tolist(),
        rank=1 + int(np.count_nonzero(logits > logits[token_id])),
    )


def prompt_logprobs(
    logits: NDArray[np.float32], token_ids: NDArray[np.integer], count: int
) -> list[TokenLogprobs]:
    """Log probabilities of `[P]` prompt tokens, each under the `[P, V]` row that predicted it.

    Row `i` is the model's output at the position before that of `token_ids[i]`. NaN counts as -inf.
    """
    return [
        token_logprobs(sanitise(row), int(token_id), count)
        for row, token_id in zip(logits, token_ids, strict=True)
    ]
