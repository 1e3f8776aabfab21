"""The HTTP application: the routes, what guards them, and the engine behind them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

import octavo
from octavo.observe.tracing import Tracer
from octavo.server.config import DEMO_NAME, ServerConfig
from octavo.server.errors import install_error_handlers
from octavo.server.guards.auth import APIKeyMiddleware
from octavo.server.guards.drain import Drain, DrainMiddleware
from octavo.server.guards.header_limit import HeaderLimitMiddleware
from octavo.server.guards.middleware import add_middleware
from octavo.server.guards.request_id_header import RequestIdMiddleware
from octavo.server.openai import chat, completions, models, tokens
from octavo.server.openapi import describe
from octavo.server.operations import page
from octavo.server.operations import routes as operations
from octavo.server.other_apis import anthropic, invocations, ollama, ollama_models
from octavo.server.responses_api import routes as responses_api
from octavo.server.serving import Serving, now
from octavo.server.state import LocalState, ServerState

if TYPE_CHECKING:
    from octavo.frontend.async_engine import AsyncEngine


def create_app(
    engine: AsyncEngine,
    config: ServerConfig,
    model: str = "",
    state_of: Callable[[Drain], ServerState] | None = None,
) -> FastAPI:
    """The app that serves `engine`, which it stops when it shuts down; `model` as the user named it.

    `state_of` makes the state that it shares with other API processes; by default it has one of its own.
    Raises ValueError when the chat template's file can not be read, or traces can not be sent.
    """
    names = config.model_names(model)
    drain = Drain()
    state = LocalState(engine, config, names, lambda: drain.num_open) if state_of is None else state_of(drain)
    serving = Serving(
        engine=engine,
        config=config,
        state=state,
        model_names=names,
        model_path=model or DEMO_NAME,
        chat_template=config.read_chat_template(),
        created=now(),
        drain=drain,
    )
    if config.otlp_traces_endpoint is not None:
        serving.tracer = Tracer(config.otlp_traces_endpoint, names[0])

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        with running(serving.state.run()):
            yield
        await engine.stop()
        if serving.tracer is not None:
            await asyncio.to_thread(serving.tracer.close)

    docs: dict[str, Any] = {"openapi_url": None} if config.disable_fastapi_docs else {}
    app = FastAPI(title="octavo", version=octavo.__version__, lifespan=lifespan, **docs)
    app.state.serving = serving
    for group in (
        completions,
        chat,
        responses_api,
        invocations,
        anthropic,
        ollama,
        ollama_models,
        models,
        tokens,
        operations,
    ):
        app.include_router(group.router)
    if not config.disable_page:
        app.include_router(page.router)
    install_error_handlers(app)
    describe(app)
    app.add_middleware(DrainMiddleware, drain=serving.drain)
    if config.api_key:
        app.add_middleware(APIKeyMiddleware, keys=config.api_key)
    if config.allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=config.allowed_origins,
            allow_methods=config.allowed_methods,
            allow_headers=config.allowed_headers,
            allow_credentials=config.allow_credentials,
        )
    if config.enable_request_id_headers:
        app.add_middleware(RequestIdMiddleware)
    for path in config.middleware:
        add_middleware(app, path)
    app.add_middleware(
        HeaderLimitMiddleware,
        max_bytes=config.h11_max_incomplete_event_size,
        max_count=config.h11_max_header_count,
    )
    return app


@contextmanager
def running(work: Coroutine[Any, Any, None]) -> Iterator[None]:
    """Let `work` run beside the block, and no longer."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
