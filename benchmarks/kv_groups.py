"""What a long sequence holds of the KV cache when some layers have a window, and with all blocks kept.

Run from the repository: `python benchmarks/kv_groups.py [--tokens 32768] [--budget 2048]`. The real
scheduler, without a model, computes a prompt in steps of `--budget` tokens and then decodes, once with the
layers of a model in KV groups and once in one group, which keeps every block. Beside what is held while it
decodes stands the least that could be: the keys and values that each layer's next query sees. Layers
and heads are those of published configurations, also of families that octavo lacks; the cache is in float16.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from octavo.engine.kv.block_pool import BlockPool
from octavo.engine.kv.kv_groups import KVGroup, kv_groups, most_blocks
from octavo.engine.kv.needs import Full
from octavo.engine.messages import AddRequest
from octavo.engine.scheduling.scheduler import Scheduler, SchedulerSettings
from octavo.engine.sequence import Sequence
from octavo.model.decoder import trace
from octavo.plan.shape import KNOWN
from octavo.runtime.kv_cache import KVCacheSpec, PagedKV
from octavo.sampling.state import SamplingState
from octavo.sampling_params import SamplingParams

VOCAB = 8
DECODES = 64


MODELS = {
    "Gemma 2 9B": KNOWN["gemma-2-9b"].program.cache_layers,
    "Gemma 3 4B": KNOWN["gemma-3-4b"].program.cache_layers,
    "gpt-oss 20B": KNOWN["gpt-oss-20b"].program.cache_layers,
    "Qwen2 7B, max_window_layers 14": trace(
        KNOWN["qwen2.5-7b"].spec.with_windows((0,) * 14 + (4096,) * 14)
    ).cache_layers,
}


@dataclass(frozen=True)
class Held:
    """MiB at most while the prompt is computed, and after that."""

    prefill: float
    decode: float


def held(layers: tuple[PagedKV, ...], groups: tuple[KVGroup, ...], num_tokens: int, budget: int) -> Held:
    """What a sequence of that many tokens holds."""
    settings = SchedulerSettings(1, budget, 1, kv_groups=groups)
    pool = BlockPool(most_blocks(groups, num_tokens, budget))
    scheduler = Scheduler(settings, pool, None)
    params = SamplingParams(temperature=0.0, max_tokens=DECODES, ignore_eos=True)
    request = AddRequest("0", [1] * (num_tokens - DECODES), params, [], 0.0)
    sampling = SamplingState(params, request.prompt_token_ids, [], [], VOCAB)
    sequence = Sequence(request, 0, num_tokens, sampling)
    scheduler.add(sequence)
    most_prefill = decode = 0
    while not sequence.finish_reason():
        step = scheduler.schedule()
        blocks = pool.num_blocks - pool.num_free
        if step.num_decodes:
            decode = blocks
        else:
            most_prefill = max(most_prefill, blocks)
        scheduler.update(step)
        if sequence.num_computed_tokens == len(sequence.token_ids):
            sequence.token_ids.append(0)
    cut = tuple(group.layers for group in groups)
    mebibytes = KVCacheSpec(layers, "float16", cut).block_bytes / (1 << 20)
    return Held(most_prefill * mebibytes, decode * mebibytes)


def least(layers: tuple[PagedKV, ...], num_tokens: int) -> float:
    """MiB of what the next query of each layer sees."""
    seen = (min(each.window or num_tokens, num_tokens) * each.token_bytes("float16") for each in layers)
    return sum(seen) / (1 << 20)


def main() -> None:
    """Print a row a model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=32_768)
    parser.add_argument("--budget", type=int, default=2048)
    args = parser.parse_args()
    print(f"MiB held by a sequence of {args.tokens} tokens, computed {args.budget} at a time")
    print(f"{'':32}{'groups':>10}{'all kept':>10}{'prefill':>10}{'decode':>10}{'least':>10}{'saved':>8}")
    for name, layers in MODELS.items():
        groups = kv_groups(layers, args.tokens)
        whole = (KVGroup(Full(), tuple(range(len(layers)))),)
        before = held(layers, whole, args.tokens, args.budget)
        after = held(layers, groups, args.tokens, args.budget)
        planes = max(len(group.layers) for group in groups)
        print(
            f"{name:32}{f'{len(groups)} x {planes}':>10}{before.decode:10.1f}{after.prefill:10.1f}"
            f"{after.decode:10.1f}{least(layers, args.tokens):10.1f}{1 - after.decode / before.decode:8.1%}"
        )


if __name__ == "__main__":
    main()
