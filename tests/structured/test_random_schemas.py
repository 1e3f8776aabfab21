"""Random schemas, outputs drawn at random from their masks, and jsonschema as the judge."""

from __future__ import annotations

import functools
import json
import random
import re
from typing import Any

import jsonschema
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fake_engine import EOS, VOCAB_SIZE, byte_tokenizer

from octavo import StructuredOutputsParams
from octavo.structured.compiler import GrammarCompiler

MOST_TOKENS = 400
STRING = re.compile(rb'"(\\.|[^"\\])*"')


@functools.cache
def compiler() -> GrammarCompiler:
    return GrammarCompiler(byte_tokenizer, VOCAB_SIZE, [EOS])


@st.composite
def integers(draw: st.DrawFn) -> dict[str, Any]:
    low = draw(st.integers(-1000, 1000))
    return {"type": "integer", "minimum": low, "maximum": low + draw(st.integers(0, 500))}


constants = st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3)
leaves = st.one_of(
    integers(),
    st.just({"type": "boolean"}),
    st.just({"type": ["null", "boolean"]}),
    st.builds(lambda values: {"enum": values}, st.lists(constants, min_size=1, max_size=4)),
    st.builds(lambda value: {"const": value}, constants),
    st.builds(lambda low, more: {"type": "string", "minLength": low, "maxLength": low + more},
              st.integers(0, 3), st.integers(0, 3)),
    st.sampled_from([{"type": "string", "pattern": "^[a-c]{1,4}$"}, {"type": "string", "format": "date"}]),
)  # fmt: skip


def inner(schemas: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    @st.composite
    def objects(draw: st.DrawFn) -> dict[str, Any]:
        properties = draw(st.dictionaries(st.text('abz" é\\', min_size=1, max_size=3), schemas, max_size=3))
        required = draw(st.lists(st.sampled_from(sorted(properties)), unique=True)) if properties else []
        return {
            "type": "object",
            "properties": properties,
            "required": required,
            "additionalProperties": False,
        }

    @st.composite
    def arrays(draw: st.DrawFn) -> dict[str, Any]:
        low = draw(st.integers(0, 2))
        return {
            "type": "array",
            "items": draw(schemas),
            "minItems": low,
            "maxItems": low + draw(st.integers(0, 2)),
        }

    choices = st.builds(lambda each: {"anyOf": each}, st.lists(schemas, min_size=1, max_size=3))
    return objects() | arrays() | choices


@settings(max_examples=60, deadline=None)
@given(schema=st.recursive(leaves, inner, max_leaves=6), seed=st.integers(0, 99), tight=st.booleans())
def test_whatever_comes_to_its_end_is_valid(schema: dict[str, Any], seed: int, tight: bool) -> None:
    jsonschema.Draft202012Validator.check_schema(schema)
    form = StructuredOutputsParams(json=schema, disable_any_whitespace=tight)
    matcher = compiler().submit(form).result()
    chance = random.Random(seed)
    output = b""
    while len(output) < MOST_TOKENS:
        mask = matcher.mask()
        allowed = [token for token in range(VOCAB_SIZE) if mask[token // 32] >> token % 32 & 1]
        if allowed == [EOS] or (EOS in allowed and chance.random() < 0.5):
            break
        # What closes a string or a list is one token of many.
        ends = [each for each in allowed if each != EOS and each in b'"]},']
        token = chance.choice(ends if ends and chance.random() < 0.3 else [e for e in allowed if e != EOS])
        matcher.append(token)
        assert not matcher.failure
        output += bytes([token])
    else:
        return
    value = json.loads(output)
    jsonschema.validate(value, schema, jsonschema.Draft202012Validator)
    if tight:
        assert not re.search(rb"\s", STRING.sub(b"", output))
