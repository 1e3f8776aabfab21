"""A model in this terminal's own engine process, as text that comes piece by piece."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from typing import Any

from octavo.cli.errors import CommandError
from octavo.config import EngineConfig
from octavo.frontend.async_engine import AsyncEngine, EngineDeadError
from octavo.machine.event_loop import loop_factory
from octavo.outputs import RequestOutput
from octavo.sampling_params import RequestOutputKind, SamplingParams


class LocalModel:
    """An engine whose event loop runs only while text is waited for: Ctrl-C stops an answer at once."""

    def __init__(self, config: EngineConfig) -> None:
        """Raises ValueError for a model that can not run, CommandError when the engine does not start."""
        self.name = config.model or "the demo model"
        self._runner = asyncio.Runner(loop_factory=loop_factory())
        self._count = 0
        try:
            self._engine = self._runner.run(AsyncEngine.start(config))
        except EngineDeadError as error:
            raise CommandError(str(error)) from error

    def chat(self, messages: list[dict[str, str]], fields: dict[str, Any]) -> Iterator[str]:
        """The answer to a conversation; raises ValueError when it does not fit the model."""
        tokenizer = self._engine.tokenizer
        text = tokenizer.apply_chat_template(messages)
        return self._stream(tokenizer.encode(text, add_special_tokens=False), fields)

    def complete(self, prompt: str, fields: dict[str, Any]) -> Iterator[str]:
        """The completion of a text; raises ValueError when it does not fit the model."""
        return self._stream(prompt, fields)

    def close(self) -> None:
        """Stop the engine."""
        self._runner.run(self._engine.stop())
        self._runner.close()

    def _stream(self, prompt: str | list[int], fields: dict[str, Any]) -> Iterator[str]:
        self._count += 1
        params = SamplingParams(**{"max_tokens": None, **fields}, output_kind=RequestOutputKind.DELTA)
        outputs = self._engine.generate(prompt, params, str(self._count))
        try:
            while (output := self._runner.run(_next(outputs))) is not None:
                yield output.outputs[0].text
        except EngineDeadError as error:
            raise CommandError(str(error)) from error
        finally:
            self._runner.run(_close(outputs))


async def _next(outputs: AsyncGenerator[RequestOutput, None]) -> RequestOutput | None:
    return await anext(outputs, None)


async def _close(outputs: AsyncGenerator[RequestOutput, None]) -> None:
    await outputs.aclose()
