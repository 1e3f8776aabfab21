"""`octavo bench latency`: how long one batch takes from its prompts to its last tokens, without a server."""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass

import numpy as np

from octavo.bench.dataset.random_words import RandomWords
from octavo.bench.offline import add_llm_flags, make_llm, write_json
from octavo.config import check_settings, setting
from octavo.flags.from_config import add_flags, config_of
from octavo.llm import LLM
from octavo.sampling_params import SamplingParams

HELP = "One batch at a time, without a server: seconds from the prompts to the last token."
PERCENTILES = (10, 25, 50, 75, 90, 99)


@dataclass(slots=True, kw_only=True)
class LatencyConfig:
    """The flags of `octavo bench latency` beside the engine's."""

    input_len: int = setting(32, "Tokens of a prompt.", "Benchmark", low=1, high=1_000_000)
    output_len: int = setting(128, "Tokens that answer it.", "Benchmark", low=1, high=1_000_000)
    batch_size: int = setting(8, "Prompts of a batch.", "Benchmark", low=1, high=4096)
    n: int = setting(1, "Completions of each prompt.", "Benchmark", low=1, high=64)
    num_iters_warmup: int = setting(10, "Batches before those that count.", "Benchmark", low=0)
    num_iters: int = setting(30, "Batches that count.", "Benchmark", low=1)
    disable_tqdm: bool = setting(False, "Show no progress.", "Benchmark")

    def __post_init__(self) -> None:
        check_settings(self)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The engine's flags and the batch's."""
    add_llm_flags(parser)
    add_flags(parser, LatencyConfig)


def run(arguments: argparse.Namespace) -> int:
    """Run the batches and print mean and percentiles of their times."""
    config = config_of(LatencyConfig, arguments)
    with make_llm(arguments, enable_prefix_caching=False) as llm:
        words = RandomWords(llm.get_tokenizer(), getattr(arguments, "seed", 0))
        length = max(1, config.input_len - words.count(""))
        prompts = [text for text, _ in words.texts([length] * config.batch_size)]
        latencies = _times(config, llm, prompts)
    percentiles = {str(each): float(np.percentile(latencies, each)) for each in PERCENTILES}
    average = statistics.fmean(latencies)
    print(f"Avg latency: {average} seconds")
    for percent, value in percentiles.items():
        print(f"{percent}% percentile latency: {value} seconds")
    write_json(arguments, {"avg_latency": average, "latencies": latencies, "percentiles": percentiles})
    return 0


def _times(config: LatencyConfig, llm: LLM, prompts: list[str]) -> list[float]:
    from rich.console import Console
    from rich.progress import track

    params = SamplingParams(
        n=config.n, temperature=0.0 if config.n == 1 else 1.0, ignore_eos=True, max_tokens=config.output_len
    )
    console = Console(stderr=True)
    latencies = []
    for number in track(
        range(config.num_iters_warmup + config.num_iters),
        description="batches",
        console=console,
        disable=config.disable_tqdm or not console.is_terminal,
    ):
        started = time.perf_counter()
        llm.generate(prompts, params, use_tqdm=False)
        if number >= config.num_iters_warmup:
            latencies.append(time.perf_counter() - started)
    return latencies
