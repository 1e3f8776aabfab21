"""ASGI middleware of the operator's own, by import path: code that runs in the server for every request."""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from fastapi import FastAPI


def load_middleware(path: str) -> Any:
    """The class or async function that `package.module.name` names; raises ValueError when it is neither."""
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"middleware (--middleware): cannot import {path!r}: {error}") from error
    if not inspect.isclass(found) and not inspect.iscoroutinefunction(found):
        raise ValueError(f"middleware (--middleware): {path} is neither a class nor an async function")
    return found


def add_middleware(app: FastAPI, path: str) -> None:
    """Put it around the app: an ASGI class, or `async def middleware(request, call_next)`, as in vLLM."""
    found: Any = load_middleware(path)
    if inspect.isclass(found):
        app.add_middleware(cast(Any, found))
    else:
        app.middleware("http")(found)
