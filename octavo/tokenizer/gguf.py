"""The tokenizer inside a GGUF file, as a `tokenizers` one.

Built from lists, not through tokenizer.json: 49,000 tokens take some 40 ms so.
Source of the keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, section Tokenizer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, processors

from octavo.tokenizer.pretokenizers import PRE_TOKENIZATIONS
from octavo.tokenizer.refusal import refused
from octavo.tokenizer.tokenizer import Tokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4
"""Values of `tokenizer.ggml.token_type`."""

MAX_PIECE_CHARS = 1024
"""Longest SentencePiece token that merges are derived for; deriving them takes its square."""

_PREFIX = "tokenizer.ggml."
_NAMED_TOKENS = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}


def tokenizer_from_metadata(metadata: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer that a GGUF file's metadata describes, with its chat templates.

    Raises ValueError naming the metadata key that is missing, malformed or of a kind that octavo lacks.
    """
    kind = metadata.get(_PREFIX + "model")
    tokens = _list(metadata, "tokens")
    special_tokens = {
        name: tokens[token_id]
        for name, key in _NAMED_TOKENS.items()
        if (token_id := _token_id(metadata, key, len(tokens))) is not None
    }
    if kind == "gpt2":
        backend = _byte_level(metadata, tokens)
    elif kind == "llama":
        backend = _sentencepiece(metadata, tokens, special_tokens.get("unk_token"))
    else:
        raise ValueError(
            f"{_PREFIX}model is {kind!r:.80}; octavo runs 'gpt2' (byte-level BPE) and 'llama' (SPM)"
        )
    _add_tokens(backend, tokens, _types(metadata, len(tokens)), special_tokens)

    adds_bos = kind == "llama" or metadata.get(_PREFIX + "pre") in (
        "llama-bpe",
        "llama3",
        "llama-v3",
        "tekken",
    )
    _put_around(
        backend,
        special_tokens.get("bos_token") if metadata.get(_PREFIX + "add_bos_token", adds_bos) else None,
        special_tokens.get("eos_token") if metadata.get(_PREFIX + "add_eos_token", False) else None,
    )
    return Tokenizer(backend, special_tokens, _chat_templates(metadata))


def _put_around(backend: tokenizers.Tokenizer, bos: str | None, eos: str | None) -> None:
    """Have `backend` put `bos` before a text and `eos` after it where special tokens are asked for."""
    specials = [
        {"id": name, "ids": [backend.token_to_id(token)], "tokens": [token]}
        for name, token in (("bos", bos), ("eos", eos))
        if token is not None
    ]
    before, after = (["bos"] if bos is not None else []), (["eos"] if eos is not None else [])
    backend.post_processor = processors.TemplateProcessing(
        single=[*before, "$A", *after], pair=[*before, "$A", *after, "$B"], special_tokens=specials
    )


def _byte_level(metadata: Mapping[str, Any], tokens: list[str]) -> tokenizers.Tokenizer:
    """Byte-level BPE: tokens spelled in the byte alphabet, merges in order of priority."""
    name = metadata.get(_PREFIX + "pre", "default")
    scheme = PRE_TOKENIZATIONS.get(name)
    if scheme is None:
        known = ", ".join(PRE_TOKENIZATIONS)
        raise ValueError(
            f"{_PREFIX}pre is {name!r}, a pre-tokenizer that octavo lacks (it has {known}); "
            "give the model's tokenizer.json with --tokenizer"
        )
    merges = [
        (left, right) for left, _, right in (merge.partition(" ") for merge in _list(metadata, "merges"))
    ]
    backend = _bpe(tokens, merges, ignore_merges=scheme.ignore_merges)
    if scheme.nfc:
        backend.normalizer = scheme.normalizer()
    backend.pre_tokenizer = scheme.build()
    backend.decoder = decoders.ByteLevel()
    return backend


