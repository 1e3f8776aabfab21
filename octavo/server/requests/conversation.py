"""A conversation as the one text that the model's chat template makes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from octavo.server.errors import APIError, bad_input
from octavo.server.requests.chat_request import ChatCompletionRequest, Message
from octavo.server.requests.prompts import Prompt, encode
from octavo.server.serving import Serving

ROLES = ("system", "developer", "user", "assistant")
_RESERVED = frozenset(
    (
        "self",
        "messages",
        "tools",
        "documents",
        "chat_template",
        "add_generation_prompt",
        "continue_final_message",
    )
)


async def chat_prompt(serving: Serving, body: ChatCompletionRequest, param: str = "messages") -> Prompt:
    """The conversation as the model is asked to go on with it; raises APIError that names what is wrong.

    One that is too long is an error about `param`.
    """
    text = await render(serving, body)
    [token_ids] = await encode(serving, [text], bool(body.add_special_tokens), param)
    return Prompt(token_ids, text)


async def render(serving: Serving, body: ChatCompletionRequest) -> str:
    """The prompt's text, written on a thread: a template must not hold up the streams of others.

    Raises APIError for messages that are not text, for what the template refuses, and for one that takes too
    long.
    """
    if body.chat_template is not None and not serving.config.trust_request_chat_template:
        raise APIError(
            400,
            "chat_template: templates of requests are refused; start the server with "
            "--trust-request-chat-template to allow them",
            "chat_template",
        )
    kwargs = body.chat_template_kwargs or {}
    for name in kwargs:
        if name in _RESERVED:
            raise APIError(400, f"chat_template_kwargs must not hold {name!r}", "chat_template_kwargs")
    if body.reasoning_effort is not None:
        # As in vLLM: some templates know the one, some the other.
        thinks = {"enable_thinking": body.reasoning_effort != "none"}
        kwargs = {"reasoning_effort": body.reasoning_effort, **thinks, **kwargs}
    template = body.chat_template or serving.chat_template
    messages = [_plain(f"messages[{index}]", each) for index, each in enumerate(body.messages)]
    if "developer" not in (template or serving.engine.tokenizer.chat_template or ""):
        # OpenAI's newer name for system messages, which the templates of open models do not know.
        for message in messages:
            message["role"] = "system" if message["role"] == "developer" else message["role"]
    continues = bool(body.continue_final_message)
    write = partial(
        serving.engine.tokenizer.apply_chat_template,
        messages,
        documents=body.documents,
        add_generation_prompt=not continues and body.add_generation_prompt is not False,
        continue_final_message=continues,
        chat_template=template,
        **kwargs,
    )
    with bad_input(("messages", "chat_template", "chat_template_kwargs")):
        return await asyncio.to_thread(_within, serving.config.chat_template_timeout, write)


def _within(seconds: float, write: Callable[[], str]) -> str:
    from octavo.tokenizer.chat_template import rendering_time  # jinja2 takes 50 ms to import

    with rendering_time(seconds):
        return write()


def _plain(path: str, message: Message) -> dict[str, Any]:
    """A message as templates take it; the tokenizer checks its content."""
    if message.role in ("tool", "function") or message.tool_calls or message.function_call:
        raise APIError(400, f"{path}: tool calling is not supported yet", path)
    if message.role not in ROLES:
        raise APIError(400, f"{path}.role must be one of {', '.join(ROLES)}; got {message.role[:50]!r}", path)
    if message.audio:
        raise APIError(400, f"{path}.audio: audio is not supported yet", path)
    return {
        "role": message.role,
        "content": message.content,
        "name": message.name,
        "reasoning_content": message.reasoning_content or message.reasoning,
    }
