"""A tokenizer from GGUF metadata gives the ids that the model was trained with."""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from octavo.tokenizer.gguf import merges_from_scores, tokenizer_from_metadata
from octavo.tokenizer.load import load_tokenizer
from octavo.tokenizer.pieces import BYTE_ALPHABET
from octavo.tokenizer.pretokenizers import PRE_TOKENIZATIONS
from octavo.tokenizer.tokenizer import Tokenizer

LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_SPLIT = LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")
TEKKEN_SPLIT = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def byte_spelling(use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


# The pre_tokenizer sections of the tokenizer.json files that these models publish.
PUBLISHED: dict[str, list[dict[str, Any]]] = {
    "gpt-2": [byte_spelling(True)],
    "smollm": [{"type": "Digits", "individual_digits": True}, byte_spelling(True)],
    "llama-bpe": [split(LLAMA3_SPLIT), byte_spelling(False)],
    "qwen2": [split(QWEN2_SPLIT), byte_spelling(False)],
    "tekken": [split(TEKKEN_SPLIT), byte_spelling(False)],
}


def published_tokenizer(metadata: dict[str, Any], pre: str) -> tokenizers.Tokenizer:
    """The tokenizer.json that goes with `metadata`, read by `tokenizers` itself."""
    tokens, types = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"].tolist()
    added = [
        {
            "id": index,
            "content": token,
            "special": kind == 3,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
        }
        for index, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind in (3, 4)
    ]
    state = {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": {"type": "NFC"} if pre == "qwen2" else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": PUBLISHED[pre]},
        "post_processor": None,
        "decoder": byte_spelling(True),
        "model": {
            "type": "BPE",
            "ignore_merges": pre in ("llama-bpe", "tekken"),
            "vocab": {token: index for index, token in enumerate(tokens)},
            "merges": metadata["tokenizer.ggml.merges"],
        },
    }
    return tokenizers.Tokenizer.from_str(json.dumps(state))


@pytest.mark.parametrize("pre", PUBLISHED)
def test_ids_equal_the_published_tokenizer(demo_metadata: dict[str, Any], texts: list[str], pre: str) -> None:
    metadata = {**demo_metadata, "tokenizer.ggml.pre": pre, "tokenizer.ggml.add_bos_token": False}
    ours, published = tokenizer_from_metadata(metadata), published_tokenizer(metadata, pre)
    for text in texts:
        ids = published.encode(text).ids
        assert ours.encode(text) == ids, text
        assert ours.decode(ids) == published.decode(ids), text


def test_the_pre_tokenizer_matters(demo_metadata: dict[str, Any]) -> None:
    """The comparison above can tell the schemes apart."""
    text = "It'LL cost 12345 dollars\n\n  or naïVe 日本"
    cuts = {
        name: [cut for cut, _ in scheme.build().pre_tokenize_str(text)]
        for name, scheme in PRE_TOKENIZATIONS.items()
        if name in PUBLISHED
    }
    assert len({tuple(cut) for cut in cuts.values()}) == len(PUBLISHED)


def test_demo_equals_transformers(demo_model: Path, demo_tokenizer: Tokenizer, texts: list[str]) -> None:
    from transformers.integrations.gguf import convert_gguf_tokenizer, get_gguf_tokenizer

    architecture, description, _ = get_gguf_tokenizer(str(demo_model))
    theirs, _ = convert_gguf_tokenizer(architecture, description)
    # transformers does not know "smollm" and cuts as GPT-2 does: the difference is in digits beyond ASCII.
    theirs.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), theirs.pre_tokenizer]
    )
    for text in texts:
        assert demo_tokenizer.encode(text) == theirs.encode(text).ids, text


def test_demo_special_tokens(demo_tokenizer: Tokenizer) -> None:
    assert demo_tokenizer.vocab_size == 49152
    assert demo_tokenizer.eos_token_id == 2
    assert demo_tokenizer.special_tokens["eos_token"] == "<|im_end|>"
    assert demo_tokenizer.special_token_ids == frozenset(range(17))
    assert demo_tokenizer.encode("") == [], "the demo asks for no BOS"
    assert demo_tokenizer.chat_template is not None


BYTES = {byte: letter for letter, byte in BYTE_ALPHABET.items()}


