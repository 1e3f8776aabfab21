"""Structured outputs of the demo model: judged by jsonschema and re, and through a process that is killed."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from support.killed_engine import outputs_under_kills

from octavo import LLM, SamplingParams, StructuredOutputsParams
from octavo.config import EngineConfig
from octavo.frontend.async_engine import AsyncEngine
from octavo.outputs import RequestOutput

SETTINGS: dict[str, Any] = {"max_model_len": 512, "num_gpu_blocks_override": 256, "max_num_seqs": 16}
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["a", "b", None]}, "maxItems": 2},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
PLACE = {
    "$defs": {
        "point": {
            "type": "array",
            "prefixItems": [{"type": "integer", "minimum": -90, "maximum": 90}] * 2,
            "items": False,
            "minItems": 2,
        }
    },
    "type": "object",
    "properties": {
        "at": {"$ref": "#/$defs/point"},
        "kind": {"anyOf": [{"const": "sea"}, {"type": "boolean"}]},
    },
    "required": ["at", "kind"],
    "additionalProperties": False,
}
REGEXES = [r"\d{3}-\d{4}", r"[A-Z][a-z]{2,8} (is|was) (big|small)\.", r"(ab|cd){1,4}|x\+y"]
PROMPTS = ["A person:", "The sea", "1, 2, 3,", "def main():\n"]


@pytest.fixture(scope="module")
def llm(demo_model: Path) -> Iterator[LLM]:
    with LLM(str(demo_model), **SETTINGS) as llm:
        yield llm


def params(form: StructuredOutputsParams | None, seed: int, **fields: Any) -> SamplingParams:
    fields = {"temperature": 1.0, "max_tokens": 64, **fields}
    return SamplingParams(structured_outputs=form, seed=seed, **fields)


@pytest.mark.parametrize("schema", [PERSON, PLACE], ids=["person", "place"])
def test_json_is_what_jsonschema_takes(llm: LLM, schema: dict[str, Any]) -> None:
    form = StructuredOutputsParams(json=schema, disable_any_whitespace=True)
    wanted = [params(form, seed, temperature=min(seed, 1)) for seed in range(6)]
    completions = [output.outputs[0] for output in llm.generate(["A person:"] * 6, wanted)]
    whole = [each for each in completions if each.finish_reason == "stop"]
    assert len(whole) >= 4
    for completion in whole:
        jsonschema.validate(json.loads(completion.text), schema, jsonschema.Draft202012Validator)
    assert len({completion.text for completion in completions}) > 3


@pytest.mark.parametrize("regex", REGEXES)
def test_a_regex_matches_the_whole_text(llm: LLM, regex: str) -> None:
    form = StructuredOutputsParams(regex=regex)
    [output] = llm.generate("Call", params(form, 1, n=4, max_tokens=24))
    for completion in output.outputs:
        assert completion.finish_reason == "stop"
        assert re.fullmatch(regex, completion.text)


def test_the_best_of_several_and_stop_strings(llm: LLM) -> None:
    form = StructuredOutputsParams(choice=["yes", "no", "maybe"])
    [output] = llm.generate("Is the sea big?", params(form, 1, best_of=4, logprobs=0))
    assert output.outputs[0].text in ("yes", "no", "maybe")
    form = StructuredOutputsParams(regex="[a-z]{1,6};[a-z]+")
    [output] = llm.generate("Is the sea big?", params(form, 1, stop=[";"]))
    assert re.fullmatch("[a-z]+", output.outputs[0].text)
    assert output.outputs[0].stop_reason == ";"


def test_what_can_not_be_is_told_before_anything_runs(llm: LLM) -> None:
    with pytest.raises(ValueError, match=r"^structured_outputs\.regex: .*unclosed group"):
        llm.generate(["a", "b"], [params(None, 0), params(StructuredOutputsParams(regex="("), 0)])


def mixed() -> list[SamplingParams]:
    """Free ones among them, which structured ones must not change, nor they those."""
    person = StructuredOutputsParams(json=PERSON, disable_any_whitespace=True)
    return [
        params(person, 5, max_tokens=32),
        params(None, 6, max_tokens=16),
        params(StructuredOutputsParams(regex=r"(\d+, ){4}\d+"), 7, temperature=0),
        params(StructuredOutputsParams(json_object=True), 8, n=2, max_tokens=16, logprobs=1),
    ]


def contents(output: RequestOutput) -> list[tuple[Any, ...]]:
    return [
        (each.text, each.token_ids, each.finish_reason, each.cumulative_logprob) for each in output.outputs
    ]


def test_alone_together_and_when_the_engine_is_killed(llm: LLM, demo_model: Path) -> None:
    together = llm.generate(PROMPTS, mixed())
    for index in (3, 1, 0):
        [alone] = llm.generate(PROMPTS[index], mixed()[index])
        assert contents(alone) == contents(together[index])

    async def test() -> None:
        engine = await AsyncEngine.start(EngineConfig(model=str(demo_model), **SETTINGS))
        try:
            outputs = await outputs_under_kills(engine, list(zip(PROMPTS, mixed(), strict=True)), kills=1)
            form = StructuredOutputsParams(json={"type": "x"})
            with pytest.raises(ValueError, match=r"^structured_outputs\.json: Invalid type"):
                await anext(engine.generate("a", params(form, 0), "bad"))
        finally:
            await engine.stop()
        assert list(map(contents, outputs)) == list(map(contents, together))

    asyncio.run(asyncio.wait_for(test(), 120))
