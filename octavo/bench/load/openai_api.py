"""One turn of a conversation over the OpenAI API, timed."""

from __future__ import annotations

import json
import time
from typing import Any

from octavo.bench.dataset.conversation import Conversation, Turn
from octavo.bench.load.config import LoadConfig
from octavo.bench.load.http_stream import HTTPClient, RequestError
from octavo.bench.load.outcome import Outcome
from octavo.tokenizer.tokenizer import Tokenizer


class OpenAIServer:
    """A server's completions or chat completions, streamed."""

    def __init__(self, config: LoadConfig, api_key: str | None, tokenizer: Tokenizer) -> None:
        """`tokenizer` counts the answers of a server that does not."""
        self._config = config
        self._tokenizer = tokenizer
        self.client = HTTPClient(config.url, api_key)
        self.model = config.model or ""

    async def find_model(self) -> None:
        """Take the server's first model where none was named. Raises RequestError when it names none."""
        if self.model:
            return
        listed = await self.client.json("GET", "/v1/models")
        try:
            self.model = listed["data"][0]["id"]
        except (KeyError, IndexError, TypeError) as error:
            raise RequestError(0, "the server names no model; give one with --model") from error

    async def converse(self, conversation: Conversation, began: float) -> list[Outcome]:
        """Each turn after the answer to the one before it; what follows a failed one is not sent."""
        outcomes: list[Outcome] = []
        for number, turn in enumerate(conversation.turns):
            prompt_tokens = turn.num_tokens + sum(o.prompt_tokens + o.output_tokens for o in outcomes[-1:])
            outcome = Outcome(prompt_tokens)
            answers = [outcome.text for outcome in outcomes]
            outcomes.append(outcome)
            try:
                await self._ask(conversation.turns[: number + 1], answers, turn, outcome, began)
            except RequestError as error:
                outcome.error = str(error)
                break
        return outcomes

    async def _ask(
        self, turns: tuple[Turn, ...], answers: list[str], turn: Turn, outcome: Outcome, began: float
    ) -> None:
        body = self._body(turns, answers, turn)
        outcome.start = time.perf_counter() - began
        counted: dict[str, Any] | None = None
        texts: list[str] = []
        async with self.client.request("POST", self._config.path, body) as answer:
            sent = last = answer.sent
            outcome.start = sent - began
            async for data in answer.events():
                now = time.perf_counter()
                chunk = _parse(data)
                if usage := chunk.get("usage"):
                    counted = usage
                text = _text(chunk)
                if text is None:
                    continue
                if texts:
                    outcome.gaps.append(now - last)
                else:
                    outcome.ttft = now - sent
                texts.append(text)
                last = now
            outcome.latency = last - sent
        if not texts:
            raise RequestError(0, "the answer has no token")
        outcome.text = "".join(texts)
        if counted is not None:
            outcome.output_tokens = int(counted.get("completion_tokens") or 0)
            outcome.prompt_tokens = int(counted.get("prompt_tokens") or outcome.prompt_tokens)
        if not outcome.output_tokens:
            outcome.output_tokens = len(self._tokenizer.encode(outcome.text, add_special_tokens=False))

    def _body(self, turns: tuple[Turn, ...], answers: list[str], turn: Turn) -> dict[str, Any]:
        config = self._config
        body: dict[str, Any] = {
            "model": self.model,
            "max_tokens": turn.output_len,
            "temperature": config.temperature,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if config.backend == "openai":
            said = [text for pair in zip(turns, answers, strict=False) for text in (pair[0].text, pair[1])]
            body["prompt"] = "".join([*said, turn.text])
        else:
            messages = [{"role": "user", "content": turns[0].text}]
            for answer, following in zip(answers, turns[1:], strict=True):
                messages.append({"role": "assistant", "content": answer})
                messages.append({"role": "user", "content": following.text})
            body["messages"] = messages
        if config.ignore_eos:
            body["ignore_eos"] = True
        return body | (config.extra_body or {})


def _parse(data: bytes) -> dict[str, Any]:
    try:
        chunk = json.loads(data)
    except ValueError as error:
        raise RequestError(0, f"the server streamed no JSON: {data[:80]!r}") from error
    if not isinstance(chunk, dict):
        raise RequestError(0, f"the server streamed no object: {data[:80]!r}")
    if failure := chunk.get("error"):
        message = failure.get("message") if isinstance(failure, dict) else failure
        raise RequestError(0, f"in the stream: {message}")
    return chunk


def _text(chunk: dict[str, Any]) -> str | None:
    """The piece's text; None for one without a choice, a chat's role alone, and the end of a text.

    An empty text counts as a token where no finish reason comes with it: half a character is held back.
    """
    for choice in chunk.get("choices") or ():
        delta = choice.get("delta")
        if delta is not None:
            text = delta.get("content") or delta.get("reasoning_content")
            return text or None
        text = choice.get("text")
        if text or (text is not None and choice.get("finish_reason") is None):
            return str(text)
    return None
