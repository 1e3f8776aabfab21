"""The HTTP application: the routes, what guards them, and the engine behind them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

import octavo
from octavo.observe.metrics import Metrics
from octavo.observe.stats_line import StatsLine
from octavo.observe.tracing import Tracer
from octavo.server import (
    anthropic,
    cache,
    chat,
    completions,
    health,
    invocations,
    live,
    metrics,
    models,
    ollama,
    ollama_models,
    page,
    pooling,
    tokens,
)
from octavo.server.admission import Admission
from octavo.server.auth import APIKeyMiddleware
from octavo.server.config import ServerConfig
from octavo.server.drain import DrainMiddleware
from octavo.server.errors import install_error_handlers
from octavo.server.header_limit import HeaderLimitMiddleware
from octavo.server.middleware import add_middleware
from octavo.server.openapi import describe
from octavo.server.request_id_header import RequestIdMiddleware
from octavo.server.responses_api import routes as responses_api
from octavo.server.responses_api.store import ResponseStore
from octavo.server.serving import Serving, now

if TYPE_CHECKING:
    from octavo.engine.async_engine import AsyncEngine

DEMO_NAME = "SmolLM2-135M-Instruct"


def create_app(engine: AsyncEngine, config: ServerConfig, model: str = "") -> FastAPI:
    """The app that serves `engine`, which it stops when it shuts down; `model` as the user named it.

    Raises ValueError when the chat template's file can not be read, or traces can not be sent.
    """
    names = list(config.served_model_name) or [model or DEMO_NAME]
    serving = Serving(
        engine=engine,
        config=config,
        metrics=Metrics(names[0], engine.max_model_len, engine.config.kv_cache_metrics),
        model_names=names,
        model_path=model or DEMO_NAME,
        chat_template=config.read_chat_template(),
        created=now(),
        admission=Admission(
            None if engine.config.target_ttft is None else engine.config.target_ttft / 1000,
            config.max_waiting,
            engine.config.scheduling_policy,
        ),
    )
    if config.otlp_traces_endpoint is not None:
        serving.tracer = Tracer(config.otlp_traces_endpoint, names[0])
    serving.metrics.watch(engine)
    engine.on_step = serving.metrics.on_step

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        with running(_log_stats(serving)):
            yield
        await engine.stop()
        if serving.tracer is not None:
            await asyncio.to_thread(serving.tracer.close)

    docs: dict[str, Any] = {"openapi_url": None} if config.disable_fastapi_docs else {}
    app = FastAPI(title="octavo", version=octavo.__version__, lifespan=lifespan, **docs)
    app.state.serving = serving
    app.state.live_feed = live.make_feed(serving)
    app.state.responses = ResponseStore(config.max_stored_responses)
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
        pooling,
        cache,
        health,
        metrics,
    ):
        app.include_router(group.router)
    if not config.disable_page:
        app.include_router(page.router)
        app.include_router(live.router)
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


async def _log_stats(serving: Serving) -> None:
    if interval := serving.config.log_stats_interval:
        await StatsLine(serving.metrics).run(interval)


@contextmanager
def running(work: Coroutine[Any, Any, None]) -> Iterator[None]:
    """Let `work` run beside the block, and no longer."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
