"""The tokenizer of a Hugging Face directory: tokenizer.json and the files around it.

What transformers does with these files, without transformers: the names of special tokens, tokens added
after training, chat templates. As there, tokenizer.json alone says what goes around a text, whatever
`add_bos_token` in the config may be.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken

from octavo.formats.inside import file_inside
from octavo.tokenizer.refusal import refused
from octavo.tokenizer.tokenizer import Tokenizer

SPECIAL_NAMES = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)


def tokenizer_from_directory(directory: Path, file_name: str = "tokenizer.json") -> Tokenizer:
    """Read tokenizer.json, tokenizer_config.json, special_tokens_map.json and the chat templates.

    Only the first must be there. Raises ValueError naming the file that is missing or malformed.
    """
    path = file_inside(directory, file_name)
    if not path.is_file():
        raise ValueError(
            f"{directory}: there is no {file_name}; save one with transformers "
            "(AutoTokenizer.from_pretrained(...).save_pretrained(...)) or give one with --tokenizer"
        )
    with refused(f"{path}: not a tokenizer"):
        backend = tokenizers.Tokenizer.from_file(str(path))
        # What some broken ones lack is found only by a character that no token has.
        backend.encode_batch_fast(["a \U0010ffff"])

    config = _read_json(file_inside(directory, "tokenizer_config.json"))
    if "added_tokens_decoder" not in config:  # written before transformers kept it all in the config
        config |= _read_json(file_inside(directory, "special_tokens_map.json"))
    special_tokens = _add_tokens(backend, config, directory)
    try:
        return Tokenizer(backend, special_tokens, _chat_templates(config, directory))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _add_tokens(backend: tokenizers.Tokenizer, config: Mapping[str, Any], directory: Path) -> dict[str, str]:
    """Add the tokens that the config has and tokenizer.json lacks; returns the named special tokens."""
    extra = config.get("extra_special_tokens") or config.get("additional_special_tokens") or []
    entries = {name: config.get(name) for name in SPECIAL_NAMES}
    entries |= {name: value for name, value in config.items() if name.endswith("_token")}
    if isinstance(extra, dict):  # more named ones
        entries, extra = entries | extra, []
    try:
        listed = sorted(config.get("added_tokens_decoder", {}).items(), key=lambda item: int(item[0]))
        # Settings such as add_bos_token end in "_token", too.
        named = {name: _added_token(entry) for name, entry in entries.items() if entry and entry is not True}
        wanted = [
            *(_added_token(entry, special=False) for _, entry in listed),
            *named.values(),
            *(_added_token(entry) for entry in extra),
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        path = directory / "tokenizer_config.json"
        raise ValueError(f"{path}: a special token is malformed: {error}") from error
    known = {entry.content for entry in backend.get_added_tokens_decoder().values()}
    backend.add_tokens([token for token in wanted if token.content not in known])
    return {name: token.content for name, token in named.items()}


def _added_token(entry: Any, special: bool = True) -> AddedToken:
    """A token as the config has it: its text, or a mapping with its flags."""
    if isinstance(entry, str):
        return AddedToken(entry, special=special)
    names = ("lstrip", "rstrip", "single_word", "normalized")
    flags = {name: bool(entry[name]) for name in names if name in entry}
    return AddedToken(entry["content"], special=special or bool(entry.get("special")), **flags)


def _chat_templates(config: Mapping[str, Any], directory: Path) -> dict[str, str]:
    """Templates by name: from the config (one, or a list of named ones), then from .jinja files."""
    path = directory / "tokenizer_config.json"
    entry = config.get("chat_template")
    match entry:
        case None:
            templates = {}
        case str():
            templates = {"default": entry}
        case list():
            try:
                templates = {str(each["name"]): str(each["template"]) for each in entry}
            except (KeyError, TypeError) as error:
                raise ValueError(f"{path}: chat_template must list names and templates") from error
        case _:
            raise ValueError(f"{path}: chat_template must be a string or a list of named templates")
    if (default := file_inside(directory, "chat_template.jinja")).is_file():
        templates["default"] = _read_text(default)
    folder = file_inside(directory, "additional_chat_templates")
    for file in sorted(folder.glob("*.jinja")):
        templates[file.stem] = _read_text(file_inside(folder, file.name))
    return templates


def _read_json(path: Path) -> dict[str, Any]:
    """A JSON object; an empty one where there is no such file."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(_read_text(path))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path}: must hold a JSON object, got {type(value).__name__}")
    return value


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8: {error.reason}") from error
