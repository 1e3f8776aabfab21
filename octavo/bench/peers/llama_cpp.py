"""llama.cpp's own benchmark programs, run on a workload."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from octavo.bench.peers.peer import Unavailable
from octavo.bench.workload import Workload

TIMEOUT_S = 3600


class LlamaCpp:
    """A build of llama.cpp: `llama-bench` for single sequences, `llama-batched-bench` for batches.

    Both run with their defaults, on the CPU; neither samples, so a decode is without that cost.
    """

    name = "llama.cpp"

    def __init__(self, programs: Path, model: Path, threads: int) -> None:
        """Raises ValueError when `programs` does not hold the two, Unavailable for no GGUF file."""
        for program in ("llama-bench", "llama-batched-bench"):
            if not (programs / program).is_file():
                raise ValueError(f"--peer-bin: {programs} has no {program}; build it there first")
        if not model.is_file():
            raise Unavailable(f"it reads only GGUF files, and {model} is not one")
        self._programs = programs
        self._common = ["-m", str(model), "-t", str(threads), "-ngl", "0"]

    def tokens_per_second(self, workload: Workload) -> float:
        """Run the workload once, after the program's own warm-up. Raises ValueError when it fails."""
        prompt, output, batch = map(str, (workload.prompt_tokens, workload.output_tokens, workload.batch))
        once = ["-r", "1", "-o", "json"]
        if workload.kind == "prefill":
            return _number(self._run("llama-bench", "-p", prompt, "-n", "0", *once)[0], "avg_ts")
        if workload.batch == 1:
            answer = self._run("llama-bench", "-p", "0", "-n", output, "-d", prompt, *once)
            return _number(answer[0], "avg_ts")
        context = str(workload.batch * (workload.prompt_tokens + workload.output_tokens))
        sizes = ["-npp", prompt, "-ntg", output, "-npl", batch, "-c", context]
        return _number(self._run("llama-batched-bench", *sizes, "--output-format", "jsonl"), "speed_tg")

    def _run(self, program: str, *arguments: str) -> Any:
        """The JSON that the program prints."""
        command = [str(self._programs / program), *self._common, *arguments]
        try:
            result = subprocess.run(
                command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ValueError(f"{program} did not run: {error}") from error
        if result.returncode != 0:
            last = ([line for line in result.stderr.splitlines() if line.strip()] or ["no reason given"])[-1]
            raise ValueError(f"{program} failed with exit code {result.returncode}: {last[:300]}")
        try:
            return json.loads(result.stdout)
        except ValueError as error:
            raise ValueError(f"{program} printed no JSON: {result.stdout[:200]!r}") from error


def _number(answer: Any, key: str) -> float:
    try:
        return float(answer[key])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"llama.cpp's answer has no {key}: {str(answer)[:200]}") from error
