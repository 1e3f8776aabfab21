"""Starts an engine process, watches it, and says why it ended."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence

from octavo.logs import relay

ENGINE_COMMAND = (sys.executable, "-P", "-m", "octavo.engine.process.engine_process")
_KEPT_LINES = 20
_LONGEST_LINE = 4096
_SIGNAL_NAMES = {int(each): each.name for each in signal.Signals}
_HINTS = {
    int(signal.SIGKILL): " (by hand, or by the kernel for want of memory)",
    int(signal.SIGILL): " (the CPU lacks an instruction; try OCTAVO_ISA=portable)",
}


class EngineDeadError(RuntimeError):
    """The engine process could not start, or died and will not be replaced."""


class EngineProcess:
    """One engine process, with a lifeline: it leaves when this object's process does, however that ends.

    Its output goes to our standard error as it comes. `on_exit` is called once, from another thread.
    """

    def __init__(self, command: Sequence[str], options: bytes, on_exit: Callable[[], None]) -> None:
        self._popen = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=child_environment(),
            start_new_session=True,  # Ctrl-C is for us: we stop the engine in our own time
        )
        self._on_exit = on_exit
        self._last_lines: deque[str] = deque(maxlen=_KEPT_LINES)
        assert self._popen.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it may be dead already: `on_exit` tells
            self._popen.stdin.write(options + b"\n")
            self._popen.stdin.flush()
        self._reader = threading.Thread(target=self._read_output, name="engine-output", daemon=True)
        self._reader.start()
        threading.Thread(target=self._watch, name="engine-watch", daemon=True).start()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._popen.pid

    @property
    def crashed(self) -> bool:
        """Whether it ended by a fault of its own: not well, and not by a signal that others send."""
        return self._popen.returncode not in (None, 0, -signal.SIGTERM, -signal.SIGKILL)

    @property
    def death(self) -> str:
        """How it ended, in one line, with the last line that it wrote."""
        code = self._popen.returncode
        if code is None:
            return "the engine process runs"
        if code < 0:
            how = f"was killed by {_SIGNAL_NAMES.get(-code, f'signal {-code}')}{_HINTS.get(-code, '')}"
        else:
            how = f"left with exit code {code}"
        return f"the engine process {how}" + (f": {self._last_lines[-1]}" if self._last_lines else "")

    def kill(self) -> None:
        """End it now; does nothing when it has ended."""
        self._popen.kill()

    def _read_output(self) -> None:
        assert self._popen.stdout is not None
        with self._popen.stdout as output:
            while line := output.readline(_LONGEST_LINE):
                text = line.decode(errors="replace")
                relay("octavo.engine.process.engine_process", text)
                if text.strip():
                    self._last_lines.append(text.strip())

    def _watch(self) -> None:
        self._popen.wait()
        # Its last words may still be in the pipe, or the pipe be held open by a child of its own.
        self._reader.join(timeout=1.0)
        assert self._popen.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._popen.stdin.close()
        self._on_exit()


class RestartBudget:
    """How often a dead engine is replaced: `limit` times in any `window` seconds."""

    def __init__(self, limit: int = 10, window: float = 60.0) -> None:
        self.limit = limit
        self.window = window
        self._times: deque[float] = deque()

    def spend(self, now: float) -> bool:
        """Take one restart at time `now` (seconds); False when none is left."""
        while self._times and self._times[0] <= now - self.window:
            self._times.popleft()
        if len(self._times) >= self.limit:
            return False
        self._times.append(now)
        return True


def child_environment() -> dict[str, str]:
    """Ours, with modules found where we find them; `-P` keeps the working directory from coming first."""
    paths = [path or os.getcwd() for path in sys.path]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
