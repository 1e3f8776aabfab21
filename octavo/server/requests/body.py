"""Read a request's JSON body into its struct; whatever is wrong with it is a 4xx that names the field."""

from __future__ import annotations

import difflib
import re
from functools import cache
from typing import TypeVar

import msgspec
from fastapi import Request, Response
from starlette.requests import ClientDisconnect

from octavo.server.errors import APIError, ClientDisconnectedError

T = TypeVar("T", bound=msgspec.Struct)

_encode = msgspec.json.Encoder().encode


def json_response(body: msgspec.Struct) -> Response:
    """A struct as a 200."""
    return Response(_encode(body), media_type="application/json")


async def read_body(request: Request, kind: type[T], max_bytes: int) -> T:
    """The body as a `kind`.

    Raises APIError. It is 415 when the body is not declared as JSON, because a browser may post other types
    to any site without asking. It is 413 when the body is over `max_bytes`. It is 400 when the body is not
    JSON, or a field is unknown, missing or of another type.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise APIError(415, f"Content-Type must be application/json, got {media_type or 'none'}")
    content = await read_bounded(request, max_bytes)
    try:
        body: T = _decoder(kind).decode(content)
    except msgspec.ValidationError as error:
        raise _explain(str(error), kind) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise APIError(400, f"the body is not valid JSON: {error}") from error
    except RecursionError as error:
        raise APIError(400, "the body is nested too deeply") from error
    return body


async def read_bounded(request: Request, max_bytes: int) -> bytes:
    """The bytes of the body; raises APIError 413 when it is over `max_bytes`."""
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared[:20]) > max_bytes:
        raise _too_large(max_bytes)
    chunks: list[bytes] = []
    size = 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > max_bytes:
                raise _too_large(max_bytes)
            chunks.append(chunk)
    except ClientDisconnect as error:
        raise ClientDisconnectedError from error
    return b"".join(chunks)


def _too_large(max_bytes: int) -> APIError:
    return APIError(413, f"the body is larger than {max_bytes} bytes (--max-request-bytes)")


@cache
def _decoder(kind: type[T]) -> msgspec.json.Decoder[T]:
    return msgspec.json.Decoder(kind)


def _explain(message: str, kind: type[msgspec.Struct]) -> APIError:
    """msgspec's "Expected `int`, got `str` - at `$.n`" as "n: expected int, got str"."""
    problem, _, where = message.partition(" - at ")
    found = re.search(r"\$\.?([^`]*)", where)
    path = found.group(1) if found else ""
    field = re.search(r"field `(.*)`$", problem)
    if field and "unknown" in problem:
        name = field.group(1)
        near = difflib.get_close_matches(name, kind.__struct_fields__, n=1) if not path else []
        hint = f"; did you mean {near[0]}?" if near else ""
        full = f"{path}.{name}" if path else name
        return APIError(400, f"{full}: unknown field{hint}", full)
    if field:
        full = f"{path}.{field.group(1)}" if path else field.group(1)
        return APIError(400, f"{full}: required field is missing", full)
    problem = problem.replace("`", "").replace(" | null", "")
    if not path:
        return APIError(400, f"the body: {problem[0].lower()}{problem[1:]}")
    return APIError(400, f"{path}: {problem[0].lower()}{problem[1:]}", path)
