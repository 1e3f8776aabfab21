"""A small random Llama with a byte-level tokenizer, as a Hugging Face directory."""

from __future__ import annotations

from pathlib import Path

import tokenizers
import torch
import transformers
from support.tiny_models import SIZES
from tokenizers import decoders, models, pre_tokenizers

TEXT = "Pack my box with five dozen liquor jugs. How vexingly quick daft zebras jump! 0123456789\n" * 20


def save_model(
    path: Path, dtype: torch.dtype = torch.bfloat16, **sizes: object
) -> transformers.LlamaForCausalLM:
    """Write the model in `dtype`, with outliers in its norms, and its tokenizer; gives it in float32."""
    torch.manual_seed(0)
    settings = {
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "vocab_size": 320,
        **sizes,
    }
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES | settings)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(mean=1.0 if "norm" in name else 0.0, std=1.2 * 128**-0.5)
            if name.endswith("layernorm.weight"):
                parameter[::17] *= 12
    copy = transformers.LlamaForCausalLM(model.config).to(dtype)
    copy.load_state_dict(model.state_dict())
    copy.save_pretrained(path)
    save_tokenizer(path)
    # The rounded weights, but a rope in float32.
    model.load_state_dict(copy.state_dict())
    return model


def save_tokenizer(path: Path) -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(["<unk>", "<s>", "</s>", *alphabet])}
    merges = [("q", "u"), ("Ġ", "j"), ("i", "c")]
    vocabulary |= {left + right: len(vocabulary) + i for i, (left, right) in enumerate(merges)}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    fast.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    fast.save_pretrained(path)
