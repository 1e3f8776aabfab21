"""`octavo bench throughput`: how fast many prompts are completed, without a server."""

from __future__ import annotations

import argparse
import dataclasses
import time
from dataclasses import dataclass

from octavo.bench.dataset.choose import make_conversations
from octavo.bench.dataset.config import DatasetConfig
from octavo.bench.offline import add_llm_flags, make_llm, write_json
from octavo.config import setting
from octavo.flags.from_config import add_flags, config_of
from octavo.sampling_params import SamplingParams

HELP = "Many prompts at once, without a server: requests and tokens a second."


@dataclass(slots=True, kw_only=True)
class ThroughputConfig(DatasetConfig):
    """The flags of `octavo bench throughput` beside the engine's."""

    n: int = setting(1, "Completions of each prompt.", "Benchmark", low=1, high=64)
    disable_tqdm: bool = setting(False, "Show no progress.", "Benchmark")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The engine's flags and the data set's; the seed is both's."""
    add_llm_flags(parser)
    add_flags(parser, ThroughputConfig, skip=("seed", "num_turns"))


def run(arguments: argparse.Namespace) -> int:
    """Complete all prompts and print the rates."""
    config = config_of(ThroughputConfig, arguments)
    with make_llm(arguments, enable_prefix_caching=True) as llm:
        turns = [each.turns[0] for each in make_conversations(config, llm.get_tokenizer())]
        # Greedy where there is one completion; n equal ones would be no load.
        params = [
            SamplingParams(
                n=config.n,
                temperature=0.0 if config.n == 1 else 1.0,
                ignore_eos=True,
                max_tokens=turn.output_len,
            )
            for turn in turns
        ]
        started = time.perf_counter()
        outputs = llm.generate([turn.text for turn in turns], params, use_tqdm=not config.disable_tqdm)
        seconds = time.perf_counter() - started
    num_prompt = sum(len(output.prompt_token_ids) for output in outputs)
    num_output = sum(len(each.token_ids) for output in outputs for each in output.outputs)
    total = num_prompt + num_output
    print(
        f"Throughput: {len(outputs) / seconds:.2f} requests/s, {total / seconds:.2f} total tokens/s, "
        f"{num_output / seconds:.2f} output tokens/s"
    )
    print(f"Total num prompt tokens:  {num_prompt}")
    print(f"Total num output tokens:  {num_output}")
    result = {
        "elapsed_time": seconds,
        "num_requests": len(outputs),
        "total_num_tokens": total,
        "requests_per_second": len(outputs) / seconds,
        "tokens_per_second": total / seconds,
        "output_tokens_per_second": num_output / seconds,
        "dataset": dataclasses.asdict(config),
    }
    write_json(arguments, result)
    return 0
