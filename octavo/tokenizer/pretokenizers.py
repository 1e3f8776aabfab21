"""How text is cut before byte-level BPE, by the name that GGUF files give (`tokenizer.ggml.pre`).

Each is what the tokenizer.json of the model family that the name stands for has. Names: llama.cpp's
convert_hf_to_gguf.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from tokenizers import Regex
from tokenizers.normalizers import NFC
from tokenizers.pre_tokenizers import ByteLevel, Digits, PreTokenizer, Sequence, Split

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_SYMBOLS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_UPPER, _LOWER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
_LEAD = r"[^\r\n\p{L}\p{N}]?"
_CASED_1, _CASED_2 = rf"{_LEAD}[{_UPPER}]*[{_LOWER}]+", rf"{_LEAD}[{_UPPER}]+[{_LOWER}]*"
_CASED_SYMBOLS = r" ?[^\s\p{L}\p{N}]+[\r\n/]*"

_LLAMA3 = rf"{_CONTRACTIONS}|{_LEAD}\p{{L}}+|\p{{N}}{{1,3}}|{_SYMBOLS}|{_SPACES}"
_QWEN2 = rf"{_CONTRACTIONS}|{_LEAD}\p{{L}}+|\p{{N}}|{_SYMBOLS}|{_SPACES}"
_QWEN35 = rf"{_CONTRACTIONS}|{_LEAD}[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACES}"
_TEKKEN = rf"{_CASED_1}|{_CASED_2}|\p{{N}}|{_CASED_SYMBOLS}|{_SPACES}"
_GPT4O = rf"{_CASED_1}{_CONTRACTIONS}?|{_CASED_2}{_CONTRACTIONS}?|\p{{N}}{{1,3}}|{_CASED_SYMBOLS}|{_SPACES}"
_DEEPSEEK3 = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"""
    r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    rf"| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_SPACES}"
)


@dataclass(frozen=True, slots=True)
class PreTokenization:
    """Split on each regular expression in turn, then on the rest of the rules, and spell bytes.

    `gpt2_rules`: GPT-2's own split, last. `ignore_merges`: a cut that is a token stays one, whatever the
    merges say. `nfc`: text is normalised to Unicode NFC first.
    """

    splits: tuple[str, ...] = ()
    single_digits: bool = False
    gpt2_rules: bool = False
    ignore_merges: bool = False
    nfc: bool = False

    def build(self) -> PreTokenizer:
        """The pre-tokenizer; special tokens have been taken out before it runs."""
        steps: list[PreTokenizer] = [Split(Regex(split), behavior="isolated") for split in self.splits]
        if self.single_digits:
            steps.append(Digits(individual_digits=True))
        steps.append(ByteLevel(add_prefix_space=False, use_regex=self.gpt2_rules))
        return Sequence(steps)

    def normalizer(self) -> NFC | None:
        """What is done to text before it is cut."""
        return NFC() if self.nfc else None


_GPT2_SCHEME = PreTokenization(gpt2_rules=True)
_DIGITS_SCHEME = PreTokenization(single_digits=True, gpt2_rules=True)
_LLAMA3_SCHEME = PreTokenization((_LLAMA3,), ignore_merges=True)
_GPT4O_SCHEME = PreTokenization((_GPT4O,))

PRE_TOKENIZATIONS: dict[str, PreTokenization] = {
    "default": _GPT2_SCHEME,
    "gpt-2": _GPT2_SCHEME,
    "phi-2": _GPT2_SCHEME,
    "smollm": _DIGITS_SCHEME,
    "starcoder": _DIGITS_SCHEME,
    "refact": _DIGITS_SCHEME,
    "llama-bpe": _LLAMA3_SCHEME,
    "llama3": _LLAMA3_SCHEME,
    "llama-v3": _LLAMA3_SCHEME,
    "qwen2": PreTokenization((_QWEN2,), nfc=True),
    "qwen35": PreTokenization((_QWEN35,), nfc=True),
    "deepseek-r1-qwen": PreTokenization((_QWEN2,)),
    "tekken": PreTokenization((_TEKKEN,), ignore_merges=True),
    "gpt-4o": _GPT4O_SCHEME,
    "llama4": _GPT4O_SCHEME,
    "deepseek-coder": PreTokenization(
        (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", r"[一-龥ࠀ-一가-퟿]+"), single_digits=True
    ),
    "deepseek-v3": PreTokenization((r"\p{N}{1,3}", r"[一-龥぀-ゟ゠-ヿ]+", _DEEPSEEK3)),
}
