"""What is done to a JSON schema before it is compiled."""

from __future__ import annotations

from typing import Any

import pytest

from octavo.structured.params import MAX_SCHEMA_CHARACTERS
from octavo.structured.schema import check_multiples, close_objects, read_schema


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(depth):
        schema = {"items": schema}
    return schema


def many(count: int, required: int = 0) -> dict[str, Any]:
    """An object with properties, the first `required` of which must come."""
    names = [f"property {number}" for number in range(count)]
    return {"type": "object", "properties": {name: {} for name in names}, "required": names[:required]}


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ("{", "not a JSON schema"),
        ("[]", "a JSON schema is an object, got list"),
        ({"const": object()}, "not a JSON schema"),
        (nested(100_000), "nested too deeply"),
        (nested(129), "nested too deeply"),
        ("[" * 100_000, "nested too deeply"),
        ({"enum": ["x" * MAX_SCHEMA_CHARACTERS]}, "takes at most 262144 characters"),
        ({"multipleOf": 10_007}, "multipleOf"),
        ({"allOf": [{"multipleOf": 101}, {"multipleOf": 103}]}, "multipleOf"),
        ({"items": [many(481)]}, "at most 480 properties that are not required, got 481"),
        (many(900, required=400), "got 500"),
        ({"items": {"pattern": "a" * 4097}}, "a pattern takes at most 4096 characters"),
        ({"patternProperties": {"a" * 4097: {}}}, "a pattern takes at most 4096 characters"),
        ({"anyOf": [{"pattern": "a" * 4000}] * 9}, "all together at most 32768"),
    ],
    ids=range(14),
)
def test_what_can_not_be_is_named(schema: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^here.*{message}"):
        read_schema(schema, "here")


@pytest.mark.parametrize("schema", ["true", '{"type": "string"}', {"multipleOf": 0.25}, {"multipleOf": 1e-9}])
def test_the_others_are_read(schema: Any) -> None:
    assert read_schema(schema, "here") in (
        True,
        {"type": "string"},
        {"multipleOf": 0.25},
        {"multipleOf": 1e-9},
    )


@pytest.mark.parametrize("text", ['%json {"multipleOf": 1e9}', r'%json {"multipl\u0065Of": 99991}'])
def test_multiples_inside_a_grammar_count(text: str) -> None:
    with pytest.raises(ValueError, match=r"^here: multipleOf"):
        check_multiples(text, "here")


def test_objects_are_closed_wherever_they_are_and_unless_they_say_so() -> None:
    open_object = {"properties": {}, "additionalProperties": True}
    schema = {
        "properties": {
            "properties": {"properties": {"a": {}}},
            "open": open_object,
            "any": {"type": "object"},
        },
        "$defs": {"d": {"anyOf": [{"patternProperties": {"^x": {"items": {"properties": {}}}}}]}},
        "enum": [{"properties": {}}],
    }
    closed = close_objects(schema)
    assert closed["additionalProperties"] is False
    assert closed["properties"]["properties"]["additionalProperties"] is False
    assert closed["properties"]["open"] == open_object
    assert closed["properties"]["any"] == {"type": "object"}
    [inner] = closed["$defs"]["d"]["anyOf"]
    assert inner["additionalProperties"] is False
    assert inner["patternProperties"]["^x"]["items"]["additionalProperties"] is False
    assert closed["enum"] == [{"properties": {}}]
    assert "additionalProperties" not in schema
