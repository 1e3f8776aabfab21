"""Logs as lines of JSON, each with the id of the request that it is about."""

from __future__ import annotations

import json
import logging
import logging.config
import sys
import time
from contextvars import ContextVar
from typing import Any

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""The id of the request that the current task answers; the server sets it."""

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}
_ACCESS_FIELDS = ("client", "method", "path", "http_version", "status")
_json_lines = False


class JSONFormatter(logging.Formatter):
    """A record as one line: time (UTC), level, logger, message, request_id, what `extra` gave, exception."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        second = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{second}.{int(record.msecs):03}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request := request_id.get():
            line["request_id"] = request
        if record.name == "uvicorn.access" and isinstance(record.args, tuple):
            line |= dict(zip(_ACCESS_FIELDS, record.args, strict=False))
        line |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def log_as_json(level: str) -> None:
    """Write the logs of the server, and what else goes to standard error, as lines of JSON from now on."""
    global _json_lines
    _json_lines = True
    handler = {"class": "logging.StreamHandler", "formatter": "json", "stream": "ext://sys.stderr"}
    number = logging.DEBUG if level == "trace" else level.upper()
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"json": {"()": JSONFormatter}},
            "handlers": {"json": handler},
            "root": {"handlers": ["json"], "level": "WARNING"},
            "loggers": {
                "octavo": {"level": "INFO"},
                "uvicorn": {"level": number},
                "uvicorn.access": {"level": number},
            },
        }
    )


def relay(logger: str, line: str) -> None:
    """Write a line that was not logged to standard error: as it is, or as a record of `logger` among JSON."""
    if not _json_lines:
        sys.stderr.write(line)
    elif text := line.strip():
        logging.getLogger(logger).info("%s", text)
