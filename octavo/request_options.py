"""What is carried with a request beside its prompt and its sampling parameters.

One object for the whole way: from the body of an HTTP request, or from a call of `LLM`, to the engine's
`Sequence`, and again after a crash of the engine. A new option is a field here, a field of the bodies that
may say it (`octavo.server.requests.sampling_request`), and whatever reads it.
"""

from __future__ import annotations

import msgspec

from octavo.sampling_params import check_integer


class RequestOptions(msgspec.Struct, frozen=True, array_like=True):
    """Options of a request. Each has a default that changes nothing.

    Lower `priority` runs first. `cache_salt` keeps the prompt's prefix from being shared with prompts of
    another salt. `user` is whose share the request takes where shares are fair. Sequences of one `group`,
    which is not empty, share KV blocks even where prefix caching is off; octavo itself sets it, for beams
    and for the completions of one prompt.
    """

    priority: int = 0
    cache_salt: str = ""
    user: str = ""
    group: str = ""

    def check(self) -> None:
        """Raise ValueError, its message beginning with the field, for a value that can not be."""
        check_integer("priority", self.priority, -(2**31), 2**31 - 1)
        check_text("cache_salt", self.cache_salt)
        check_text("user", self.user)
        check_text("group", self.group)


NO_OPTIONS = RequestOptions()


def check_text(name: str, value: str) -> None:
    """Raise ValueError, naming the field, unless `value` is a string that UTF-8 can hold."""
    if not isinstance(value, str):
        raise ValueError(f"{name} must be text, got {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} holds half a surrogate pair at {error.start}; it must be text") from None
