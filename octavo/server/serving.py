"""What the handlers share: the engine, the settings, the server's state, and the model's names."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING

from fastapi import Request

from octavo import logs
from octavo.observe.tracing import RequestTrace, Tracer
from octavo.sampling_params import SamplingParams
from octavo.server.config import ServerConfig
from octavo.server.errors import APIError
from octavo.server.guards.auth import api_key
from octavo.server.guards.drain import Drain
from octavo.server.state import ServerState

if TYPE_CHECKING:
    from octavo.frontend.async_engine import AsyncEngine


@dataclass(slots=True)
class Serving:
    """The state of the app; `chat_template` is the text of the one that replaces the model's."""

    engine: AsyncEngine
    config: ServerConfig
    state: ServerState
    model_names: list[str]
    model_path: str
    chat_template: str | None
    created: int
    drain: Drain
    tracer: Tracer | None = None
    _count: int = field(default=0, init=False)

    def check_model(self, name: str | None) -> str:
        """The name to answer with; raises APIError 404 for a model that is not served."""
        if name is None:
            return self.model_names[0]
        if name not in self.model_names:
            served = ", ".join(self.model_names)
            raise APIError(404, f"model: {name[:200]!r} is not served here; this is {served}", "model")
        return name

    def response_id(self, kind: str, request: Request, given: str | None) -> str:
        """`cmpl-...` or the like, from the body's `request_id`, the X-Request-Id header, or drawn.

        What this task logs from now on carries the id, and its trace is that of the request's headers.
        """
        name = given or request.headers.get("x-request-id", "")[:256] or uuid.uuid4().hex
        logs.request_id.set(name)
        if self.tracer is not None:
            self.tracer.remember_caller(request.headers)
        return f"{kind}-{name}"

    def user(self, request: Request, given: str | None) -> str:
        """Whose share a request takes where shares are fair.

        Its API key's if the server has several, else that of its `user` field. The key itself goes nowhere,
        a digest stands for it.
        """
        if len(self.config.api_key) > 1:
            return sha256(api_key(request.headers).encode("utf-8", "surrogateescape")).hexdigest()[:16]
        return given or ""

    def trace(self, response_id: str, params: SamplingParams) -> RequestTrace | None:
        """What follows a request for the traces; None where there are none."""
        return None if self.tracer is None else self.tracer.start(response_id, params)

    def timeout(self, given: float | None) -> float | None:
        """How long a request may take, in seconds: what it asks for, and no more than the server allows."""
        allowed = self.config.request_timeout
        if given is None or allowed is None:
            return allowed if given is None else given
        return min(given, allowed)

    def engine_id(self, response_id: str) -> str:
        """A request id for the engine, of which there is never a second, whatever clients choose."""
        self._count += 1
        return f"{response_id}-{self._count}"


def now() -> int:
    """The time as the API's `created` fields give it: whole seconds since 1970."""
    return int(time.time())


def serving_of(request: Request) -> Serving:
    """The `Serving` of the app that handles a request."""
    serving = request.app.state.serving
    assert isinstance(serving, Serving)
    return serving
