"""The bytes of text that each token stands for, worked out from a tokenizer's decoder.

A `tokenizers` decoder turns a list of tokens into text; a stream needs the same one token at a time. Every
decoder that language models use gives each token fixed bytes, whatever its neighbours, but for the first
token of a text. There are two families. The tokens of byte-level BPE (Radford et al., 2019) spell bytes, in
256 printable characters. The tokens of SentencePiece (Kudo and Richardson, 2018) spell text, with U+2581 for
a space, and there may be tokens for single bytes to fall back to.
"""

from __future__ import annotations

import codecs
import json
import re
from dataclasses import dataclass
from typing import Any

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")

REPLACE_EACH_BYTE = "octavo-replace-each-byte"
"""Codec error handler: one U+FFFD for each byte that is not UTF-8, as the byte-fallback decoder gives."""


def _replace_each_byte(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "\ufffd" * (error.end - error.start), error.end


codecs.register_error(REPLACE_EACH_BYTE, _replace_each_byte)


def _byte_alphabet() -> dict[str, int]:
    """The character that stands for each byte in byte-level BPE, as character -> byte (GPT-2)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    characters = [*printable, *(256 + index for index in range(len(others)))]
    return {chr(character): byte for character, byte in zip(characters, printable + others, strict=True)}


BYTE_ALPHABET = _byte_alphabet()


@dataclass(frozen=True, slots=True)
class PieceDecoder:
    """How tokens become bytes of text.

    `errors` is the codec error handler for bytes that are not UTF-8. `separator` goes between tokens.
    At the start of a text, `first_drops` is removed wherever it is in the first token, and then up to
    `strip_count` times `strip_prefix` from the front of the text.
    """

    byte_level: bool = False
    byte_fallback: bool = False
    replacements: tuple[tuple[str, str], ...] = ()
    separator: str = ""
    first_drops: str = ""
    strip_prefix: str = ""
    strip_count: int = 0

    @property
    def errors(self) -> str:
        """The codec error handler with which the pieces, joined, decode to text."""
        return REPLACE_EACH_BYTE if self.byte_fallback else "replace"

    @classmethod
    def of(cls, decoder: Any) -> PieceDecoder:
        """Read a `tokenizers` decoder; None is no decoder, which puts a space between tokens.

        Raises ValueError naming the decoder's type when it is of another family.
        """
        if decoder is None:
            return cls(separator=" ")
        found: dict[str, Any] = {}
        fused = False
        for step in _flatten(json.loads(decoder.__getstate__())):
            match step:
                case {"type": "ByteLevel"} if not found:
                    found["byte_level"] = True
                case {"type": "Replace", "pattern": {"String": str(old)}, "content": str(new)} if not fused:
                    found["replacements"] = (*found.get("replacements", ()), (old, new))
                case {"type": "Metaspace", "replacement": str(old), "prepend_scheme": scheme} if not fused:
                    found["replacements"] = (*found.get("replacements", ()), (old, " "))
                    found["first_drops"] = "" if scheme == "never" else old
                case {"type": "ByteFallback"}:
                    found["byte_fallback"] = True
                case {"type": "Fuse"}:
                    fused = True
                case {"type": "Strip", "content": str(prefix), "start": int(count), "stop": 0} if fused:
                    found["strip_prefix"], found["strip_count"] = prefix, count
                case _:
                    raise ValueError(f"the tokenizer's decoder has a step that octavo does not run: {step}")
            if found.get("byte_level") and len(found) > 1:
                raise ValueError(f"the tokenizer's decoder mixes ByteLevel with {step['type']}")
        return cls(**found)

    def piece(self, token: str, *, first: bool = False) -> bytes:
        """The bytes that `token` stands for; `first` when no token comes before it."""
        if self.byte_level:
            try:
                return bytes([BYTE_ALPHABET[character] for character in token])
            except KeyError:  # an added token, which is text already
                return token.encode()
        if self.byte_fallback and (byte := _BYTE_TOKEN.fullmatch(token)):
            return bytes([int(byte[1], 16)])
        if first and self.first_drops:
            token = token.replace(self.first_drops, "")
        for old, new in self.replacements:
            token = token.replace(old, new)
        return token.encode() if first else (self.separator + token).encode()


def _flatten(decoder: dict[str, Any]) -> list[dict[str, Any]]:
    if decoder.get("type") != "Sequence":
        return [decoder]
    return [step for part in decoder["decoders"] for step in _flatten(part)]
