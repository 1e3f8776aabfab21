"""Grammars: which compile, what is said of the others, and that nobody is kept waiting."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import Any

import pytest

from octavo import StructuredOutputsParams
from octavo.structured.compiler import GrammarCompiler
from octavo.structured.schema import MAX_OPTIONAL_PROPERTIES
from octavo.tokenizer.tokenizer import Tokenizer

TAG = {"begin": "<f>", "schema": {"type": "integer"}, "end": "</f>"}


def accepts(compiler: GrammarCompiler, tokenizer: Tokenizer, text: str, **fields: Any) -> bool:
    """Whether `text` is a whole output of that form."""
    matcher = compiler.submit(StructuredOutputsParams(**fields)).result()
    for token_id in [*tokenizer.encode(text, add_special_tokens=False), 2]:
        if not matcher.mask()[token_id // 32] >> token_id % 32 & 1:
            return False
        matcher.append(token_id)
        assert not matcher.failure
    return True


def chain(count: int) -> str:
    rules = "".join(f"r{i}: r{i + 1}\n" for i in range(count))
    return f'start: r0\n{rules}r{count}: "a"\n'


def references(count: int) -> dict[str, Any]:
    inner = {f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}]} for i in range(count)}
    return {"$defs": {**inner, f"d{count}": {"const": 1}}, "$ref": "#/$defs/d0"}


@pytest.mark.parametrize(
    "fields", [{"grammar": chain(2500)}, {"json": references(5000)}], ids=["rules", "refs"]
)
def test_long_ways_to_the_end_do_not_overflow_the_stack(
    compiler: GrammarCompiler, fields: dict[str, Any]
) -> None:
    """They ended the process in llguidance's constructor, which recurses."""
    with contextlib.suppress(ValueError):
        compiler.check(StructuredOutputsParams(**fields))


@pytest.mark.parametrize("grammar", ["\n" * 32_000, "#\n" * 16_000, " " * 32_000, "a ::= b\n" * 4000])
def test_what_only_looks_like_a_grammar_is_soon_refused(compiler: GrammarCompiler, grammar: str) -> None:
    """llguidance's own look at the first took minutes."""
    with pytest.raises(ValueError, match=r"^structured_outputs\.grammar"):
        compiler.check(StructuredOutputsParams(grammar=grammar))


ODD = ["", "a b", "/x/", 'q"\\\n\x00\x7f', "é", "\U0001f600", "a|b", "^$"]


def test_a_choice_is_any_text(compiler: GrammarCompiler, tokenizer: Tokenizer) -> None:
    for text in ODD:
        assert accepts(compiler, tokenizer, text, choice=ODD)
    assert not accepts(compiler, tokenizer, "a", choice=ODD)
    assert not accepts(compiler, tokenizer, "ab", choice=["a.", "a|b"])


POINT = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}


@pytest.mark.parametrize(
    ("text", "fields", "expected"),
    [
        ('{"x": 1}', {"json": POINT}, True),
        ('{"x": 1}', {"json": '{"const": {"x": 1}}'}, True),
        ('{ "x" :\n1}', {"json": POINT}, True),
        ('{"x": 1, "y": 2}', {"json": POINT}, True),
        ('{"x": 1, "y": 2}', {"json": POINT, "disable_additional_properties": True}, False),
        ('{"x": 1}', {"json": POINT, "disable_any_whitespace": True}, False),
        ('{"x":1}', {"json": POINT, "disable_any_whitespace": True}, True),
        ('{"x": 1}', {"json": POINT, "whitespace_pattern": " ?"}, True),
        ('{"x":\n1}', {"json": POINT, "whitespace_pattern": " ?"}, False),
        ('{"any": [1, null]}', {"json_object": True}, True),
        ("[1]", {"json_object": True}, False),
        ("a/b", {"regex": "^a/b$"}, True),
        ("x = 1", {"grammar": 'root ::= "x = " [0-9]+'}, True),
        ("x = 1", {"grammar": 'start: "x = " /[0-9]+/'}, True),
        ("x = y", {"grammar": 'start: "x = " /[0-9]+/'}, False),
        ("so <f>12</f> it is", {"structural_tag": {"structures": [TAG], "triggers": ["<f"]}}, True),
        ("so <f>ab</f> it is", {"structural_tag": {"structures": [TAG], "triggers": ["<f"]}}, False),
    ],
)
def test_forms(
    compiler: GrammarCompiler, tokenizer: Tokenizer, text: str, fields: dict[str, Any], expected: bool
) -> None:
    assert accepts(compiler, tokenizer, text, **fields) is expected


