"""What the API process needs of a model: its tokenizer and its numbers, not its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from octavo.config import EngineConfig
from octavo.frontend.request import RequestBuilder
from octavo.model.generation_config import sampling_defaults
from octavo.model.load import read_model_info, resolve_max_model_len
from octavo.structured.config import structured_outputs_config
from octavo.tokenizer.load import load_tokenizer


def read_model(path: Path, config: EngineConfig) -> tuple[RequestBuilder, dict[str, Any]]:
    """What makes requests for the model there, and the sampling parameters that it asks for."""
    info = read_model_info(path)
    requests = RequestBuilder(
        load_tokenizer(path, config.tokenizer),
        vocab_size=info.spec.vocab_size,
        max_model_len=resolve_max_model_len(info.spec, config.max_model_len),
        eos_token_ids=info.eos_token_ids,
        seed=config.seed,
        structured_outputs=structured_outputs_config(config.structured_outputs_config),
    )
    return requests, sampling_defaults(info.sampling, config)
