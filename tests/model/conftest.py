"""Fixtures of the model tests: tiny models on disk, and the backends to run them on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from octavo.config import EngineConfig
from octavo.model.decoder import trace
from octavo.model.load import LoadedModel, load_model
from octavo.runtime.backend import Backend, Limits, LogitsExecutable
from octavo.runtime.kv_cache import KVCacheSpec


@dataclass
class TinyModel:
    """A transformers model and the directory that it was saved to."""

    name: str
    path: Path
    model: Any


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], TinyModel]:
    """Makes the tiny model of a name in CONFIGS, once a session."""
    from support.tiny_models import make_model

    made: dict[str, TinyModel] = {}

    def get(name: str) -> TinyModel:
        if name not in made:
            model, path = make_model(name), tmp_path_factory.mktemp(name)
            model.save_pretrained(path)
            made[name] = TinyModel(name, path, model)
        return made[name]

    return get


@pytest.fixture(scope="session")
def transformers_demo(demo_model: Path) -> Any:
    """transformers' model of the demo's dequantised weights, in float32."""
    from support.tiny_models import read_gguf

    return read_gguf(demo_model)


@pytest.fixture(params=["reference", "native"])
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each backend that this build has."""
    return make_backend(request.param)


def make_backend(name: str) -> Backend:
    if name == "reference":
        from octavo.runtime.reference import ReferenceBackend

        return ReferenceBackend()
    native = pytest.importorskip("octavo.runtime.native", exc_type=ImportError)
    return native.NativeBackend()


@pytest.fixture(scope="session")
def compile_model() -> Callable[..., tuple[LoadedModel, LogitsExecutable]]:
    """Loads a path and compiles it with a backend, as the engine does."""

    def compile_path(
        path: Path, backend: Backend, dtype: str = "auto", kv_dtype: str = "float32"
    ) -> tuple[LoadedModel, LogitsExecutable]:
        model = load_model(EngineConfig(model=str(path), dtype=dtype))
        program = trace(model.spec)
        kv_cache = KVCacheSpec(program.cache_layers, kv_dtype)
        limits = Limits(512, 512, 16, model.max_model_len, model.spec.vocab_size)
        return model, backend.compile(program, model.weights, kv_cache, limits)

    return compile_path
