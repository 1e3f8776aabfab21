"""OpenVINO GenAI on a GGUF file, for worker.py.

Everything is at the library's defaults but the attention backend: of its two, SDPA was the faster on small
models.
"""

from __future__ import annotations

PACKAGES = "openvino-genai"


class Timer:
    """A model, loaded."""

    def __init__(self, model: str, threads: int) -> None:
        """Raises ImportError without the library, and what the library raises."""
        import numpy as np
        import openvino as ov
        import openvino_genai as genai

        self._np, self._ov, self._genai = np, ov, genai
        self._pipeline = genai.LLMPipeline(
            model, "CPU", INFERENCE_NUM_THREADS=threads, ATTENTION_BACKEND="SDPA"
        )
        self._draw = np.random.default_rng(0)
        self.name = f"OpenVINO GenAI {genai.__version__.split('-')[0]}"

    def times(self, batch: int, prompt_tokens: int, new_tokens: int) -> tuple[float, float]:
        """Seconds to the first tokens, and in all."""
        np, ov, genai = self._np, self._ov, self._genai
        ids = self._draw.integers(1000, 30000, size=(batch, prompt_tokens)).astype(np.int64)
        config = genai.GenerationConfig(
            max_new_tokens=new_tokens, do_sample=False, ignore_eos=True, apply_chat_template=False
        )
        inputs = genai.TokenizedInputs(ov.Tensor(ids), ov.Tensor(np.ones_like(ids)))
        result = self._pipeline.generate(inputs, config)
        lengths = {len(tokens) for tokens in result.tokens}
        if lengths != {new_tokens}:
            raise RuntimeError(f"asked for {new_tokens} tokens, it gave {lengths}")
        metrics = result.perf_metrics
        return metrics.get_ttft().mean / 1e3, metrics.get_generate_duration().mean / 1e3
