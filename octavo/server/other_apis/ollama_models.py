"""`/api/tags`, `/api/ps`, `/api/show`, `/api/version`: what Ollama's clients ask of a server's models.

Source: docs/api.md of Ollama. There is one model, always loaded, under each of its names.
"""

from __future__ import annotations

import asyncio
import datetime
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from fastapi import APIRouter, Request

import octavo
from octavo.server.openapi import described_by
from octavo.server.requests.body import read_body
from octavo.server.serving import Serving, serving_of

router = APIRouter()


class OllamaShow(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of `POST /api/show`."""

    model: str | None = None
    name: str | None = None
    verbose: bool | None = None


@router.get("/api/tags")
async def tags(request: Request) -> dict[str, list[dict[str, Any]]]:
    """The names that the model goes by."""
    serving = serving_of(request)
    return {"models": await _models(serving)}


@router.get("/api/ps")
async def running(request: Request) -> dict[str, list[dict[str, Any]]]:
    """The same names: the model is loaded as long as the server runs."""
    serving = serving_of(request)
    # Ollama unloads models; this one stays, which its clients read from a time far off.
    forever = {"expires_at": timestamp(serving.created + 10 * 365 * 86400), "size_vram": 0}
    length = {"context_length": serving.engine.max_model_len}
    return {"models": [{**model, **forever, **length} for model in await _models(serving)]}


@router.post("/api/show", openapi_extra=described_by(OllamaShow))
async def show(request: Request) -> dict[str, Any]:
    """The model's template, kind and size."""
    serving = serving_of(request)
    body = await read_body(request, OllamaShow, serving.config.max_request_bytes)
    serving.check_model((body.model or body.name or "").removesuffix(":latest") or None)
    template = serving.chat_template or serving.engine.tokenizer.chat_template or ""
    facts = await _facts_of(serving)
    family = facts["details"]["family"] or "octavo"
    lengths = {
        f"{family}.context_length": serving.engine.max_model_len,
        f"{family}.vocab_size": serving.engine.vocab_size,
    }
    return {
        "modified_at": timestamp(serving.created),
        "template": template,
        "modelfile": "",
        "parameters": "",
        "license": "",
        "details": facts["details"],
        "model_info": {"general.architecture": family, **lengths, **facts["model_info"]},
        "capabilities": ["completion"],
    }


@router.get("/api/version")
async def version() -> dict[str, str]:
    """The version of this server, not of an Ollama."""
    return {"version": octavo.__version__}


def timestamp(seconds: float) -> str:
    """A time as Ollama writes it."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat().replace("+00:00", "Z")


async def _models(serving: Serving) -> list[dict[str, Any]]:
    facts = await _facts_of(serving)
    common = {"modified_at": timestamp(serving.created), "size": facts["size"], "details": facts["details"]}
    return [{"name": name, "model": name, "digest": "", **common} for name in serving.model_names]


async def _facts_of(serving: Serving) -> dict[str, Any]:
    return await asyncio.to_thread(_facts, serving.engine.config.model)


@cache
def _facts(model: str) -> dict[str, Any]:
    """What the model's files say, read once."""
    from octavo.model.load import read_spec
    from octavo.model.spec import by_layer

    path = Path(model)
    details: dict[str, Any] = {"parent_model": "", "format": "", "family": "", "families": None}
    details |= {"parameter_size": "", "quantization_level": ""}
    if not model or not path.exists():
        return {"size": 0, "details": details, "model_info": {}}
    spec = read_spec(path)
    files = [path] if path.is_file() else list(path.glob("*.safetensors"))
    details |= {
        "format": "gguf" if path.is_file() else "safetensors",
        "family": spec.family,
        "families": [spec.family],
    }
    return {
        "size": sum(file.stat().st_size for file in files),
        "details": details,
        "model_info": {
            f"{spec.family}.block_count": spec.num_layers,
            f"{spec.family}.embedding_length": spec.hidden_size,
            f"{spec.family}.attention.head_count": by_layer([each.num_heads for each in spec.attentions]),
            f"{spec.family}.attention.head_count_kv": by_layer(
                [each.num_kv_heads for each in spec.attentions]
            ),
        },
    }
