"""The request bodies in the API's OpenAPI description, from the structs that decode them."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

import octavo

_REF = "#/components/schemas/{name}"
_described: list[type[msgspec.Struct]] = []


def described_by(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """The `openapi_extra` of a route whose body is a `kind`."""
    _described.append(kind)
    schema = {"$ref": _REF.format(name=kind.__name__)}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def describe(app: FastAPI) -> None:
    """Make `/openapi.json`, and so `/docs`, know the bodies that `described_by` refers to."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(title="octavo", version=octavo.__version__, routes=app.routes)
            _, schemas = msgspec.json.schema_components(_described, ref_template=_REF)
            schema.setdefault("components", {}).setdefault("schemas", {}).update(schemas)
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
