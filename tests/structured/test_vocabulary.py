"""Tokenizers of both families: text that a form leaves no choice of comes out, whatever its tokens are."""

from __future__ import annotations

import random

import numpy as np
import pytest
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from octavo import StructuredOutputsParams
from octavo.structured.compiler import GrammarCompiler
from octavo.structured.vocabulary import Vocabulary, vocabulary_of
from octavo.tokenizer.detokenizer import IncrementalDetokenizer
from octavo.tokenizer.tokenizer import Tokenizer

CORPUS = ['{"name": "Ada", "age": 36} the quick brown fox: Größe <|x|>'] * 4
TEXTS = [
    '{"long name": 1, "b": [true]}',
    "Größe <user> 😀",
    " two  spaces ",
    "\n",
    "the the the",
    "</s><user>",
]


def byte_level() -> Tokenizer:
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet))
    return finished(backend)


def sentencepiece() -> Tokenizer:
    """Puts a space before every text that it tokenises."""
    vocabulary = {"<unk>": 0, **{f"<0x{byte:02X}>": byte + 1 for byte in range(256)}}
    for piece in ["▁", "t", "h", "e", "th", "the", "▁the", "{", '"', "name", '{"', "▁{", "a", ":", "▁:"]:
        vocabulary.setdefault(piece, len(vocabulary))
    merges = [("t", "h"), ("th", "e"), ("▁", "the"), ("{", '"'), ("▁", "{"), ("▁", ":")]
    backend = Backend(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(steps)
    return finished(backend)


def finished(backend: Backend) -> Tokenizer:
    backend.add_special_tokens(["<s>", "</s>"])
    backend.add_tokens([AddedToken("<user>", normalized=False)])
    return Tokenizer(backend, {"eos_token": "</s>"}, {})


@pytest.fixture(params=[byte_level, sentencepiece], ids=lambda make: make.__name__)
def any_tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    made = request.param()
    assert isinstance(made, Tokenizer)
    return made


@pytest.mark.parametrize("json", ["its own", "another kind", "broken"])
def test_a_text_without_a_choice_comes_out(any_tokenizer: Tokenizer, json: str) -> None:
    """However it is tokenised, and whichever of the tokens that are allowed is taken."""
    end = any_tokenizer.eos_token_id
    assert end is not None
    vocabulary = vocabulary_of(any_tokenizer, any_tokenizer.vocab_size + 7)
    if json == "another kind":
        vocabulary.tokenizer_json = vocabulary_of(byte_level(), 300).tokenizer_json
    elif json == "broken":
        vocabulary.tokenizer_json = "{}"
    compiler = GrammarCompiler(lambda: any_tokenizer, len(vocabulary.tokens), [end])
    compiler.use(vocabulary)
    for text in TEXTS:
        for seed in range(3):
            chance, output = random.Random(seed), list[int]()
            matcher = compiler.submit(StructuredOutputsParams(choice=[text])).result()
            while not output or output[-1] != end:
                bits = np.unpackbits(matcher.mask().view(np.uint8), bitorder="little")
                allowed = [int(each) for each in np.flatnonzero(bits)]
                assert allowed
                assert all(each < any_tokenizer.vocab_size for each in allowed)
                output.append(chance.choice(allowed))
                matcher.append(output[-1])
                assert not matcher.failure
            assert b"".join(vocabulary.tokens[each] for each in output[:-1]) == text.encode()
            prompt = any_tokenizer.encode("the", add_special_tokens=False)
            detokenizer = IncrementalDetokenizer(
                any_tokenizer, prompt, skip_special_tokens=True, spaces_between_special_tokens=True
            )
            assert detokenizer.push(output) + detokenizer.finish() == text


def test_it_is_sent_as_it_is(any_tokenizer: Tokenizer) -> None:
    import msgspec

    sent = vocabulary_of(any_tokenizer, any_tokenizer.vocab_size)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(sent), type=Vocabulary) == sent
    assert sent.special_tokens >= {"<s>", "</s>"}
    assert "<user>" not in sent.special_tokens
