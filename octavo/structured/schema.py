"""A JSON schema before it is compiled: read, bounded, and with what a request says of all its objects."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from typing import Any

from octavo.structured.params import MAX_SCHEMA_CHARACTERS

MAX_MULTIPLE = 10_000
"""Bound on the least common multiple of all `multipleOf` of a schema, decimal points left out: compiling
takes an automaton with as many states."""
MAX_DEPTH = 128
"""As llguidance reads it."""
MAX_PATTERN_CHARACTERS = 1 << 12
MAX_ALL_PATTERNS_CHARACTERS = 1 << 15
MAX_OPTIONAL_PROPERTIES = 480
"""Of an object. Each is a way to go on: llguidance follows no more, and masks take longer with each."""
_MULTIPLE_OF = re.compile(r'"multipleOf"\s*:\s*(-?[0-9.eE+-]+)')

_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_SCHEMAS = (
    "additionalProperties",
    "additionalItems",
    "items",
    "prefixItems",
    "contains",
    "propertyNames",
    "not",
    "allOf",
    "anyOf",
    "oneOf",
)


def read_schema(schema: str | dict[str, Any], name: str) -> Any:
    """A schema as Python objects; raises ValueError, about `name`, for text that is not JSON or too long."""
    try:
        found = json.loads(schema) if isinstance(schema, str) else schema
        text = json.dumps(found)
    except (ValueError, TypeError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise ValueError(f"{name}: not a JSON schema: {reason}") from None
    if not isinstance(found, dict | bool):
        raise ValueError(f"{name}: a JSON schema is an object, got {type(found).__name__}")
    if len(text) > MAX_SCHEMA_CHARACTERS:
        raise ValueError(f"{name} takes at most {MAX_SCHEMA_CHARACTERS} characters, got {len(text)}")
    check_multiples(text, name)
    _check_parts(found, name)
    return found


def _check_parts(schema: Any, name: str) -> None:
    waiting = [(schema, 0)]
    lengths = [0]
    while waiting:
        each, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise ValueError(f"{name}: not a JSON schema: nested too deeply, over {MAX_DEPTH} levels")
        if isinstance(each, list):
            waiting += [(one, depth + 1) for one in each]
        elif isinstance(each, dict):
            waiting += [(one, depth + 1) for one in each.values()]
            patterns = each.get("patternProperties")
            lengths += map(len, patterns if isinstance(patterns, dict) else ())
            lengths += [len(each["pattern"])] if isinstance(each.get("pattern"), str) else []
            properties, required = each.get("properties"), each.get("required")
            if isinstance(properties, dict) and len(properties) > MAX_OPTIONAL_PROPERTIES:
                needed = (
                    {one for one in required if isinstance(one, str)} if isinstance(required, list) else ()
                )
                count = len(properties.keys() - needed)
                if count > MAX_OPTIONAL_PROPERTIES:
                    raise ValueError(
                        f"{name}: an object takes at most {MAX_OPTIONAL_PROPERTIES} properties that are not "
                        f"required, got {count}"
                    )
    if max(lengths) > MAX_PATTERN_CHARACTERS or sum(lengths) > MAX_ALL_PATTERNS_CHARACTERS:
        raise ValueError(
            f"{name}: a pattern takes at most {MAX_PATTERN_CHARACTERS} characters, and all together at most "
            f"{MAX_ALL_PATTERNS_CHARACTERS}"
        )


def close_objects(schema: Any) -> Any:
    """A copy in which objects that name properties have no others, unless they say so themselves."""
    if not isinstance(schema, dict):
        return schema
    closed = dict(schema)
    for key in _MAPS:
        if isinstance(closed.get(key), dict):
            closed[key] = {name: close_objects(each) for name, each in closed[key].items()}
    for key in _SCHEMAS:
        value = closed.get(key)
        if isinstance(value, list):
            closed[key] = [close_objects(each) for each in value]
        elif isinstance(value, dict):
            closed[key] = close_objects(value)
    if "properties" in closed or "patternProperties" in closed:
        closed.setdefault("additionalProperties", False)
    return closed


def check_multiples(text: str, name: str) -> None:
    """Raise ValueError, about `name`, if the `multipleOf` in `text` would take too long to compile."""
    least = 1
    for multiple in _multiples(text):
        least = math.lcm(least, multiple)
        if least > MAX_MULTIPLE:
            raise ValueError(
                f"{name}: multipleOf must have a least common multiple of at most {MAX_MULTIPLE}, with "
                "decimal points left out"
            )


def _multiples(text: str) -> Iterator[int]:
    # JSON inside a grammar may spell the key with escapes.
    plain = re.sub(r"\\u00([0-9a-fA-F]{2})", lambda match: chr(int(match[1], 16)), text)
    for match in _MULTIPLE_OF.finditer(plain):
        try:
            _, digits, exponent = Decimal(match[1]).as_tuple()
        except InvalidOperation:
            continue
        if isinstance(exponent, int) and any(digits):
            number = int("".join(map(str, digits))) * 10 ** min(max(exponent, 0), 9)
            yield number
