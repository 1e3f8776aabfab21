"""A peer that is a Python library, in a process of its own: its interpreter may be another environment's."""

from __future__ import annotations

import json
import selectors
import subprocess
from pathlib import Path
from typing import Any

import msgspec

from octavo.bench.peers.peer import Unavailable
from octavo.bench.workload import Workload

KINDS = ("openvino", "transformers")
TIMEOUT_S = 3600


class PythonPeer:
    """A worker that loads the model and times workloads: a line of JSON for each, in and out."""

    def __init__(self, kind: str, python: str, model: Path, threads: int, script: Path | None = None) -> None:
        """Start the worker of one of `KINDS`.

        Raises Unavailable, with the worker's reason, when it can not run the model.
        """
        self.name = kind
        script = script or Path(__file__).with_name("worker.py")
        try:
            self._process = subprocess.Popen(
                [python, str(script), kind, str(model), str(threads)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        except OSError as error:
            raise Unavailable(f"{python} does not start: {error}") from error
        try:
            self.name = str(self._read("name"))
        except ValueError as error:
            self.close()
            raise Unavailable(str(error)) from error

    def tokens_per_second(self, workload: Workload) -> float:
        """Run the workload once; ValueError as Peer says."""
        assert self._process.stdin is not None
        if self._process.stdin.closed:
            raise ValueError(f"{self.name} has ended")
        try:
            self._process.stdin.write(msgspec.json.encode(workload).decode() + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise ValueError(f"{self.name} has ended: {error}") from error
        return float(self._read("tokens_per_second"))

    def close(self) -> None:
        """End the worker."""
        self._process.kill()
        self._process.communicate()

    def _read(self, key: str) -> Any:
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(TIMEOUT_S):
                raise ValueError(f"{self.name} did not answer in {TIMEOUT_S} s")
        line = self._process.stdout.readline()
        try:
            answer = json.loads(line)
            return answer[key]
        except ValueError as error:
            raise ValueError(f"{self.name} ended without an answer") from error
        except (KeyError, TypeError) as error:
            reason = answer.get("error") if isinstance(answer, dict) else line[:80]
            raise ValueError(f"{self.name}: {reason}") from error
