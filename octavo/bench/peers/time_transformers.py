"""transformers' generate in float32 on a GGUF file or a Hugging Face directory, for worker.py."""

from __future__ import annotations

import importlib
import time
from pathlib import Path
from typing import Any

PACKAGES = "torch transformers accelerate gguf"


class Timer:
    """A model, loaded."""

    def __init__(self, model: str, threads: int) -> None:
        """Raises ImportError without the libraries, and what they raise."""
        self._torch: Any = importlib.import_module("torch")
        self._transformers: Any = importlib.import_module("transformers")
        self._torch.set_num_threads(threads)
        path = Path(model)
        where = {"gguf_file": path.name} if path.is_file() else {}
        folder = path.parent if path.is_file() else path
        self._model = self._transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=self._torch.float32, **where
        )
        self._model.eval()
        self._torch.manual_seed(0)
        self.name = f"transformers {self._transformers.__version__} float32"

    def times(self, batch: int, prompt_tokens: int, new_tokens: int) -> tuple[float, float]:
        """Seconds to the logits of the first tokens, and of the last ones."""
        torch = self._torch
        ids = torch.randint(1000, self._model.config.vocab_size - 1000, (batch, prompt_tokens))
        seen: list[float] = []

        def mark(_: Any, scores: Any) -> Any:
            seen.append(time.perf_counter())
            return scores

        started = time.perf_counter()
        with torch.inference_mode():
            self._model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=new_tokens,
                min_new_tokens=new_tokens,
                do_sample=False,
                pad_token_id=0,
                logits_processor=self._transformers.LogitsProcessorList([mark]),
            )
        return seen[0] - started, seen[-1] - started
