"""Forms that a request may ask for, and those that are refused before anything is compiled."""

from __future__ import annotations

from typing import Any

import pytest

from octavo import SamplingParams, StructuredOutputsParams
from octavo.sampling_params import GuidedDecodingParams
from octavo.structured import params


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "exactly one of json, regex, .*; got none"),
        ({"json_object": False}, "got none"),
        ({"json": {}, "regex": "a"}, "got json and regex"),
        ({"regex": 3}, "regex can not be int"),
        ({"json": ["a"]}, "json can not be list"),
        ({"choice": []}, "choice takes 1 to 4096 texts"),
        ({"choice": ["a", 3]}, "choice must be a list of texts"),
        ({"choice": ["x" * params.MAX_CHOICE_CHARACTERS, "y"]}, "choice takes at most 65536 characters"),
        ({"regex": "a" * (params.MAX_REGEX_CHARACTERS + 1)}, "regex takes at most 8192 characters"),
        ({"json": "a" * (params.MAX_SCHEMA_CHARACTERS + 1)}, "json takes at most 262144 characters"),
        ({"grammar": "a" * (params.MAX_GRAMMAR_CHARACTERS + 1)}, "grammar takes at most 32768 characters"),
        ({"regex": "a", "whitespace_pattern": " "}, "whitespace_pattern: only with json"),
        ({"json": {}, "whitespace_pattern": " ", "disable_any_whitespace": True}, "not with disable_any"),
    ],
)
def test_what_can_not_be_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^structured_outputs.*{message}"):
        StructuredOutputsParams(**fields)


def test_the_older_names_mean_the_same() -> None:
    form = GuidedDecodingParams(choice=["a"])
    params = SamplingParams(guided_decoding=form)
    assert (params.structured_outputs, params.guided_decoding) == (form, None)
    with pytest.raises(ValueError, match="guided_decoding"):
        SamplingParams(guided_decoding=form, structured_outputs=form)


def test_an_end_that_does_not_count_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^ignore_eos: not with structured_outputs"):
        SamplingParams(ignore_eos=True, structured_outputs=StructuredOutputsParams(regex="a"))