PRODUCT = {"allOf": [{"anyOf": [{"properties": {f"{i}{j}": {}}} for j in range(9)]} for i in range(9)]}


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("regex", "(a", "unclosed group"),
        ("regex", "(?=a)", "look-around"),
        ("regex", "[^\\s\\S]", "nothing matches it"),
        ("json", {"type": "strin"}, "Invalid type: strin"),
        ("json", {"if": {}, "then": {}}, "Unimplemented keys"),
        ("json", {"$ref": "http://example.com/a.json"}, "Default retriever does not fetch resources"),
        ("json", {"type": "integer", "minimum": 2, "maximum": 1}, "greater than maximum"),
        ("json", PRODUCT, "schema too large"),
        ("grammar", "root ::= (", "Expected"),
        ("grammar", "start: nothing", "unknown name"),
        ("grammar", f"start: {'(' * 5000}", "too deeply|Expected"),
        ("structural_tag", "{}", "must have structures and triggers"),
        ("structural_tag", {"type": "structural_tag", "format": {}}, "a format is not supported"),
        ("structural_tag", {"structures": [TAG], "triggers": ["x"]}, "starts with none of the triggers"),
        ("structural_tag", {"structures": [{}], "triggers": ["x"]}, "begin, schema and end"),
        ("structural_tag", {"structures": [TAG] * 9000, "triggers": ["<f"]}, "at most 262144 characters"),
    ],
)
def test_an_error_names_the_field_and_the_reason(
    compiler: GrammarCompiler, field: str, value: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=rf"^structured_outputs\.{field}[^\n]*({message})[^\n]*$"):
        compiler.check(StructuredOutputsParams(**{field: value}))


def test_a_model_without_an_end_can_not_have_any(tokenizer: Tokenizer) -> None:
    compiler = GrammarCompiler(lambda: tokenizer, tokenizer.vocab_size, [])
    with pytest.raises(ValueError, match=r"^structured_outputs: the model has no end-of-sequence token"):
        compiler.check(StructuredOutputsParams(regex="a"))


def test_other_threads_go_on_while_a_large_schema_compiles(compiler: GrammarCompiler) -> None:
    """Without the GIL: its caller looks several times whether it is done."""
    compiler.check(StructuredOutputsParams(regex="warm"))
    properties = {f"property {i}": {"type": "string", "maxLength": i + 1} for i in range(1500)}
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    future = compiler.submit(StructuredOutputsParams(json=schema))
    looks = 0
    while not future.done():
        time.sleep(0.0002)
        looks += 1
    assert not future.result().failure
    assert looks > 3


def test_what_was_compiled_is_kept_within_bounds(compiler: GrammarCompiler) -> None:
    form = StructuredOutputsParams(regex="kept")
    compiler.check(form)
    assert compiler.submit(form).done()
    for number in range(70):
        compiler.check(StructuredOutputsParams(regex=f"other {number}"))
    again = compiler.submit(StructuredOutputsParams(regex="other 69"))
    assert again.done()
    assert len(compiler._kept) <= 64
    assert not compiler.submit(form).result().failure


def test_an_object_with_as_many_properties_as_it_may_have(
    compiler: GrammarCompiler, tokenizer: Tokenizer
) -> None:
    properties = {f"property {i}": {"type": "integer"} for i in range(MAX_OPTIONAL_PROPERTIES)}
    schema = {"type": "object", "properties": properties, "additionalProperties": False}
    assert accepts(compiler, tokenizer, '{"property 7": 1, "property 470": 2}', json=schema)
    assert not accepts(compiler, tokenizer, '{"property 7": 1, "property 1470": 2}', json=schema)


def test_the_order_of_properties_is_part_of_the_form(compiler: GrammarCompiler, tokenizer: Tokenizer) -> None:
    a, b = {"a": {"const": 1}}, {"b": {"const": 2}}
    for properties, text in (({**a, **b}, '{"a":1,"b":2}'), ({**b, **a}, '{"b":2,"a":1}')):
        schema = {"properties": properties, "required": ["a", "b"], "type": "object"}
        assert accepts(compiler, tokenizer, text, json=schema)


def test_llguidance_is_not_imported_before_it_is_needed() -> None:
    import subprocess

    code = (
        "import sys, octavo.llm, octavo.engine.build, octavo.server.app; print('llguidance' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
