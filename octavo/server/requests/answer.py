"""An answer as events, made once from the engine's outputs: each API only writes them down.

A choice is begun, goes on with text, and ends:

    Begin(choice) Text(choice)... End(choice)

Events come in batches, one for each output of the engine, whether the answer is streamed or not. In a batch
the last text of a choice comes right before its end, so that an API may write both as one.

What the text of a model means beyond itself (its thinking, calls of tools) belongs between the engine and
the APIs: `Answer._deltas` makes events of other kinds of it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

import msgspec

from octavo.outputs import CompletionOutput, Logprob, RequestOutput
from octavo.server.requests.generation import Generation
from octavo.server.requests.merge import merge
from octavo.server.requests.prompts import Prompt
from octavo.server.requests.request_log import log_prompt
from octavo.server.requests.usage import Usage, UsageCount
from octavo.server.serving import Serving

Logprobs = dict[int, Logprob]


class Begin(msgspec.Struct):
    """There is something of a choice; choices of one prompt follow those of the prompt before it."""

    choice: int
    prompt: Prompt
    prompt_logprobs: list[Logprobs | None] | None
    """Those of the prompt's tokens, None where they were not asked for."""
    usage: Usage
    """Tokens of the whole answer so far, those of this batch included."""


class Text(msgspec.Struct):
    """More of a choice: tokens, with log probabilities where they were asked for, and the text they add.

    The text may be empty, for tokens that show no character yet; the tokens too, for an end without any.
    """

    choice: int
    text: str
    token_ids: list[int]
    logprobs: list[Logprobs] | None


class End(msgspec.Struct):
    """A choice is complete, or ended early; `reason` and `stop_reason` are those of `CompletionOutput`."""

    choice: int
    reason: str
    stop_reason: int | str | None
    usage: Usage
    """Tokens of the whole answer so far."""


Event = Begin | Text | End


class AnswerWriter(Protocol):
    """Writes the events of one answer in the form of an API."""

    def write(self, events: Sequence[Event]) -> bytes:
        """A batch of events; nothing where the API has nothing to say of it."""
        ...

    def close(self) -> bytes:
        """What comes after the last event.

        Raises APIError for an answer that ended as the API knows no end.
        """
        ...

    def failed(self, error: Exception) -> bytes:
        """The end of an answer that an error cuts off."""
        ...


@dataclass(slots=True)
class Choice:
    """A whole choice: its beginning, all of its text, its end."""

    begin: Begin
    text: Text
    end: End


class Answer:
    """Runs a generation, once."""

    def __init__(self, serving: Serving, generation: Generation) -> None:
        self._serving = serving
        self._generation = generation
        self._count = UsageCount(generation.prompts)
        self._begun: set[int] = set()

    @property
    def usage(self) -> Usage:
        """Tokens of the answer so far."""
        return self._count.usage()

    async def events(self) -> AsyncGenerator[list[Event], None]:
        """The events as they come, in batches.

        Closing it aborts what is not finished. Raises APIError when the server is too busy to take it, and
        what `Generation.run` does.
        """
        serving, generation = self._serving, self._generation
        if serving.config.enable_log_requests:
            for prompt, params in zip(generation.prompts, generation.params, strict=True):
                log_prompt(generation.response_id, prompt, params, serving.config.max_log_len)
        lengths = [len(prompt.token_ids) for prompt in generation.prompts]
        tickets = await serving.state.admit(lengths, generation.options)
        try:
            streams = [generation.run(serving, index, ticket) for index, ticket in enumerate(tickets)]
            async with aclosing(merge(streams)) as outputs:
                async for prompt_index, output in outputs:
                    yield self._events_of(prompt_index, output)
        finally:
            for ticket in tickets:
                ticket.leave()

    async def written(self, writer: AnswerWriter) -> AsyncGenerator[bytes, None]:
        """The answer as `writer` writes it, a piece for each batch of which it says anything."""
        async with aclosing(self.events()) as batches:
            async for events in batches:
                if content := writer.write(events):
                    yield content
        if content := writer.close():
            yield content

    async def choices(self) -> list[Choice]:
        """The whole choices, in order."""
        begun: dict[int, Begin] = {}
        texts: dict[int, Text] = {}
        whole: list[Choice] = []
        async with aclosing(self.events()) as batches:
            async for events in batches:
                for event in events:
                    index = event.choice
                    if isinstance(event, Begin):
                        begun[index] = event
                    elif isinstance(event, Text):
                        texts[index] = _joined(texts[index], event) if index in texts else event
                    else:
                        whole.append(Choice(begun[index], texts[index], event))
        return sorted(whole, key=lambda choice: choice.end.choice)

    def _events_of(self, prompt_index: int, output: RequestOutput) -> list[Event]:
        """The batch for an output, which holds only what is new."""
        generation, count = self._generation, self._count
        if generation.prompt_only:
            _drop_tokens(output)
        count.add(prompt_index, output)
        events: list[Event] = []
        for completion in output.outputs:
            choice = prompt_index * generation.num_choices + completion.index
            if choice not in self._begun:
                self._begun.add(choice)
                prompt = generation.prompts[prompt_index]
                events.append(Begin(choice, prompt, output.prompt_logprobs, count.usage()))
            events += self._deltas(choice, completion)
            if completion.finish_reason is not None:
                events.append(End(choice, completion.finish_reason, completion.stop_reason, count.usage()))
        return events

    def _deltas(self, choice: int, completion: CompletionOutput) -> Iterable[Event]:
        """What is new of a choice: at least one event."""
        return (Text(choice, completion.text, completion.token_ids, completion.logprobs),)


def _drop_tokens(output: RequestOutput) -> None:
    for completion in output.outputs:
        completion.text, completion.token_ids = "", []
        completion.logprobs = None if completion.logprobs is None else []


def _joined(text: Text, more: Text) -> Text:
    logprobs = None if text.logprobs is None else [*text.logprobs, *(more.logprobs or ())]
    return Text(text.choice, text.text + more.text, text.token_ids + more.token_ids, logprobs)
