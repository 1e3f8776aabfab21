"""Chat messages to one prompt, by the Jinja template that comes with a model.

The environment is the one that templates are written for, that of transformers' `apply_chat_template`. It is
sandboxed, with trim_blocks, lstrip_blocks, loop controls, `raise_exception`, `strftime_now`, a `tojson` that
does not escape HTML, and `{% generation %}`. A template comes with the model and is trusted no more than it:
what it may loop and write is bounded.
"""

from __future__ import annotations

import datetime
import functools
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from octavo.tokenizer.chat_message import normalise_messages

MAX_TEMPLATE_CHARS = 1 << 20
MAX_PROMPT_CHARS = 1 << 25
"""Longest prompt that a template may write; beyond any model's length."""
MAX_LOOP_ITERATIONS = 2_000_000
"""Iterations of all loops together while a template renders once: a second or two at the most."""
MAX_REPEATED_LENGTH = 1 << 20
"""Longest string or list that a template may make by multiplication."""

_CONTINUE_TAG = "\ue000continue here\ue000 "
"""Marks the end of the final message while it renders. Its last space shows whether the template trims."""

_iterations_left: ContextVar[int] = ContextVar("iterations_left")
_deadline: ContextVar[float] = ContextVar("deadline", default=math.inf)


@contextmanager
def rendering_time(seconds: float) -> Iterator[None]:
    """Let each template inside render for so long: past it, rendering raises ValueError at its next step."""
    token = _deadline.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _deadline.reset(token)


def render_chat(
    source: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] | None,
    documents: Sequence[Mapping[str, Any]] | None,
    add_generation_prompt: bool,
    continue_final_message: bool,
    variables: Mapping[str, Any],
) -> str:
    """The prompt that template `source` makes of `messages`.

    With `continue_final_message` the prompt ends where the final message's content ends, so that the model
    goes on with it. `variables` are more names for the template. Raises ValueError for a malformed message
    (naming `messages[i]`), and for a template that does not parse, loops for ever or writes without end.
    Where the template itself refuses, the error has the template's words.
    """
    if continue_final_message and add_generation_prompt:
        raise ValueError(
            "continue_final_message and add_generation_prompt exclude each other; set one to false"
        )
    template = compile_template(source)
    chat = normalise_messages(messages, as_parts=template.takes_parts)
    if continue_final_message:
        _mark_end(chat[-1])
    prompt = template.render(
        {
            **variables,
            "messages": chat,
            "tools": list(tools) if tools is not None else None,
            "documents": list(documents) if documents is not None else None,
            "add_generation_prompt": add_generation_prompt,
        }
    )
    return _cut_at_mark(prompt) if continue_final_message else prompt


class CompiledTemplate:
    """A template ready to render. `takes_parts`: it loops over a message's content, a list of parts."""

    def __init__(self, source: str) -> None:
        if len(source) > MAX_TEMPLATE_CHARS:
            raise ValueError(f"chat template: at most {MAX_TEMPLATE_CHARS} characters are allowed")
        try:
            self.takes_parts = _loops_over_content(_environment.parse(source))
            self._template = _environment.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise ValueError(f"chat template: line {error.lineno}: {error.message}") from error
        except RecursionError as error:
            raise ValueError("chat template: it is nested too deeply") from error

    def render(self, variables: Mapping[str, Any]) -> str:
        """The text that the template writes; ValueError where it fails or goes past a bound."""
        token = _iterations_left.set(MAX_LOOP_ITERATIONS)
        pieces, length = [], 0
        try:
            for piece in self._template.generate(variables):
                _check_time()
                pieces.append(piece)
                length += len(piece)
                if length > MAX_PROMPT_CHARS:
                    raise ValueError(f"it wrote more than {MAX_PROMPT_CHARS} characters")
        except Exception as error:  # whatever a template does wrong: raise_exception, undefined names, types
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"chat template: {reason}") from error
        finally:
            _iterations_left.reset(token)
        return "".join(pieces)


@functools.lru_cache(maxsize=32)
def compile_template(source: str) -> CompiledTemplate:
    """Compile a template, once for each source."""
    return CompiledTemplate(source)


def _mark_end(message: dict[str, Any]) -> None:
    """Append the mark to a message's text."""
    content = message.get("content")
    if isinstance(content, list) and content:
        content[-1]["text"] += _CONTINUE_TAG
    elif isinstance(content, str):
        message["content"] = content + _CONTINUE_TAG
    else:
        raise ValueError("continue_final_message: the final message has no content to continue")


