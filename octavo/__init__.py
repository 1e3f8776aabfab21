"""octavo: a fast, deterministic LLM inference and serving engine.

`import octavo` is lazy: what a name needs is imported when the name is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from octavo.config import EngineConfig
    from octavo.frontend.async_engine import AsyncEngine, EngineDeadError
    from octavo.frontend.beam_search import BeamSearchOutput, BeamSearchParams, BeamSearchSequence
    from octavo.frontend.request import TextPrompt, TokensPrompt
    from octavo.llm import LLM
    from octavo.outputs import CompletionOutput, Logprob, RequestOutput
    from octavo.sampling_params import RequestOutputKind, SamplingParams
    from octavo.structured.params import StructuredOutputsParams

__version__ = "0.1.0"

_HOMES = {
    "BeamSearchOutput": "octavo.frontend.beam_search",
    "BeamSearchParams": "octavo.frontend.beam_search",
    "BeamSearchSequence": "octavo.frontend.beam_search",
    "LLM": "octavo.llm",
    "AsyncEngine": "octavo.frontend.async_engine",
    "EngineDeadError": "octavo.frontend.async_engine",
    "TextPrompt": "octavo.frontend.request",
    "TokensPrompt": "octavo.frontend.request",
    "EngineConfig": "octavo.config",
    "SamplingParams": "octavo.sampling_params",
    "RequestOutputKind": "octavo.sampling_params",
    "StructuredOutputsParams": "octavo.structured.params",
    "RequestOutput": "octavo.outputs",
    "CompletionOutput": "octavo.outputs",
    "Logprob": "octavo.outputs",
}

__all__ = [
    "LLM",
    "AsyncEngine",
    "BeamSearchOutput",
    "BeamSearchParams",
    "BeamSearchSequence",
    "CompletionOutput",
    "EngineConfig",
    "EngineDeadError",
    "Logprob",
    "RequestOutput",
    "RequestOutputKind",
    "SamplingParams",
    "StructuredOutputsParams",
    "TextPrompt",
    "TokensPrompt",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'octavo' has no attribute {name!r}")
