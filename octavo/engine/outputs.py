"""What a sequence's new tokens mean for it: it grows by them, ends with them or not, and says so."""

from __future__ import annotations

import logging
from collections.abc import Sequence as Tokens

from octavo.engine.messages import SequenceOutput
from octavo.engine.sequence import Sequence
from octavo.sampling.sampler import SampledToken

_log = logging.getLogger(__name__)


def append(sequence: Sequence, token: SampledToken, further: Tokens[SampledToken] = ()) -> SequenceOutput:
    """Give a sequence the tokens that a step sampled for it; the output has a finish reason if it ends.

    There are `further` tokens after the first where drafts came true. Those drafts, all of the tokens but the
    last, are in `sequence.token_ids` already (`Scheduler.update`). A sequence whose output can not go on as
    its grammar wants ends before the token that the grammar does not allow.
    """
    matcher = sequence.matcher
    if matcher is not None:
        for count, each in enumerate((token, *further)):
            matcher.append(each.token_id)
            if matcher.failure:
                _log.warning("request %s can not go on: %s", sequence.request_id, matcher.failure)
                if count == 0:
                    return SequenceOutput(sequence.request_id, [], finish_reason="abort")
                output = _output(sequence, token, further[: count - 1])
                output.finish_reason = "abort"
                return output
    sequence.token_ids.append(further[-1].token_id if further else token.token_id)
    output = _output(sequence, token, further)
    if ended := sequence.finish_reason():
        output.finish_reason, output.stop_reason = ended
    return output


def _output(sequence: Sequence, token: SampledToken, further: Tokens[SampledToken]) -> SequenceOutput:
    """What is said of the tokens; and the log probabilities of the prompt, once, where they are wanted."""
    output = SequenceOutput(
        sequence.request_id,
        [token.token_id],
        num_cached_tokens=sequence.num_cached_tokens,
        scheduled_time=sequence.scheduled_time,
    )
    if token.logprobs is not None:
        output.logprobs = [token.logprobs]
    for each in further:
        output.token_ids.append(each.token_id)
        if output.logprobs is not None and each.logprobs is not None:
            output.logprobs.append(each.logprobs)
    if sequence.num_prompt_logprobs is not None:
        output.prompt_logprobs = sequence.prompt_logprobs
        sequence.num_prompt_logprobs = None
    return output
