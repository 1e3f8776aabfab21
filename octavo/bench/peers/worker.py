"""Times a Python library on a model; run by python_peer.py where octavo need not be installed.

Arguments: the peer (`openvino` or `transformers`), the model and the number of threads. A line of JSON for
each workload, in and out. How to load and time the library is in time_PEER.py beside this file.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from typing import Any


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # What the library prints is not an answer.

    def say(**answer: Any) -> None:
        answers.write(json.dumps(answer) + "\n")

    peer, model, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
    library = importlib.import_module(f"time_{peer}")  # of this file's folder: a script's is on the path
    try:
        timer = library.Timer(model, threads)
    except ImportError as error:
        return say(error=f"not installed ({error}); pip install {library.PACKAGES}")
    except Exception as error:
        return say(error=f"it can not load {model}: {_end_of(error)}")
    say(name=timer.name)
    for line in sys.stdin:
        try:
            say(tokens_per_second=_rate(timer, json.loads(line)))
        except Exception as error:
            say(error=_end_of(error))
    return None


def _rate(timer: Any, work: dict[str, Any]) -> float:
    batch, prompt = work.get("batch", 1), work["prompt_tokens"]
    if work["kind"] == "prefill":
        timer.times(batch, prompt, 1)
        return float(batch * prompt / timer.times(batch, prompt, 1)[0])
    count = work["output_tokens"]
    first, total = timer.times(batch, prompt, count + 1)
    return float(batch * count / (total - first))


def _end_of(error: Exception) -> str:
    return " ".join(str(error).split())[-200:]


if __name__ == "__main__":
    main()
