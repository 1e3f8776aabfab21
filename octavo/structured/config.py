"""What the operator says of structured outputs: vLLM's `--structured-outputs-config`."""

from __future__ import annotations

from typing import Any

import msgspec

from octavo.structured.params import StructuredOutputsParams

BACKENDS = ("auto", "guidance")
_NAME = "structured_outputs_config (--structured-outputs-config)"


class StructuredOutputsConfig(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """vLLM's fields. `disable_any_whitespace` and `disable_additional_properties` are for every request.

    `backend` is llguidance, the only one, so that `disable_fallback` changes nothing; thinking is not told
    apart from an answer.
    """

    backend: str = "auto"
    disable_fallback: bool = False
    disable_any_whitespace: bool = False
    disable_additional_properties: bool = False
    reasoning_parser: str = ""
    enable_in_reasoning: bool = False

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise ValueError(f"backend must be {' or '.join(BACKENDS)}, which is llguidance")
        if self.reasoning_parser or self.enable_in_reasoning:
            raise ValueError("reasoning_parser and enable_in_reasoning: there is no reasoning parser yet")

    def applied_to(self, params: StructuredOutputsParams) -> StructuredOutputsParams:
        """What a request asks for, and what the operator does; a `whitespace_pattern` has its way."""
        return msgspec.structs.replace(
            params,
            disable_any_whitespace=params.disable_any_whitespace
            or (self.disable_any_whitespace and params.whitespace_pattern is None),
            disable_additional_properties=params.disable_additional_properties
            or self.disable_additional_properties,
        )


def structured_outputs_config(fields: dict[str, Any] | None) -> StructuredOutputsConfig:
    """Raises ValueError that names the flag for a field or a value that can not be."""
    try:
        return msgspec.convert(fields or {}, StructuredOutputsConfig)
    except msgspec.ValidationError as error:
        raise ValueError(f"{_NAME}: {error}") from error
