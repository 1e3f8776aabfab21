"""The form of an output that a request asks for, whichever field it uses, and errors that name that field."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from octavo.server.errors import APIError
from octavo.structured.params import StructuredOutputsParams

if TYPE_CHECKING:
    from octavo.server.serving import Serving

BACKENDS = ("auto", "guidance", "llguidance")
_GUIDED = {
    "guided_json": "json",
    "guided_regex": "regex",
    "guided_choice": "choice",
    "guided_grammar": "grammar",
    "structural_tag": "structural_tag",
}
"""vLLM's older fields, and those of `StructuredOutputsParams` that they are."""


class OutputForm(NamedTuple):
    """A form, and the field of the request that asks for it."""

    params: StructuredOutputsParams
    field: str


async def check_form(serving: Serving, form: OutputForm | None) -> None:
    """Raise APIError, about the form's field, unless the model can give outputs of that form."""
    if form is None:
        return
    try:
        await serving.engine.check_structured_outputs(form.params)
    except ValueError as error:
        raise _about(form.field, error) from error


def the_form(forms: Iterable[OutputForm | None]) -> OutputForm | None:
    """The one of `forms` that is given, None if none is; raises APIError if several are."""
    given = [form for form in forms if form is not None]
    if len(given) > 1:
        raise APIError(400, f"{given[1].field}: not with {given[0].field}", given[1].field)
    return given[0] if given else None


def from_structured_outputs(value: Mapping[str, Any] | None) -> OutputForm | None:
    """vLLM's `structured_outputs`."""
    if value is None:
        return None
    try:
        # There is one backend, and so none to fall back to.
        fields = {name: each for name, each in value.items() if name != "disable_fallback"}
        params = msgspec.convert(fields, StructuredOutputsParams)
    except (ValueError, RecursionError) as error:
        raise _about("structured_outputs", error) from error
    return OutputForm(params, "structured_outputs")


def from_guided(values: Mapping[str, Any]) -> Iterable[OutputForm | None]:
    """vLLM's older fields `guided_...`; raises APIError for a backend that there is not."""
    backend, whitespace = values["guided_decoding_backend"], values["guided_whitespace_pattern"]
    if backend is not None and backend not in BACKENDS:
        name = "guided_decoding_backend"
        raise APIError(400, f"{name}: only {', '.join(BACKENDS)} are here, got {backend!r:.50}", name)
    if whitespace is not None and values["guided_json"] is None:
        name = "guided_whitespace_pattern"
        raise APIError(400, f"{name}: only with guided_json", name)
    for name, kind in _GUIDED.items():
        if values[name] is not None:
            fields = {kind: values[name]}
            if kind == "json":
                fields["whitespace_pattern"] = whitespace
            yield _form(name, fields)


def from_response_format(
    value: Mapping[str, Any] | None, field: str = "response_format"
) -> OutputForm | None:
    """OpenAI's `response_format`, in which the schema is inside `json_schema`."""
    if value is not None and value.get("type") == "json_schema":
        inner = value.get("json_schema")
        _check_keys(value, ("type", "json_schema"), field)
        if not isinstance(inner, dict):
            raise APIError(400, f"{field}: json_schema must be an object", field)
        return _from_schema(inner, f"{field}.json_schema", field)
    return from_text_format(value, field)


def from_text_format(value: Mapping[str, Any] | None, field: str) -> OutputForm | None:
    """The format of OpenAI's Responses API and of Anthropic's, in which the schema is not inside."""
    match value:
        case None:
            return None
        case {"type": "text"}:
            _check_keys(value, ("type",), field)
            return None
        case {"type": "json_object"}:
            _check_keys(value, ("type",), field)
            return _form(field, {"json_object": True})
        case {"type": "json_schema"}:
            inner = {name: each for name, each in value.items() if name != "type"}
            return _from_schema(inner, field, field)
        case {"type": "structural_tag"}:
            return _form(field, {"structural_tag": dict(value)})
    kind = value.get("type") if isinstance(value, Mapping) else value
    known = "text, json_object, json_schema, structural_tag"
    raise APIError(400, f"{field}: type must be one of {known}; got {kind!r:.50}", field)


def from_schema(value: Any, field: str) -> OutputForm | None:
    """A JSON schema, or "json" for any object: Ollama's `format`."""
    if value is None or value == "":
        return None
    if value == "json":
        return _form(field, {"json_object": True})
    if not isinstance(value, dict):
        raise APIError(400, f'{field}: must be "json" or a JSON schema', field)
    return _form(field, {"json": value})


def _from_schema(inner: Mapping[str, Any], path: str, field: str) -> OutputForm:
    """`strict` or not, the output is held to the schema; name and description are for the client."""
    _check_keys(inner, ("name", "description", "schema", "strict"), path)
    if not isinstance(inner.get("schema"), dict):
        raise APIError(400, f"{path}: schema must be an object", field)
    return _form(field, {"json": inner["schema"]})


def _check_keys(value: Mapping[str, Any], known: tuple[str, ...], path: str) -> None:
    unknown = sorted(set(value) - set(known))
    if unknown:
        field = path.removesuffix(".json_schema")
        raise APIError(400, f"{path}.{unknown[0][:100]} is not supported", field)


def _form(field: str, fields: dict[str, Any]) -> OutputForm:
    try:
        return OutputForm(StructuredOutputsParams(**fields), field)
    except ValueError as error:
        raise _about(field, error) from error


def _about(field: str, error: Exception) -> APIError:
    """The error of what the field asks for, in the field's own name."""
    name = "structured_outputs"
    message = str(error) if str(error) else type(error).__name__
    if field != name:
        message = re.sub(rf"^{name}(\.\w+)?", field, message)
    elif not message.startswith(name):
        message = f"{name}: {message}"
    return APIError(400, message, field)
