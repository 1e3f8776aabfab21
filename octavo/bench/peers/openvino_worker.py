"""Times OpenVINO GenAI on a GGUF file; run by python_peer.py, where octavo need not be installed.

Arguments: the model and the number of threads. A line of JSON for each workload, in and out. Everything is
at the library's defaults but the attention backend: of its two, SDPA was the faster on small models.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # What the library prints is not an answer.

    def say(**answer: Any) -> None:
        answers.write(json.dumps(answer) + "\n")

    model, threads = sys.argv[1], int(sys.argv[2])
    try:
        import numpy as np
        import openvino as ov
        import openvino_genai as genai
    except ImportError as error:
        return say(error=f"not installed ({error}); pip install openvino-genai")
    try:
        pipeline = genai.LLMPipeline(model, "CPU", INFERENCE_NUM_THREADS=threads, ATTENTION_BACKEND="SDPA")
    except Exception as error:
        return say(error=f"it can not load {model}: {' '.join(str(error).split())[-200:]}")
    say(name=f"OpenVINO GenAI {genai.__version__.split('-')[0]}")
    draw = np.random.default_rng(0)

    def times(batch: int, prompt_tokens: int, new_tokens: int) -> tuple[float, float]:
        """Seconds to the first tokens, and in all."""
        ids = draw.integers(1000, 30000, size=(batch, prompt_tokens)).astype(np.int64)
        config = genai.GenerationConfig(
            max_new_tokens=new_tokens, do_sample=False, ignore_eos=True, apply_chat_template=False
        )
        result = pipeline.generate(
            genai.TokenizedInputs(ov.Tensor(ids), ov.Tensor(np.ones_like(ids))), config
        )
        metrics = result.perf_metrics
        lengths = {len(tokens) for tokens in result.tokens}
        if lengths != {new_tokens}:
            raise RuntimeError(f"asked for {new_tokens} tokens, it gave {lengths}")
        return metrics.get_ttft().mean / 1e3, metrics.get_generate_duration().mean / 1e3

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