def _sentencepiece(
    metadata: Mapping[str, Any], tokens: list[str], unknown: str | None
) -> tokenizers.Tokenizer:
    """SentencePiece BPE: U+2581 for a space, single bytes for characters that have no token."""
    scores = _list(metadata, "scores", len(tokens))
    types = _types(metadata, len(tokens))
    merges = merges_from_scores(tokens, scores, types)
    backend = _bpe(tokens, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    steps: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    escape: list[Any] = [normalizers.Replace(" ", "▁")]
    if metadata.get(_PREFIX + "add_space_prefix", True):
        escape.insert(0, normalizers.Prepend("▁"))
        steps.append(decoders.Strip(" ", 1, 0))
    backend.normalizer = normalizers.Sequence(escape)
    backend.decoder = decoders.Sequence(steps)
    return backend


def merges_from_scores(tokens: list[str], scores: list[float], types: list[int]) -> list[tuple[str, str]]:
    """BPE merges that do what SentencePiece does with scores: join the pair whose token scores highest.

    Every way to cut a token into two others is a merge, and the better token's merges come first.
    Raises ValueError for a token of more than 1,024 characters.
    """
    ids = {token: index for index, token in enumerate(tokens)}
    found: list[tuple[float, int, int, int]] = []
    for index, (token, score, kind) in enumerate(zip(tokens, scores, types, strict=True)):
        if kind not in (NORMAL, USER_DEFINED):
            continue
        if len(token) > MAX_PIECE_CHARS:
            raise ValueError(
                f"{_PREFIX}tokens[{index}] has {len(token)} characters; at most {MAX_PIECE_CHARS} are allowed"
            )
        for cut in range(1, len(token)):
            left = ids.get(token[:cut])
            if left is not None and (right := ids.get(token[cut:])) is not None:
                found.append((-score, index, left, right))
    found.sort()
    return [(tokens[left], tokens[right]) for _, _, left, right in found]


def _bpe(tokens: list[str], merges: list[tuple[str, str]], **options: Any) -> tokenizers.Tokenizer:
    vocabulary = {token: index for index, token in enumerate(tokens)}
    with refused(f"{_PREFIX}merges"):
        return tokenizers.Tokenizer(models.BPE(vocabulary, merges, **options))


def _add_tokens(
    backend: tokenizers.Tokenizer, tokens: list[str], types: list[int], special_tokens: Mapping[str, str]
) -> None:
    """Have the control tokens recognised in text and hidden in output, and the user's recognised."""
    named = set(special_tokens.values())
    special = [token for token, kind in zip(tokens, types, strict=True) if kind in (CONTROL, UNKNOWN)]
    special += [token for token in special_tokens.values() if token not in set(special)]
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    backend.add_tokens(
        [
            AddedToken(token, normalized=False)
            for token, kind in zip(tokens, types, strict=True)
            if kind == USER_DEFINED and token not in named
        ]
    )


def _chat_templates(metadata: Mapping[str, Any]) -> dict[str, str]:
    """`tokenizer.chat_template` is the default; others are `tokenizer.chat_template.NAME`."""
    key = "tokenizer.chat_template"
    templates = {
        name.removeprefix(key + "."): source
        for name, source in metadata.items()
        if name.startswith(key + ".") and isinstance(source, str)
    }
    if isinstance(default := metadata.get(key), str):
        templates["default"] = default
    return templates


def _list(metadata: Mapping[str, Any], key: str, length: int | None = None) -> list[Any]:
    """A metadata array as a plain list."""
    values = metadata.get(_PREFIX + key)
    if values is None:
        raise ValueError(f"{_PREFIX}{key} is missing: the file has no usable tokenizer")
    values = values if isinstance(values, list) else values.tolist()
    if length is not None and len(values) != length:
        raise ValueError(f"{_PREFIX}{key} has {len(values)} entries for {length} tokens")
    return list(values)


def _types(metadata: Mapping[str, Any], length: int) -> list[int]:
    """The type of each token; a file without types has normal ones only."""
    if _PREFIX + "token_type" not in metadata:
        return [NORMAL] * length
    return _list(metadata, "token_type", length)


def _token_id(metadata: Mapping[str, Any], key: str, vocab_size: int) -> int | None:
    """The id of a named token; files write 2**32 - 1, or nothing, for a token that they lack."""
    token_id = metadata.get(_PREFIX + key)
    if token_id is None or int(token_id) == 2**32 - 1:
        return None
    if not 0 <= int(token_id) < vocab_size:
        raise ValueError(f"{_PREFIX}{key} is {token_id}; there are {vocab_size} tokens")
    return int(token_id)
