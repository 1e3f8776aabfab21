"""Perplexity of a text under octavo, and under transformers in float32 on the same weights dequantised.

    python benchmarks/perplexity.py --model model.gguf --text text.txt --tokens 20480 --reference transformers

The text is cut into windows that do not overlap; in each one every token but the first is predicted from
those before it, and perplexity is exp of the mean negative log probability over all of them. Both sides
see the same token ids. Any plain English prose will do; the Jargon File is in the public domain and in
Debian as package jargon-text:

    zcat /usr/share/doc/jargon-text/jargon.txt.gz | tail -n +12000 | sed 's/^ *//' > text.txt
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from octavo.config import EngineConfig
from octavo.engine.build import kv_cache_spec
from octavo.model.decoder import trace
from octavo.model.load import load_model, resolve_model
from octavo.runtime.backend import Backend, Batch, Limits, LogitsExecutable
from octavo.runtime.kv_cache import BLOCK_SIZE
from octavo.runtime.kv_items import KV_CACHE_DTYPES
from octavo.sampling.logprobs import log_softmax
from octavo.tokenizer.load import load_tokenizer

if TYPE_CHECKING:
    import torch

Windows = NDArray[np.int32]  # [W, tokens]
Logprobs = NDArray[np.float64]  # [W, tokens - 1]


def choose_backend(name: str, threads: int | None) -> Backend:
    """The backend of that name; the native one is imported only when asked for."""
    if name == "reference":
        from octavo.runtime.reference import ReferenceBackend

        return ReferenceBackend()
    from octavo.runtime.native import NativeBackend

    return NativeBackend(threads)


def compile_for_windows(arguments: argparse.Namespace) -> LogitsExecutable:
    """The model with room for one window."""
    window = arguments.window
    config = EngineConfig(
        model=arguments.model, max_model_len=window, kv_cache_dtype=arguments.kv_cache_dtype
    )
    model = load_model(config)
    executable = choose_backend(arguments.backend, arguments.threads).compile(
        trace(model.spec),
        model.weights,
        kv_cache_spec(config, trace(model.spec).cache_layers),
        Limits(window, window, 1, window, model.spec.vocab_size),
    )
    executable.allocate_kv_cache(-(-window // BLOCK_SIZE))
    return executable


def of_octavo(arguments: argparse.Namespace, windows: Windows) -> Logprobs:
    """Log probability of each token but the first: each window one prefill, every row an output row."""
    executable = compile_for_windows(arguments)
    length = windows.shape[1]
    counted = np.arange(length, dtype=np.int32)
    result = []
    for tokens in windows:
        logits = executable.run(
            Batch(
                token_ids=tokens,
                positions=counted,
                query_starts=np.array([0, length], dtype=np.int32),
                context_lens=np.array([length], dtype=np.int32),
                block_tables=np.arange(-(-length // BLOCK_SIZE), dtype=np.int32)[None, None],
                output_rows=counted,
            )
        )
        scored = zip(logits[:-1], tokens[1:], strict=True)
        result.append([log_softmax(row, np.array([token]))[0] for row, token in scored])
    return np.array(result)


def transformers_model(path: Path) -> torch.nn.Module:
    """The model at `path` in float32, read by transformers.

    A GGUF file goes through the loader's parts, because `from_pretrained` wants accelerate for one.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    if not path.is_file():
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, local_files_only=True)
        return model.eval()
    config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name, local_files_only=True)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    read = load_gguf_checkpoint(path, return_tensors=True, model_to_load=model, torch_dtype=torch.float32)
    left_out = model.load_state_dict(read["tensors"], strict=False)
    if left_out.unexpected_keys or set(left_out.missing_keys) - {"lm_head.weight"}:
        raise SystemExit(f"transformers does not read {path} whole: {left_out}")
    model.tie_weights()
    return model.eval()


def of_transformers(arguments: argparse.Namespace, windows: Windows) -> Logprobs:
    """The same by transformers in float32; a GGUF file is dequantised by its loader."""
    import torch

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    model = transformers_model(resolve_model(arguments.model))
    result = []
    with torch.inference_mode():
        for tokens in torch.from_numpy(windows.astype(np.int64)):
            logprobs = torch.log_softmax(model(tokens[None]).logits[0, :-1], dim=-1)
            result.append(logprobs.gather(1, tokens[1:, None])[:, 0].double().numpy())
    return np.array(result)


def perplexity(logprobs: Logprobs) -> float:
    """exp of the mean negative log probability."""
    return float(np.exp(-logprobs.mean()))


def cut(arguments: argparse.Namespace) -> Windows:
    """The text's tokens in whole windows, at most `--tokens` of them."""
    text = Path(arguments.text).read_text(encoding="utf-8")
    tokenizer = load_tokenizer(resolve_model(arguments.model))
    token_ids = tokenizer.encode(text, add_special_tokens=False)[: arguments.tokens]
    count = len(token_ids) // arguments.window
    if not count:
        raise SystemExit(f"{arguments.text} has {len(token_ids)} tokens, less than one window")
    return np.array(token_ids[: count * arguments.window], dtype=np.int32).reshape(count, arguments.window)


def main() -> None:
    """Print the perplexities, how long each took, and with a reference their ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="", help="a GGUF file or a Hugging Face directory; default: demo")
    parser.add_argument("--text", required=True, help="a UTF-8 text file")
    parser.add_argument("--tokens", type=int, default=20480, help="most tokens to score")
    parser.add_argument("--window", type=int, default=512, help="tokens in a window")
    parser.add_argument("--backend", choices=("native", "reference"), default="native")
    parser.add_argument("--kv-cache-dtype", choices=KV_CACHE_DTYPES, default="int16")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--reference", choices=("transformers",), default=None)
    arguments = parser.parse_args()

    windows = cut(arguments)
    print(f"{len(windows)} windows of {windows.shape[1]} tokens")
    scored: dict[str, Logprobs] = {}
    sides = {f"octavo {arguments.backend}": of_octavo}
    if arguments.reference:
        sides["transformers float32"] = of_transformers
    for name, logprobs_of in sides.items():
        start = time.perf_counter()
        scored[name] = logprobs_of(arguments, windows)
        seconds = time.perf_counter() - start
        print(f"{name:24} perplexity {perplexity(scored[name]):9.4f}  ({seconds:.1f} s)")
    if arguments.reference:
        ours, theirs = scored.values()
        difference = np.abs(ours - theirs)
        print(f"{'ratio':24} {perplexity(ours) / perplexity(theirs):.6f}")
        print(
            f"{'|difference| a token':24} mean {difference.mean():.5f}, largest {difference.max():.4f} nats"
        )


if __name__ == "__main__":
    main()
