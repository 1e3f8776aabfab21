"""A line of log for each prompt, with its text, as `--enable-log-requests` asks for."""

from __future__ import annotations

import logging

from octavo.sampling_params import SamplingParams
from octavo.server.requests.prompts import Prompt

_log = logging.getLogger(__name__)


def log_prompt(response_id: str, prompt: Prompt, params: SamplingParams, most: int | None) -> None:
    """Log a prompt and its parameters; `most` characters and token ids are shown, all if that is None."""
    text = None if prompt.text is None else prompt.text[:most]
    # %r keeps what a client sent on one line: it can not write a line of its own.
    _log.info(
        "received %s: %d tokens, prompt: %r, token ids: %s, %r",
        response_id,
        len(prompt.token_ids),
        text,
        prompt.token_ids[:most],
        params,
    )
