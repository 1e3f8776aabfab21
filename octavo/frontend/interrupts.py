"""Ctrl-C between two steps rather than in the middle of one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupts:
    """Whether Ctrl-C was pressed."""

    def __init__(self) -> None:
        self.pending = False

    def raise_pending(self) -> None:
        """Raise the KeyboardInterrupt that was put off, if one was."""
        if self.pending:
            raise KeyboardInterrupt


@contextmanager
def deferred_interrupts() -> Iterator[Interrupts]:
    """Put off KeyboardInterrupt to `raise_pending`, so that the engine is left whole and can be used again.

    A second Ctrl-C is not put off. Does nothing outside the main thread, and where the program handles
    SIGINT in its own way.
    """
    interrupts = Interrupts()
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield interrupts
        return

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        if interrupts.pending:
            signal.default_int_handler(number, frame)
        interrupts.pending = True

    signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield interrupts
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
