"""What the tokenizers library makes of a broken file, as a ValueError of one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def refused(what: object) -> Iterator[None]:
    """Raise ValueError, naming `what`, for any error of the library inside.

    It raises plain Exception, and for what its Rust code did not foresee a PanicException, which is none.
    """
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise ValueError(f"{what}: {' '.join(str(error).split())[:300]}") from error
