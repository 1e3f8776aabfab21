"""Bounds on the log probabilities that a request may ask for: how many a token, and how many in all."""

from __future__ import annotations

from collections.abc import Sequence

from octavo.sampling_params import SamplingParams
from octavo.server.errors import APIError
from octavo.server.requests.prompts import Prompt

MAX_ENTRIES = 1 << 23
"""Most entries of a response. One takes some 200 bytes until it is sent; a prompt's come all at once."""


def check_logprobs(
    prompts: Sequence[Prompt], params: Sequence[SamplingParams], most: int, vocab_size: int, param: str
) -> None:
    """Raise APIError, about `param` or prompt_logprobs, for more than `most` a token or MAX_ENTRIES in all.

    -1 is the whole vocabulary, as a request's count (allowed where `most` is -1) and as `most`.
    """
    entries = 0
    for prompt, each in zip(prompts, params, strict=True):
        for name, count, num_tokens in (
            (param, each.logprobs, (each.max_tokens or 0) * each.num_sequences),
            ("prompt_logprobs", each.prompt_logprobs, len(prompt.token_ids)),
        ):
            if count is None:
                continue
            if most != -1 and not 0 <= count <= most:
                asked = "the whole vocabulary" if count == -1 else str(count)
                raise APIError(
                    400,
                    f"{name} must be at most {most} on this server (--max-logprobs), got {asked}",
                    name,
                )
            entries += num_tokens * (vocab_size if count == -1 else count + 1)
            if entries > MAX_ENTRIES:
                raise APIError(
                    400,
                    f"{name} makes {entries} log probabilities or more, over the {MAX_ENTRIES} that a "
                    "response may have; ask for fewer tokens, choices, prompts or logprobs",
                    name,
                )
