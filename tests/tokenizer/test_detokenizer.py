"""Streamed text is the text of the whole, whatever the tokens and however they arrive."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers

from octavo.tokenizer.detokenizer import IncrementalDetokenizer
from octavo.tokenizer.pieces import BYTE_ALPHABET, PieceDecoder
from octavo.tokenizer.tokenizer import Tokenizer

FAMILIES = ["demo", "byte_level", "spm", "spm_no_prefix", "metaspace_always", "metaspace_never", "words"]


@pytest.fixture(scope="module")
def family(
    demo_tokenizer: Tokenizer, byte_level: tokenizers.Tokenizer, sentencepiece: tokenizers.Tokenizer
) -> Callable[[str], tuple[Tokenizer, tokenizers.Tokenizer]]:
    """Each family's tokenizer, ours and the library's, by name."""

    def with_decoder(decoder: Any) -> tokenizers.Tokenizer:
        copy = tokenizers.Tokenizer.from_str(sentencepiece.to_str())
        copy.decoder = decoder
        return copy

    replace: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    words = tokenizers.Tokenizer(models.WordLevel({"<unk>": 0, "one": 1, "two": 2, "three": 3}, "<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.add_special_tokens(["<s>", "</s>"])
    backends = {
        "demo": demo_tokenizer._backend,
        "byte_level": byte_level,
        "spm": sentencepiece,
        "spm_no_prefix": with_decoder(decoders.Sequence(replace)),
        "metaspace_always": with_decoder(decoders.Metaspace(prepend_scheme="always")),
        "metaspace_never": with_decoder(decoders.Metaspace(prepend_scheme="never")),
        "words": words,
    }
    ours = {name: Tokenizer(backend, {}, {}) for name, backend in backends.items()}
    return lambda name: (ours[name], backends[name])


def stream(
    tokenizer: Tokenizer,
    prompt: Sequence[int],
    output: Sequence[int],
    sizes: Sequence[int] = (),
    **options: Any,
) -> list[str]:
    """The pushes of `output`, in chunks of `sizes` and then one by one, and the finish."""
    detokenizer = IncrementalDetokenizer(tokenizer, prompt, **options)
    pieces, start = [], 0
    for size in [*sizes, *[1] * len(output)]:
        pieces.append(detokenizer.push(output[start : start + size]))
        start += size
    return [*pieces, detokenizer.finish()]


def runs_are_sound(tokenizer: Tokenizer, token_ids: Sequence[int], skipped: frozenset[int]) -> bool:
    """Whether every run of byte-fallback tokens is UTF-8 or holds no character at all.

    The byte-fallback decoder turns a whole run into U+FFFD when any byte of it is wrong; a stream has given
    the characters before that byte already.
    """
    if not tokenizer.pieces.byte_fallback:
        return True
    run, runs = b"", []
    for token in token_ids:
        spelling = tokenizer.token(token)
        if token in skipped or spelling is None:
            continue
        if spelling.startswith("<0x"):
            run += tokenizer.token_bytes(token)
        else:
            runs.append(run)
            run = b""
    return all(
        "\ufffd" not in (text := run.decode(errors="replace")) or not text.strip("\ufffd")
        for run in [*runs, run]
    )


@functools.cache
def token_lists(tokenizer: Tokenizer, max_size: int) -> st.SearchStrategy[list[int]]:
    """Token ids of any kind: many that are added, part of a character or beyond the vocabulary."""
    size = tokenizer.vocab_size
    partial = [token for token in range(size) if "\ufffd" in tokenizer.token_text(token)]
    kinds = [st.integers(0, size - 1), st.just(size + 1)]
    kinds += [st.sampled_from(sorted(each)) for each in (tokenizer.added_token_ids, partial) if each]
    return st.lists(st.one_of(kinds), max_size=max_size)


@pytest.mark.parametrize("name", FAMILIES)
@settings(max_examples=250, deadline=None)
@given(data=st.data(), skip=st.booleans())
def test_streamed_is_decoded(family: Any, name: str, data: st.DataObject, skip: bool) -> None:
    tokenizer, library = family(name)
    tokens = token_lists(tokenizer, 16)
    output, prompt = data.draw(tokens), data.draw(st.one_of(st.just([]), tokens))
    if data.draw(st.booleans()):
        prompt = [min(tokenizer.special_token_ids)] * len(prompt)
    elif prompt:  # ends with a whole character, so that the prompt has a text of its own
        prompt = [*prompt, *library.encode("one", add_special_tokens=False).ids]
    sizes = data.draw(st.lists(st.integers(0, 4), max_size=8))
    pieces = stream(tokenizer, prompt, output, sizes, skip_special_tokens=skip)

    skipped = tokenizer.special_token_ids if skip else frozenset[int]()
    if not runs_are_sound(tokenizer, [*prompt, *output], skipped):
        return
    whole = library.decode([*prompt, *output], skip_special_tokens=skip)
    before = library.decode(prompt, skip_special_tokens=skip)
    assert whole == before + "".join(pieces)


@pytest.mark.parametrize("name", ["demo", "byte_level", "spm"])
@settings(max_examples=150, deadline=None)
@given(raw=st.lists(st.integers(0, 255), max_size=30))
def test_any_bytes(family: Any, name: str, raw: list[int]) -> None:
    """Tokens of one byte each: random bytes, mostly not UTF-8."""
    tokenizer, library = family(name)
    spell = {byte: letter for letter, byte in BYTE_ALPHABET.items()}
    ids = [tokenizer.token_id(f"<0x{byte:02X}>" if name == "spm" else spell[byte]) for byte in raw]
    output = [token for token in ids if token is not None]
    text = "".join(stream(tokenizer, [], output))
    if runs_are_sound(tokenizer, output, frozenset()):
        assert text == library.decode(output)
    if name == "spm":
        text = text if not raw or raw[0] != 0x20 else " " + text
        assert text == decoded_byte_by_byte(bytes(raw))


def decoded_byte_by_byte(data: bytes) -> str:
    """UTF-8 with U+FFFD for each byte that is not part of a character, by trying every length."""
    text = ""
    while data:
        for length in (1, 2, 3, 4):
            try:
                text += data[:length].decode()
            except UnicodeDecodeError:
                continue
            data = data[length:]
            break
        else:
            text, data = text + "\ufffd", data[1:]
    return text


@pytest.mark.parametrize("name", ["demo", "byte_level", "spm", "spm_no_prefix"])
def test_never_half_a_character(family: Any, name: str, texts: list[str]) -> None:
    tokenizer, library = family(name)
    for text in texts:
        ids = library.encode(text, add_special_tokens=False).ids
        if "\ufffd" in text or library.decode(ids, skip_special_tokens=False) != text:
            continue  # the demo's vocabulary lacks some bytes
        pieces = stream(tokenizer, [], ids, skip_special_tokens=False)
        assert "".join(pieces) == text
        assert not any("\ufffd" in piece for piece in pieces), text
        assert pieces[-1] == ""


def test_a_character_comes_with_its_last_byte(demo_tokenizer: Tokenizer) -> None:
    ids = demo_tokenizer.encode("👍🏽")
    assert len(ids) > 2
    pieces = stream(demo_tokenizer, [], ids)
    assert [piece for piece in pieces if piece] == ["👍", "🏽"]
    assert "" in pieces[:-1]


def test_an_end_inside_a_character(demo_tokenizer: Tokenizer) -> None:
    ids = demo_tokenizer.encode("ok 😀")
    pieces = stream(demo_tokenizer, [], ids[:-1])
    assert "".join(pieces[:-1]) == "ok "
    assert pieces[-1] == "\ufffd"


def test_a_replacement_character_of_the_model_is_not_held(demo_tokenizer: Tokenizer) -> None:
    ids = demo_tokenizer.encode("\ufffd")
    detokenizer = IncrementalDetokenizer(demo_tokenizer, [])
    assert detokenizer.push(ids) == "\ufffd"
    assert detokenizer.finish() == ""


@pytest.mark.parametrize("name", ["byte_level", "spm"])
def test_wrong_bytes_are_not_held(family: Any, name: str) -> None:
    """A model that emits bytes that never make a character is still seen to emit."""
    tokenizer, _ = family(name)
    byte = tokenizer.token_id("<0xFF>" if name == "spm" else "ÿ")
    lead = tokenizer.token_id("<0xE4>" if name == "spm" else "ä")
    detokenizer = IncrementalDetokenizer(tokenizer, [])
    assert [detokenizer.push([byte]) for _ in range(100)] == ["\ufffd"] * 100
    held = sum(detokenizer.push([lead]) == "" for _ in range(100))
    assert held == 1, "a lead byte waits for the byte after it, no longer"


@pytest.mark.parametrize("name", ["demo", "spm"])
def test_a_character_begun_in_the_prompt(family: Any, name: str) -> None:
    tokenizer, _ = family(name)
    ids = tokenizer.encode("say 😀!")
    special = min(tokenizer.special_token_ids)
    for cut in range(1, len(ids)):
        prompt = tokenizer.decode(ids[:cut]).rstrip("\ufffd")
        for between in ([], [special]):
            pieces = stream(tokenizer, [*ids[:cut], *between], ids[cut:])
            assert prompt + "".join(pieces) == "say 😀!"


def test_only_the_first_space_of_a_text_is_stripped(family: Any) -> None:
    tokenizer, library = family("spm")
    space = tokenizer.token_id("▁the")
    lead = tokenizer.token_id("<0xE4>")
    assert "".join(stream(tokenizer, [], [space, space])) == "the the"
    assert "".join(stream(tokenizer, [space], [space])) == " the"
    # The prompt's first token gives no text yet, but it is what the text starts with.
    assert library.decode([lead, space]) == "\ufffd the"
    assert "".join(stream(tokenizer, [lead], [space])) == "\ufffd the"
    assert "".join(stream(tokenizer, [lead, space], [space])) == " the"
    assert "".join(stream(tokenizer, [1], [space])) == "the", "a skipped token starts no text"
    assert "".join(stream(tokenizer, [1], [space], skip_special_tokens=False)) == " the"


def test_spaces_between_special_tokens(family: Any) -> None:
    tokenizer, _ = family("words")
    output = tokenizer.encode("one <s> </s> <s> two")
    assert len(output) == 5

    prompt: list[int] = []

    def text(**options: Any) -> str:
        return "".join(stream(tokenizer, prompt, output, skip_special_tokens=False, **options))

    assert text() == "one <s> </s> <s> two"
    assert text(spaces_between_special_tokens=False) == "one <s></s><s> two"
    assert "".join(stream(tokenizer, [], output, spaces_between_special_tokens=False)) == "one two"
    prompt, output = output[:2], output[2:]
    assert text() == " </s> <s> two"
    assert text(spaces_between_special_tokens=False) == "</s><s> two"


def test_a_long_prompt_is_not_decoded(family: Any) -> None:
    """Only the first tokens and the last bytes of a prompt matter to the text after it."""
    tokenizer, _ = family("spm")
    looked_at = []
    original = tokenizer.token_bytes

    class Counting:
        pieces, added_token_ids = tokenizer.pieces, tokenizer.added_token_ids
        special_token_ids, token = tokenizer.special_token_ids, tokenizer.token

        def token_bytes(self, token: int) -> bytes:
            looked_at.append(token)
            return original(token)

    prompt = tokenizer.encode("the fox jumps over the dog " * 1000)
    IncrementalDetokenizer(Counting(), prompt)  # type: ignore[arg-type]
    assert len(looked_at) < 10


@pytest.mark.parametrize(
    "decoder",
    [
        decoders.WordPiece(),
        decoders.CTC(),
        decoders.Strip(" ", 1, 0),
        decoders.Sequence([decoders.Fuse(), decoders.Replace("a", "b")]),
        decoders.Sequence([decoders.ByteFallback(), decoders.ByteLevel()]),
        decoders.Sequence([decoders.ByteLevel(), decoders.Replace("a", "b")]),
    ],
)
def test_other_decoders_are_refused(decoder: Any) -> None:
    with pytest.raises(ValueError, match="decoder"):
        PieceDecoder.of(decoder)


def test_byte_alphabet_is_the_library_s() -> None:
    assert set(BYTE_ALPHABET) == set(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(BYTE_ALPHABET.values()) == list(range(256))
