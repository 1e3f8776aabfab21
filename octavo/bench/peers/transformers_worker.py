"""Times transformers' generate in float32; run by python_peer.py, where octavo need not be installed.

Arguments: the model, a GGUF file or a Hugging Face directory, and the number of threads. A line of JSON for
each workload, in and out.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # What the library prints is not an answer.

    def say(**answer: Any) -> None:
        answers.write(json.dumps(answer) + "\n")

    path, threads = Path(sys.argv[1]), int(sys.argv[2])
    try:
        torch: Any = importlib.import_module("torch")
        transformers: Any = importlib.import_module("transformers")
    except ImportError as error:
        return say(error=f"not installed ({error}); pip install torch transformers accelerate gguf")
    torch.set_num_threads(threads)
    where = {"gguf_file": path.name} if path.is_file() else {}
    folder = path.parent if path.is_file() else path
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **where)
    except Exception as error:
        return say(error=f"it can not load {path}: {' '.join(str(error).split())[-200:]}")
    model.eval()
    say(name=f"transformers {transformers.__version__} float32")
    torch.manual_seed(0)

    def times(batch: int, prompt_tokens: int, new_tokens: int) -> tuple[float, float]:
        """Seconds to the logits of the first tokens, and of the last ones."""
        ids = torch.randint(1000, model.config.vocab_size - 1000, (batch, prompt_tokens))
        seen: list[float] = []

        def mark(_: Any, scores: Any) -> Any:
            seen.append(time.perf_counter())
            return scores

        started = time.perf_counter()
        with torch.inference_mode():
            model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=new_tokens,
                min_new_tokens=new_tokens,
                do_sample=False,
                pad_token_id=0,
                logits_processor=transformers.LogitsProcessorList([mark]),
            )
        return seen[0] - started, seen[-1] - started

    for line in sys.stdin:
        work = json.loads(line)
        batch, prompt = work.get("batch", 1), work["prompt_tokens"]
        try:
            if work["kind"] == "prefill":
                times(batch, prompt, 1)
                say(tokens_per_second=batch * prompt / times(batch, prompt, 1)[0])
            else:
                count = work["output_tokens"]
                first, total = times(batch, prompt, count + 1)
                say(tokens_per_second=batch * count / (total - first))
        except Exception as error:
            say(error=" ".join(str(error).split())[-200:])
    return None


if __name__ == "__main__":
    main()
