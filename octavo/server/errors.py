"""Every error as the body that OpenAI's clients read: `{"error": {message, type, param, code}}`."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus

import msgspec
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

_TYPES = {
    401: "AuthenticationError",
    404: "NotFoundError",
    405: "MethodNotAllowedError",
    408: "RequestTimeoutError",
    413: "RequestTooLargeError",
    415: "UnsupportedMediaTypeError",
    429: "RateLimitError",
    431: "HeadersTooLargeError",
    503: "ServiceUnavailableError",
    504: "TimeoutError",
}

_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
ANTHROPIC_PATH = "/v1/messages"
OLLAMA_PATH = "/api/"


class APIError(Exception):
    """An error to answer with: its HTTP status, one line for a human, the field it is about, headers."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.headers = headers


class ClientDisconnectedError(Exception):
    """The client has gone; nobody reads an answer."""


class ErrorInfo(msgspec.Struct):
    """The inside of an error body; `code` is the HTTP status."""

    message: str
    type: str
    param: str | None
    code: int


class ErrorBody(msgspec.Struct):
    """An error body."""

    error: ErrorInfo


def error_body(error: Exception) -> ErrorBody:
    """The body for an error; one that was not raised on purpose tells the client nothing."""
    if not isinstance(error, APIError):
        error = APIError(500, "internal error; the server's log has the details")
    kind = _TYPES.get(error.status, "BadRequestError" if error.status < 500 else "InternalServerError")
    return ErrorBody(ErrorInfo(error.message, kind, error.param, error.status))


class AnthropicErrorInfo(msgspec.Struct):
    """The inside of an error body of Anthropic's API."""

    type: str
    message: str


class AnthropicErrorBody(msgspec.Struct):
    """An error body of Anthropic's API."""

    error: AnthropicErrorInfo
    type: str = "error"


def anthropic_error(error: Exception) -> AnthropicErrorBody:
    """The body for an error as Anthropic's clients read it."""
    info = error_body(error).error
    kind = "invalid_request_error" if info.code < 500 else "api_error"
    return AnthropicErrorBody(AnthropicErrorInfo(_ANTHROPIC_TYPES.get(info.code, kind), info.message))


def error_response(error: Exception, headers: Mapping[str, str] | None = None, path: str = "") -> Response:
    """The response for an error, in the shape of the API that `path` belongs to."""
    body = error_body(error)
    content = msgspec.json.encode(body)
    if path.startswith(ANTHROPIC_PATH):
        content = msgspec.json.encode(anthropic_error(error))
    elif path.startswith(OLLAMA_PATH):
        content = msgspec.json.encode({"error": body.error.message})
    return Response(content, body.error.code, media_type="application/json", headers=headers)


@contextmanager
def bad_input(fields: Collection[str]) -> Iterator[None]:
    """Turn a ValueError from the code inside, which checks what the client sent, into a 400.

    The package's messages begin with the field that they are about: where that is one of `fields`, those
    of the request, it becomes the error's `param`.
    """
    try:
        yield
    except ValueError as error:
        message = str(error)
        word = re.match(r"\w*", message)
        field = word.group() if word else ""
        raise APIError(400, message, field if field in fields else None) from error


def install_error_handlers(app: FastAPI) -> None:
    """Answer every error of the app in the one shape, those of the framework (404, 405) too."""

    async def framework_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        message = str(error.detail)
        if error.status_code == HTTPStatus.NOT_FOUND:
            message = f"no such path: {request.url.path}"
        elif error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            message = f"{request.method} is not allowed on {request.url.path}"
        return error_response(APIError(error.status_code, message), error.headers, _path(request))

    async def api_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, APIError)
        return error_response(error, error.headers, _path(request))

    async def fault(request: Request, error: Exception) -> Response:
        # The framework raises it again for the log, and the HTTP server then closes the connection.
        return error_response(error, {"Connection": "close"}, _path(request))

    async def client_gone(_: Request, __: Exception) -> Response:
        return Response(status_code=499)

    app.add_exception_handler(HTTPException, framework_error)
    app.add_exception_handler(APIError, api_error)
    app.add_exception_handler(ClientDisconnectedError, client_gone)
    app.add_exception_handler(Exception, fault)


def _path(request: Request) -> str:
    root: str = request.scope.get("root_path", "")
    return request.url.path.removeprefix(root)