@settings(max_examples=150, deadline=None)
@given(text=st.text(max_size=200))
def test_demo_round_trip(demo_tokenizer: Tokenizer, text: str) -> None:
    # The vocabulary was trained with no token for bytes that its corpus lacked, such as 0xF1.
    spelled = {byte for byte, letter in BYTES.items() if demo_tokenizer.token_id(letter) is not None}
    assert len(spelled) > 230
    text = "".join(character for character in text if set(character.encode()) <= spelled)
    assert demo_tokenizer.decode(demo_tokenizer.encode(text), skip_special_tokens=False) == text


def test_conversion_is_fast(demo_metadata: dict[str, Any]) -> None:
    def seconds() -> float:
        start = time.process_time()
        tokenizer_from_metadata(demo_metadata)
        return time.process_time() - start

    # Some 40 ms; the bound leaves room for a busy machine and still catches a slow way to build it.
    assert min(seconds() for _ in range(5)) < 0.25


@pytest.mark.parametrize("text", ["a", " ", "1", "\n", "日", "é\u0301", "<|im_end|>"])
def test_long_texts_take_linear_time(demo_tokenizer: Tokenizer, text: str) -> None:
    def seconds(length: int) -> float:
        start = time.process_time()
        demo_tokenizer.encode(text * (length // len(text)))
        return time.process_time() - start

    short = min(seconds(10_000) for _ in range(2))
    # Ten times the text: quadratic time would be a hundred times as much.
    assert min(seconds(100_000) for _ in range(2)) < 40 * short + 0.1


# SentencePiece.


def spm_metadata(backend: tokenizers.Tokenizer, **overrides: Any) -> dict[str, Any]:
    """What a GGUF file would hold of a SentencePiece-like tokenizer: earlier merges score higher."""
    vocabulary = sorted(backend.get_vocab(with_added_tokens=False).items(), key=lambda item: item[1])
    tokens = [token for token, _ in vocabulary]
    types = [1] * len(tokens)
    types[:3] = [2, 3, 3]
    types[3:259] = [6] * 256
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": [*tokens, "<user>", "   "],
        "tokenizer.ggml.scores": [-float(index) for index in range(len(tokens) + 2)],
        "tokenizer.ggml.token_type": [*types, 4, 4],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        **{f"tokenizer.ggml.{key}": value for key, value in overrides.items()},
    }


def spm_reference(metadata: dict[str, Any], text: str, prefix: bool = True) -> list[int]:
    """SentencePiece's BPE as its paper has it: join the best-scoring adjacent pair, leftmost first."""
    tokens, scores = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.scores"]
    ids = {token: index for index, token in enumerate(tokens)}
    symbols = list((("▁" if prefix else "") + text).replace(" ", "▁")) if text else []
    while True:
        pairs = [
            (-scores[ids[left + right]], position)
            for position, (left, right) in enumerate(itertools.pairwise(symbols))
            if left + right in ids and metadata["tokenizer.ggml.token_type"][ids[left + right]] == 1
        ]
        if not pairs:
            break
        _, position = min(pairs)
        symbols[position : position + 2] = [symbols[position] + symbols[position + 1]]
    result = []
    for symbol in symbols:
        known = ids.get(symbol)
        result += [known] if known is not None else [ids[f"<0x{byte:02X}>"] for byte in symbol.encode()]
    return result


@settings(max_examples=150, deadline=None)
@given(text=st.text(alphabet="abdehilnorstuw .,é日😀\n0", max_size=40))
@pytest.mark.parametrize("prefix", [True, False])
def test_spm_equals_its_definition(sentencepiece: tokenizers.Tokenizer, text: str, prefix: bool) -> None:
    if "   " in text:  # a user-defined token of its own
        return
    metadata = spm_metadata(sentencepiece, add_space_prefix=prefix)
    tokenizer = tokenizer_from_metadata(metadata)
    ids = tokenizer.encode(text)
    assert ids[0] == 1
    assert ids[1:] == spm_reference(metadata, text, prefix)
    assert tokenizer.decode(ids) == text


def test_spm_merges_follow_training(sentencepiece: tokenizers.Tokenizer) -> None:
    metadata = spm_metadata(sentencepiece)
    tokens, scores = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.scores"]
    merges = merges_from_scores(tokens, scores, metadata["tokenizer.ggml.token_type"])
    trained = [tuple(merge) for merge in json.loads(sentencepiece.to_str())["model"]["merges"]]
    assert len(trained) > 100
    assert set(trained) <= set(merges)
    made = [left + right for left, right in merges]
    assert [tokens.index(token) for token in made] == sorted(tokens.index(token) for token in made)


def test_spm_special_and_user_tokens(sentencepiece: tokenizers.Tokenizer) -> None:
    metadata = spm_metadata(sentencepiece, add_eos_token=True)
    tokenizer = tokenizer_from_metadata(metadata)
    tokens = metadata["tokenizer.ggml.tokens"]
    user, spaces = tokens.index("<user>"), tokens.index("   ")
    assert tokenizer.encode("<user>")[1:-1] == [user]
    assert tokenizer.encode("</s>") == [1, 2, 2]
    assert spaces in tokenizer.encode("a   b")
    assert tokenizer.special_token_ids == {0, 1, 2}
    assert tokenizer.decode([1, user, 2]) == "<user>", "the user's tokens are text, control tokens are not"
    assert tokenizer.encode("a", add_special_tokens=False) == tokenizer.encode("a")[1:-1]


@pytest.mark.parametrize(
    ("pre", "expected"), [("llama-bpe", True), ("tekken", True), ("qwen2", False), ("smollm", False)]
)
def test_bos_by_default(demo_metadata: dict[str, Any], pre: str, expected: bool) -> None:
    metadata = {**demo_metadata, "tokenizer.ggml.pre": pre}
    del metadata["tokenizer.ggml.add_bos_token"]
    assert (tokenizer_from_metadata(metadata).encode("a")[0] == 1) == expected
    metadata["tokenizer.ggml.add_bos_token"] = not expected
    assert (tokenizer_from_metadata(metadata).encode("a")[0] == 1) != expected


@pytest.mark.parametrize(
    ("change", "needle"),
    [
        ({"pre": "martian"}, r"tokenizer\.ggml\.pre is 'martian'.*smollm.*--tokenizer"),
        ({"model": "bert"}, r"tokenizer\.ggml\.model is 'bert'"),
        ({"model": None}, r"tokenizer\.ggml\.model is None"),
        ({"tokens": None}, r"tokenizer\.ggml\.tokens is missing"),
        ({"merges": None}, r"tokenizer\.ggml\.merges is missing"),
        ({"token_type": [1, 2]}, r"token_type has 2 entries for 49152 tokens"),
        ({"merges": ["x y z"]}, r"tokenizer\.ggml\.merges: "),
        ({"merges": ["loneword"]}, r"tokenizer\.ggml\.merges: "),
        ({"eos_token_id": 49152}, r"eos_token_id is 49152; there are 49152 tokens"),
    ],
)
def test_bad_metadata_is_named(demo_metadata: dict[str, Any], change: dict[str, Any], needle: str) -> None:
    metadata = {**demo_metadata, **{f"tokenizer.ggml.{key}": value for key, value in change.items()}}
    with pytest.raises(ValueError, match=needle):
        tokenizer_from_metadata(metadata)


def test_a_hostile_token_is_refused() -> None:
    with pytest.raises(ValueError, match=r"tokens\[1\] has 100000 characters"):
        merges_from_scores(["a", "a" * 100_000], [0.0, 0.0], [1, 1])


def test_an_absent_token_id(demo_metadata: dict[str, Any]) -> None:
    tokenizer = tokenizer_from_metadata({**demo_metadata, "tokenizer.ggml.bos_token_id": 2**32 - 1})
    assert tokenizer.bos_token_id is None


def test_named_chat_templates(demo_metadata: dict[str, Any]) -> None:
    tokenizer = tokenizer_from_metadata({**demo_metadata, "tokenizer.chat_template.tool_use": "tools!"})
    messages = [{"role": "user", "content": "hi"}]
    assert tokenizer.apply_chat_template(messages, tools=[{"type": "function"}]) == "tools!"
    assert tokenizer.apply_chat_template(messages).startswith("<|im_start|>system")
    assert tokenizer.apply_chat_template(messages, chat_template="tool_use") == "tools!"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model: there is no .*nothing\.gguf"):
        load_tokenizer(tmp_path / "nothing.gguf")
    with pytest.raises(ValueError, match=r"tokenizer: there is no .*other"):
        load_tokenizer(tmp_path, str(tmp_path / "other"))
