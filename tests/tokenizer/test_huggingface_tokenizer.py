"""A Hugging Face directory gives what transformers makes of the same files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import processors

from octavo.tokenizer.load import load_tokenizer
from octavo.tokenizer.tokenizer import Tokenizer

NAMED = {"bos_token": "<s>", "eos_token": "</s>"}


def added(content: str, **flags: bool) -> dict[str, Any]:
    defaults = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": True}
    return {"content": content, "__type": "AddedToken", **defaults, **flags}


def write(directory: Path, backend: tokenizers.Tokenizer, **files: Any) -> Path:
    """A model directory: tokenizer.json and, by name, tokenizer_config and special_tokens_map."""
    directory.mkdir(parents=True, exist_ok=True)
    backend.save(str(directory / "tokenizer.json"))
    for name, content in files.items():
        (directory / f"{name}.json").write_text(json.dumps(content))
    return directory


def theirs(directory: Path) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(directory)


def with_bos(backend: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    copy = tokenizers.Tokenizer.from_str(backend.to_str())
    bos = copy.token_to_id("<s>")
    copy.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", bos)])
    return copy


CONFIGS: dict[str, dict[str, Any]] = {
    "plain": {"tokenizer_config": NAMED},
    "bos and eos switched on": {"tokenizer_config": {**NAMED, "add_bos_token": True, "add_eos_token": True}},
    "bos switched off": {"tokenizer_config": {**NAMED, "add_bos_token": False}},
    "only eos": {"tokenizer_config": {**NAMED, "add_eos_token": True}},
    "special tokens map": {
        "tokenizer_config": {"eos_token": "<s>"},
        "special_tokens_map": {"eos_token": added("</s>"), "pad_token": "[PAD]"},
    },
    "special tokens map out of date": {
        "tokenizer_config": {**NAMED, "added_tokens_decoder": {}},
        "special_tokens_map": {"eos_token": "<unk>"},
    },
    "named as mappings": {"tokenizer_config": {"bos_token": added("<s>"), "eos_token": added("</s>")}},
    "tokens added later": {
        "tokenizer_config": {
            **NAMED,
            "added_tokens_decoder": {
                "2000": added("<later>"),
                "2001": added("<tool>", special=False, lstrip=True),
            },
        }
    },
    "additional": {"tokenizer_config": {**NAMED, "additional_special_tokens": ["<more>", "<user>"]}},
    "extra": {"tokenizer_config": {**NAMED, "extra_special_tokens": {"image_token": "<image>"}}},
    "others": {
        "tokenizer_config": {**NAMED, "pad_token": "[PAD]", "image_token": "<image>", "unk_token": None}
    },
}


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("family", ["byte_level", "sentencepiece"])
def test_equals_transformers(
    request: pytest.FixtureRequest, tmp_path: Path, texts: list[str], family: str, config: str
) -> None:
    directory = write(tmp_path, with_bos(request.getfixturevalue(family)), **CONFIGS[config])
    ours, reference = load_tokenizer(directory), theirs(directory)
    assert ours.eos_token_id == reference.eos_token_id
    assert ours.bos_token_id == reference.bos_token_id
    assert ours.vocab_size == len(reference)
    named = {name: token for name, token in reference.special_tokens_map.items() if isinstance(token, str)}
    assert ours.special_tokens == named
    for text in [*texts, "a <later> b<tool> <more><user> <image> [PAD]"]:
        for specials in (True, False):
            expected = reference(text, add_special_tokens=specials, truncation=False, padding=False)
            ids = ours.encode(text, add_special_tokens=specials)
            assert ids == expected["input_ids"], text
        for skip in (True, False):
            assert ours.decode(ids, skip) == reference.decode(ids, skip_special_tokens=skip), text


@settings(max_examples=150, deadline=None)
@given(text=st.text(max_size=60))
@pytest.mark.parametrize("family", ["byte_level", "sentencepiece"])
def test_round_trip(request: pytest.FixtureRequest, family: str, text: str) -> None:
    tokenizer = Tokenizer(request.getfixturevalue(family), {}, {})
    expected = text if family == "byte_level" else text.replace("▁", " ")
    assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=False) == expected


def test_batch_equals_one_by_one(byte_level: tokenizers.Tokenizer, texts: list[str]) -> None:
    tokenizer = Tokenizer(byte_level, {}, {})
    assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]
    assert tokenizer.encode_batch([]) == []


def test_padding_and_truncation_of_training_are_left_out(
    tmp_path: Path, byte_level: tokenizers.Tokenizer
) -> None:
    expected = byte_level.encode("the fox jumps over the dog").ids
    copy = tokenizers.Tokenizer.from_str(byte_level.to_str())
    copy.enable_padding(length=64, pad_id=0, pad_token="<s>")
    copy.enable_truncation(4)
    assert load_tokenizer(write(tmp_path, copy)).encode("the fox jumps over the dog") == expected


def test_lone_surrogates_are_refused(byte_level: tokenizers.Tokenizer) -> None:
    tokenizer = Tokenizer(byte_level, {}, {})
    with pytest.raises(
        ValueError, match=r"^text is not valid Unicode: a lone surrogate '\\ud83d' at character 1$"
    ):
        tokenizer.encode("x\ud83d")
    with pytest.raises(ValueError, match="text 1 is not valid"):
        tokenizer.encode_batch(["fine", "\ud800"])


def test_ids_outside_the_vocabulary(byte_level: tokenizers.Tokenizer) -> None:
    tokenizer = Tokenizer(byte_level, {}, {})
    assert tokenizer.decode([10**6]) == ""
    assert tokenizer.token_text(10**6) == ""
    assert tokenizer.token(-1) is None
    for wrong in (-1, 2**40):
        with pytest.raises(ValueError, match="token ids must be"):
            tokenizer.decode([wrong])


def test_token_texts(byte_level: tokenizers.Tokenizer, sentencepiece: tokenizers.Tokenizer) -> None:
    tokenizer = Tokenizer(byte_level, {}, {})
    the = tokenizer.token_id("Ġthe")
    assert the is not None
    assert tokenizer.token_text(the) == " the"
    half = tokenizer.token_id("Ġ" if tokenizer.token_id("ð") is None else "ð")
    assert half is not None
    assert tokenizer.token_bytes(half) == b"\xf0"
    assert tokenizer.token_text(half) == "\ufffd"
    tokenizer = Tokenizer(sentencepiece, {}, {})
    texts = {
        token: tokenizer.token_text(tokenizer.token_id(token) or 0) for token in ("▁the", "<0x0A>", "<s>")
    }
    assert texts == {"▁the": " the", "<0x0A>": "\n", "<s>": "<s>"}


# Chat templates and where they are kept.

MESSAGES = [{"role": "user", "content": "hi"}]


def test_chat_template_places(tmp_path: Path, byte_level: tokenizers.Tokenizer) -> None:
    config: dict[str, Any] = dict(NAMED)
    directory = write(tmp_path / "none", byte_level, tokenizer_config=config)
    assert load_tokenizer(directory).chat_template is None
    with pytest.raises(ValueError, match="no chat template; give one with --chat-template"):
        load_tokenizer(directory).apply_chat_template(MESSAGES)
    assert load_tokenizer(directory).apply_chat_template(MESSAGES, chat_template="{{bos_token}}!") == "<s>!"

    config["chat_template"] = "string {{eos_token}}"
    directory = write(tmp_path / "string", byte_level, tokenizer_config=config)
    assert load_tokenizer(directory).apply_chat_template(MESSAGES) == "string </s>"

    config["chat_template"] = [
        {"name": "default", "template": "default"},
        {"name": "tool_use", "template": "tools {{tools|length}}"},
        {"name": "rag", "template": "rag {{documents[0].title}}"},
    ]
    directory = write(tmp_path / "named", byte_level, tokenizer_config=config)
    tokenizer = load_tokenizer(directory)
    assert tokenizer.apply_chat_template(MESSAGES) == "default"
    assert tokenizer.apply_chat_template(MESSAGES, tools=[{}]) == "tools 1"
    documents = [{"title": "A", "text": "B"}]
    assert tokenizer.apply_chat_template(MESSAGES, chat_template="rag", documents=documents) == "rag A"

    (directory / "chat_template.jinja").write_text("file")
    (directory / "additional_chat_templates").mkdir()
    (directory / "additional_chat_templates" / "rag.jinja").write_text("another")
    tokenizer = load_tokenizer(directory)
    assert tokenizer.apply_chat_template(MESSAGES) == "file"
    assert tokenizer.apply_chat_template(MESSAGES, chat_template="rag") == "another"
    reference = theirs(directory)
    assert tokenizer.chat_templates == reference.chat_template | {"tool_use": "tools {{tools|length}}"}


def test_tokenizer_of_another_model(
    tmp_path: Path, byte_level: tokenizers.Tokenizer, sentencepiece: tokenizers.Tokenizer
) -> None:
    model = write(tmp_path / "model", byte_level, tokenizer_config=NAMED)
    other = write(tmp_path / "other", sentencepiece, tokenizer_config=NAMED)
    expected = load_tokenizer(other).encode("the fox")
    assert load_tokenizer(model).encode("the fox") != expected
    assert load_tokenizer(model, str(other)).encode("the fox") == expected
    assert load_tokenizer(model, str(other / "tokenizer.json")).encode("the fox") == expected


@pytest.mark.parametrize(
    ("name", "content", "needle"),
    [
        ("tokenizer.json", "{", r"tokenizer\.json: not a tokenizer: "),
        ("tokenizer_config.json", "{", r"tokenizer_config\.json: not JSON: "),
        ("tokenizer_config.json", "[]", r"tokenizer_config\.json: must hold a JSON object, got list"),
        ("tokenizer_config.json", '{"eos_token": 3}', r"a special token is malformed"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"x": {}}}', r"a special token is malformed"),
        ("tokenizer_config.json", '{"chat_template": 3}', r"chat_template must be a string or a list"),
        ("tokenizer_config.json", '{"chat_template": [{}]}', r"chat_template must list names"),
        ("special_tokens_map.json", "\xff", r"special_tokens_map\.json: not UTF-8"),
        ("chat_template.jinja", "\xff", r"chat_template\.jinja: not UTF-8"),
    ],
)
def test_malformed_files_are_named(
    tmp_path: Path, byte_level: tokenizers.Tokenizer, name: str, content: str, needle: str
) -> None:
    directory = write(tmp_path, byte_level, tokenizer_config=NAMED)
    (directory / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=needle) as caught:
        load_tokenizer(directory)
    assert "\n" not in str(caught.value)


def test_an_unknown_decoder_is_named(tmp_path: Path, byte_level: tokenizers.Tokenizer) -> None:
    copy = tokenizers.Tokenizer.from_str(byte_level.to_str())
    copy.decoder = tokenizers.decoders.WordPiece()
    with pytest.raises(ValueError, match=r"tokenizer\.json: the tokenizer's decoder .*WordPiece"):
        load_tokenizer(write(tmp_path, copy))


def test_a_directory_without_tokenizer_json(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"")
    with pytest.raises(ValueError, match=r"there is no tokenizer\.json; save one .* --tokenizer"):
        load_tokenizer(tmp_path)


def test_an_unknown_token_that_is_unknown_itself(tmp_path):
    """The library finds that out with the first text that needs it."""
    backend = tokenizers.Tokenizer(tokenizers.models.WordPiece({"a": 0}, unk_token="?"))
    backend.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match=r"tokenizer\.json: not a tokenizer: .*from the vocabulary"):
        load_tokenizer(tmp_path)
