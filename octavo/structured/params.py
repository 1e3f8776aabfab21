"""What a request wants its output to look like: vLLM's `StructuredOutputsParams`, checked at construction."""

from __future__ import annotations

from typing import Any

import msgspec

MAX_SCHEMA_CHARACTERS = 1 << 18
"""Of a JSON schema as text, and of all schemas of a structural tag together."""
MAX_REGEX_CHARACTERS = 1 << 13
"""Compiling may take the square of it: a second or two at this length."""
MAX_GRAMMAR_CHARACTERS = 1 << 15
MAX_CHOICES = 4096
MAX_CHOICE_CHARACTERS = 1 << 16
MAX_WHITESPACE_PATTERN_CHARACTERS = 256

KINDS = ("json", "regex", "choice", "grammar", "json_object", "structural_tag")
"""The fields of which a request gives one."""


class StructuredOutputsParams(msgspec.Struct, forbid_unknown_fields=True):
    """The form of an output, with vLLM's names and meanings; exactly one of the first six is given.

    `json` is a JSON schema, as an object or as text. `regex` is an expression that the whole output matches.
    `choice` has the texts of which the output is one. `grammar` is a context-free grammar in EBNF (GBNF) or
    Lark. `json_object` True asks for any JSON object. `structural_tag` asks for JSON of schemas between tags;
    a trigger is the beginning of an opening tag.

    Three fields are for JSON. `disable_any_whitespace` leaves out white space. `whitespace_pattern` is an
    expression for the white space that there may be. `disable_additional_properties` forbids properties that
    a schema does not name, unless the schema says otherwise.

    Raises ValueError that names the field, what it got and what it takes. Whether a schema, an expression or
    a grammar is one is seen when it is compiled.
    """

    json: str | dict[str, Any] | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    disable_any_whitespace: bool = False
    disable_additional_properties: bool = False
    whitespace_pattern: str | None = None
    structural_tag: str | dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.json_object is False:
            self.json_object = None
        given = [name for name in KINDS if getattr(self, name) is not None]
        if len(given) != 1:
            what = f"got {' and '.join(given)}" if given else "got none"
            raise ValueError(f"structured_outputs needs exactly one of {', '.join(KINDS)}; {what}")
        for name, kinds in (
            ("json", str | dict),
            ("regex", str),
            ("grammar", str),
            ("structural_tag", str | dict),
        ):
            value = getattr(self, name)
            if value is not None and not isinstance(value, kinds):
                raise ValueError(f"structured_outputs.{name} can not be {type(value).__name__}")
        self._check_lengths()
        if self.choice is not None:
            self._check_choice(self.choice)
        if self.whitespace_pattern is not None and not (self.json is not None or self.json_object):
            raise ValueError("structured_outputs.whitespace_pattern: only with json or json_object")
        if self.whitespace_pattern is not None and self.disable_any_whitespace:
            raise ValueError("structured_outputs.whitespace_pattern: not with disable_any_whitespace")

    def _check_lengths(self) -> None:
        for name, most in (
            ("json", MAX_SCHEMA_CHARACTERS),
            ("structural_tag", MAX_SCHEMA_CHARACTERS),
            ("regex", MAX_REGEX_CHARACTERS),
            ("grammar", MAX_GRAMMAR_CHARACTERS),
            ("whitespace_pattern", MAX_WHITESPACE_PATTERN_CHARACTERS),
        ):
            value = getattr(self, name)
            if isinstance(value, str) and len(value) > most:
                raise ValueError(
                    f"structured_outputs.{name} takes at most {most} characters, got {len(value)}"
                )

    def _check_choice(self, choice: list[str]) -> None:
        if not isinstance(choice, list) or not all(isinstance(text, str) for text in choice):
            raise ValueError("structured_outputs.choice must be a list of texts")
        if not 1 <= len(choice) <= MAX_CHOICES:
            raise ValueError(f"structured_outputs.choice takes 1 to {MAX_CHOICES} texts, got {len(choice)}")
        if (length := sum(map(len, choice))) > MAX_CHOICE_CHARACTERS:
            raise ValueError(
                f"structured_outputs.choice takes at most {MAX_CHOICE_CHARACTERS} characters in all, "
                f"got {length}"
            )

    @property
    def kind(self) -> str:
        """The one of `KINDS` that is given."""
        return next(name for name in KINDS if getattr(self, name) is not None)