def _cut_at_mark(prompt: str) -> str:
    at = prompt.rfind(_CONTINUE_TAG.rstrip())
    if at < 0:
        raise ValueError("continue_final_message: the chat template leaves the final message's text out")
    # A template that trims took the mark's space: then it would have trimmed the text's own end, too.
    return prompt[:at] if prompt.startswith(_CONTINUE_TAG, at) else prompt[:at].rstrip()


class _Environment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """transformers' environment, with every loop counted, every assignment measured, products bounded."""

    intercepted_binops = frozenset({"*", "**"})

    def _parse(self, source: str, name: str | None, filename: str | None) -> jinja2.nodes.Template:
        tree = super()._parse(source, name, filename)
        for loop in tree.find_all(jinja2.nodes.For):
            loop.iter = _filtered(loop.iter, "_counted", loop.lineno)
        for assignment in tree.find_all(jinja2.nodes.Assign):
            assignment.node = _filtered(assignment.node, "_measured", assignment.lineno)
        for block in tree.find_all(jinja2.nodes.AssignBlock):
            block.filter = _filtered(block.filter, "_measured", block.lineno)
        return tree

    def call(self, context: jinja2.runtime.Context, called: Any, /, *args: Any, **kwargs: Any) -> Any:
        _check_time()  # Macros can call each other without a loop.
        return super().call(context, called, *args, **kwargs)

    def call_binop(self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" and not (abs(left) <= 1 << 32 and abs(right) <= 64):
            raise jinja2.exceptions.SecurityError("a power is too large")
        if operator == "*":
            for value, count in ((left, right), (right, left)):
                if isinstance(value, Sequence) and len(value) * count > MAX_REPEATED_LENGTH:
                    raise jinja2.exceptions.SecurityError("a repeated string or list is too long")
        return super().call_binop(context, operator, left, right)


class _Generation(jinja2.ext.Extension):
    """`{% generation %}` marks what the assistant said, for training; here it only opens a scope."""

    tags = {"generation"}  # noqa: RUF012 (declared so by jinja2)

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body, lineno=line)


def _filtered(node: jinja2.nodes.Node | None, name: str, line: int) -> jinja2.nodes.Filter:
    return jinja2.nodes.Filter(node, name, [], [], None, None, lineno=line)


def _counted(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        _check_time()
        left = _iterations_left.get() - 1
        if left < 0:
            raise jinja2.exceptions.SecurityError(f"its loops ran more than {MAX_LOOP_ITERATIONS} times")
        _iterations_left.set(left)
        yield value


def _check_time() -> None:
    if time.monotonic() > _deadline.get():
        raise jinja2.exceptions.SecurityError("it took too long")


def _timed(function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that looks at the time first: a long chain of them needs neither loop nor call."""

    @functools.wraps(function)
    def timed(*args: Any, **kwargs: Any) -> Any:
        _check_time()
        return function(*args, **kwargs)

    return timed


def _measured(value: Any) -> Any:
    # A string that is joined to itself in a loop doubles each time.
    if isinstance(value, str | list | tuple) and len(value) > MAX_PROMPT_CHARS:
        raise jinja2.exceptions.SecurityError(f"it made a value longer than {MAX_PROMPT_CHARS}")
    return value


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.exceptions.TemplateError(message)


def _strftime_now(format: str) -> str:
    return datetime.datetime.now().strftime(format)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _make_environment() -> _Environment:
    environment = _Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    filters: dict[str, Callable[..., Any]] = {
        "tojson": _to_json,
        "_counted": _counted,
        "_measured": _measured,
    }
    environment.filters = {
        name: _timed(function) for name, function in {**environment.filters, **filters}.items()
    }
    environment.globals.update(raise_exception=_raise_exception, strftime_now=_strftime_now)
    return environment


_environment = _make_environment()


def _loops_over_content(tree: jinja2.nodes.Template) -> bool:
    """Whether the template expects a message's content to be a list of parts, and only that.

    It does where it loops over `X.content`, or over a name set to that, and nowhere asks `is string`.
    """

    def is_content(node: jinja2.nodes.Node) -> bool:
        match node:
            case jinja2.nodes.Filter(node=jinja2.nodes.Node() as inner):
                return node.name in ("_counted", "_measured") and is_content(inner)
            case jinja2.nodes.Getattr(attr="content"):
                return True
            case jinja2.nodes.Getitem(arg=jinja2.nodes.Const(value="content")):
                return True
            case jinja2.nodes.Name():
                return node.name in names
        return False

    names: set[str] = set()
    for assignment in tree.find_all(jinja2.nodes.Assign):
        if isinstance(assignment.target, jinja2.nodes.Name) and is_content(assignment.node):
            names.add(assignment.target.name)
    loops = any(is_content(loop.iter) for loop in tree.find_all(jinja2.nodes.For))
    return loops and not any(test.name == "string" for test in tree.find_all(jinja2.nodes.Test))
