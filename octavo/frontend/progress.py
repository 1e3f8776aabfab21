"""A progress bar for a job of many requests."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.progress import Progress

_PATIENCE_SECONDS = 1.0


class JobProgress:
    """Requests done and tokens a second, on a terminal's standard error, for a job of over a second."""

    def __init__(self, num_requests: int, enabled: bool) -> None:
        self._total = num_requests
        self._done = 0
        self._num_prompt_tokens = 0
        self._num_output_tokens = 0
        self._started = time.monotonic()
        self._enabled = enabled and sys.stderr.isatty()
        self._bar: Progress | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def finished(self, num_prompt_tokens: int, num_output_tokens: int) -> None:
        """Count a request that is done."""
        self._done += 1
        self._num_prompt_tokens += num_prompt_tokens
        self._num_output_tokens += num_output_tokens
        if not self._enabled:
            return
        elapsed = time.monotonic() - self._started
        if self._bar is None:
            if elapsed < _PATIENCE_SECONDS:
                return
            self._bar = _start_bar(self._total)
        self._bar.update(
            self._bar.task_ids[0],
            completed=self._done,
            prompt_rate=self._num_prompt_tokens / elapsed,
            output_rate=self._num_output_tokens / elapsed,
        )


def _start_bar(total: int) -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("requests"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[prompt_rate]:,.0f} tok/s in, {task.fields[output_rate]:,.0f} tok/s out"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        refresh_per_second=4,
    )
    bar.add_task("", total=total, prompt_rate=0.0, output_rate=0.0)
    bar.start()
    return bar
