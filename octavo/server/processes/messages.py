"""What crosses between an API process and its parent, as MessagePack over ZeroMQ.

Tokens do not: each API process has a socket of its own to the engine. The parent says which engine runs, and
keeps what all of them share: metrics, admission, stored responses, the live view.
"""

from __future__ import annotations

from typing import Any

import msgspec

from octavo.config import EngineConfig
from octavo.frontend.shared_engine import EngineDown, EngineGone, EngineUp, TrialTurn
from octavo.request_options import RequestOptions
from octavo.server.config import ServerConfig


class ApiProcessOptions(msgspec.Struct):
    """The line on an API process's standard input.

    `model` is as the user named it, `config.model` its path; `listener` a file descriptor that it inherits.
    """

    name: str
    address: str
    listener: int
    model: str
    config: EngineConfig
    server_config: ServerConfig


class Join(msgspec.Struct, tag="join", array_like=True):
    """The process is there: the parent answers with news of the engine, now and from now on."""


class Serving(msgspec.Struct, tag="serving", array_like=True):
    """It accepts connections."""


class WantTurn(msgspec.Struct, tag="want_turn", array_like=True):
    """It has requests that may be what kills the engine, or has no more of them: see `TrialTurns`."""

    wanted: bool


class Record(msgspec.Struct, array_like=True):
    """A call of a `RequestSeries`: the name of the method, and what it was given."""

    method: str
    values: list[Any]


class Report(msgspec.Struct, tag="report", array_like=True):
    """Requests that are open here, and what was counted since the last report."""

    num_open: int
    records: list[Record]


class Watch(msgspec.Struct, tag="watch", array_like=True):
    """Somebody watches the live view here; the events come as `Event`s of this number."""

    number: int


class Unwatch(msgspec.Struct, tag="unwatch", array_like=True):
    """And does not any more."""

    number: int


class WaitsNoLonger(msgspec.Struct, tag="waits_no_longer", array_like=True):
    """The `index`-th prompt that was let in has its first token (`served`), or is over."""

    number: int
    index: int
    served: bool


class MetricsText(msgspec.Struct, tag="metrics", array_like=True):
    """Ask for all metrics: bytes."""


class OpenRequests(msgspec.Struct, tag="open", array_like=True):
    """Ask how many requests are open: an int."""


class Admit(msgspec.Struct, tag="admit", array_like=True):
    """Ask whether these prompts may come in; refused with `Refused` where they may not."""

    prompt_tokens: list[int]
    options: RequestOptions


class KeepResponse(msgspec.Struct, tag="keep", array_like=True):
    """Ask to keep a response, encoded."""

    owner: str
    response_id: str
    encoded: bytes
    num_characters: int


class FindResponse(msgspec.Struct, tag="find", array_like=True):
    """Ask for one: its bytes, or None."""

    owner: str
    response_id: str


class ForgetResponse(msgspec.Struct, tag="forget", array_like=True):
    """Ask to forget one: whether it was there."""

    owner: str
    response_id: str


Question = MetricsText | OpenRequests | Admit | KeepResponse | FindResponse | ForgetResponse


class Ask(msgspec.Struct, tag="ask", array_like=True):
    """A question, which is answered with an `Answer` of the same number."""

    number: int
    question: Question


class Refused(msgspec.Struct, tag="refused", array_like=True):
    """The server is too busy for a request."""

    message: str
    retry_after: str


Value = bytes | int | bool | Refused | None


class Answer(msgspec.Struct, tag="answer", array_like=True):
    """What was asked for."""

    number: int
    value: Value = None


class Event(msgspec.Struct, tag="event", array_like=True):
    """An event of the live view for one who watches; the last one is None, and `full` if too many watch."""

    number: int
    data: bytes | None
    full: bool = False


ToParent = Join | Serving | WantTurn | Report | Watch | Unwatch | WaitsNoLonger | Ask
FromParent = EngineUp | EngineDown | EngineGone | TrialTurn | Answer | Event
