"""From `StructuredOutputsParams` to a grammar as llguidance reads it."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from typing import Any

from octavo.structured.params import MAX_SCHEMA_CHARACTERS, StructuredOutputsParams
from octavo.structured.schema import check_multiples, close_objects, read_schema

MAX_EBNF_RULES = 500
_IS_LARK = re.compile(r"^[ \t]*(%llguidance\b|start[ \t]*:)", re.MULTILINE)


def grammar_of(params: StructuredOutputsParams, special_tokens: Collection[str] = ()) -> str:
    """The grammar; `special_tokens` are those that a trigger of a structural tag may be.

    Raises ValueError, beginning with the field (`structured_outputs.json`), for what is seen to be wrong
    before the grammar is compiled.
    """
    from llguidance import LLMatcher

    if params.json is not None or params.json_object:
        schema: str | dict[str, Any] = {"type": "object"} if params.json is None else params.json
        return _json_grammar(schema, params, "structured_outputs.json")
    if params.regex is not None:
        return LLMatcher.grammar_from_regex(params.regex)
    if params.choice is not None:
        return LLMatcher.grammar_from_regex("|".join(f"(?:{_literal(text)})" for text in params.choice))
    if params.grammar is not None:
        return LLMatcher.grammar_from_lark(_lark(params.grammar, "structured_outputs.grammar"))
    assert params.structural_tag is not None
    return _structural_tag(params.structural_tag, params, special_tokens)


def _lark(grammar: str, name: str) -> str:
    """A grammar in Lark, translated if it is in EBNF."""
    from llguidance.gbnf_to_lark import gbnf_to_lark

    check_multiples(grammar, name)
    if _IS_LARK.search(grammar):
        return grammar
    # The translation takes the square of it.
    if (num_rules := grammar.count("::=")) > MAX_EBNF_RULES:
        raise ValueError(f"{name} takes at most {MAX_EBNF_RULES} rules in EBNF, got {num_rules}")
    try:
        return gbnf_to_lark(grammar)
    except Exception as error:
        raise ValueError(f"{name}: not EBNF (root ::= ...) nor Lark (start: ...): {error}") from None


def _json_grammar(schema: str | dict[str, Any], params: StructuredOutputsParams, name: str) -> str:
    from llguidance import LLMatcher

    found = read_schema(schema, name)
    if params.disable_additional_properties:
        found = close_objects(found)
    options: dict[str, Any] = {"whitespace_flexible": not params.disable_any_whitespace}
    if params.whitespace_pattern is not None:
        options["whitespace_pattern"] = params.whitespace_pattern
    return LLMatcher.grammar_from_json_schema(json.dumps(found), defaults=options)  # type: ignore[arg-type]


def _literal(text: str) -> str:
    """A regular expression for exactly `text`, spelled so that no character has another meaning."""
    return "".join(each if each.isascii() and each.isalnum() else f"\\x{{{ord(each):X}}}" for each in text)


def _structural_tag(
    tag: str | dict[str, Any], params: StructuredOutputsParams, special_tokens: Collection[str]
) -> str:
    from llguidance import StructTag

    name = "structured_outputs.structural_tag"
    try:
        found = json.loads(tag) if isinstance(tag, str) else tag
        length = len(json.dumps(found))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{name}: not JSON: {error}") from None
    if length > MAX_SCHEMA_CHARACTERS:
        raise ValueError(f"{name} takes at most {MAX_SCHEMA_CHARACTERS} characters")
    if not isinstance(found, dict) or "format" in found:
        raise ValueError(f"{name}: must have structures and triggers; a format is not supported")
    match found:
        case {"structures": [*structures], "triggers": [*triggers]} if structures and triggers:
            pass
        case _:
            raise ValueError(f"{name}: must have structures and triggers, which are lists that hold some")
    if not all(isinstance(each, str) and each for each in triggers):
        raise ValueError(f"{name}.triggers must hold texts that are not empty")
    tags = []
    for index, structure in enumerate(structures):
        match structure:
            case {"begin": str(begin), "schema": str() | dict() as schema, "end": str(end)}:
                trigger = next((each for each in triggers if begin.startswith(each)), None)
            case _:
                raise ValueError(f"{name}.structures[{index}] must have begin, schema and end")
        if trigger is None:
            raise ValueError(f"{name}.structures[{index}].begin starts with none of the triggers")
        grammar = read_schema(schema, f"{name}.structures[{index}].schema")
        if params.disable_additional_properties:
            grammar = close_objects(grammar)
        tags.append(StructTag(trigger=trigger, begin=begin, grammar=json.dumps(grammar), end=end))
    special = {each.trigger for each in tags if each.trigger in special_tokens}
    if special and len(special) < len({each.trigger for each in tags}):
        raise ValueError(f"{name}.triggers must all be special tokens of the model, or none of them")
    return StructTag.to_grammar(tags, assume_special=bool(special))
