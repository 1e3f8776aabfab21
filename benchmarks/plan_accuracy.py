"""How near `octavo plan` comes on this machine: the plan and what `octavo bench serve` measures, in one run.

    python benchmarks/plan_accuracy.py --rps 3 --input-len 220 --output-len 64

Measures the machine's roofline, makes the plan, starts a server with the flags that the plan gives, and loads
it three ways: one request at a time, all at once, and at `--rps`. The load generator shares the machine with
the server, as everything here does. Takes a minute or so, and wants the machine
for itself.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from octavo.bench.dataset.choose import make_conversations
from octavo.bench.load.config import LoadConfig
from octavo.bench.roofline import measure_roofline
from octavo.bench.serve import measure, tokenizer_of
from octavo.observe.plan.make import PlanConfig, make_plan
from octavo.observe.plan.service import Service
from octavo.runtime.native import choose_isa


@contextmanager
def server(flags: str) -> Iterator[str]:
    """`octavo serve` on a free port, until the block ends; gives its address."""
    command = [sys.executable, "-m", "octavo", "serve", *shlex.split(flags), "--host", "127.0.0.1"]
    command += ["--port", "0", "--disable-log-requests", "--log-stats-interval", "0"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if found := re.search(r"at (http://\S+)/v1", line):
                yield found[1]
                return
        raise RuntimeError("the server stopped before it was ready")
    finally:
        process.terminate()
        process.stderr.close()
        process.wait()


def load(url: str, args: argparse.Namespace, seed: int, **settings: Any) -> dict[str, Any]:
    """What `octavo bench serve` measures."""
    config = LoadConfig(
        base_url=url,
        input_len=args.input_len,
        output_len=args.output_len,
        ignore_eos=True,
        seed=seed,
        percentile_metrics="ttft,itl,e2el",
        metric_percentiles="50,95",
        **settings,
    )
    tokenizer = tokenizer_of(config)
    return measure(config, tokenizer, make_conversations(config, tokenizer))


def rows(service: Service, alone: dict[str, Any], full: dict[str, Any], loaded: dict[str, Any]) -> list[Any]:
    """Name, planned, measured."""
    assert service.loaded is not None
    return [
        ("alone: TTFT p50, ms", 1e3 * service.unloaded.ttft_p50, alone["p50_ttft_ms"]),
        ("alone: ITL p50, ms", 1e3 * service.unloaded.itl_p50, alone["p50_itl_ms"]),
        ("all at once: requests/s", service.capacity_rps, full["request_throughput"]),
        ("all at once: output tokens/s", service.capacity_output_tokens, full["output_throughput"]),
        ("at the rate: TTFT p50, ms", 1e3 * service.loaded.ttft_p50, loaded["p50_ttft_ms"]),
        ("at the rate: TTFT p95, ms", 1e3 * service.loaded.ttft_p95, loaded["p95_ttft_ms"]),
        ("at the rate: ITL p50, ms", 1e3 * service.loaded.itl_p50, loaded["p50_itl_ms"]),
        ("at the rate: ITL p95, ms", 1e3 * service.loaded.itl_p95, loaded["p95_itl_ms"]),
        ("at the rate: E2E p95, ms", 1e3 * service.loaded.e2e_p95, loaded["p95_e2el_ms"]),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", nargs="?", default="")
    parser.add_argument("--rps", type=float, default=3.0)
    parser.add_argument("--input-len", type=int, default=220)
    parser.add_argument("--output-len", type=int, default=64)
    parser.add_argument("--max-model-len", type=int, default=1024)
    parser.add_argument("--num-prompts", type=int, default=60)
    args = parser.parse_args()

    threads = len(os.sched_getaffinity(0))
    isa = choose_isa()
    print(measure_roofline(isa, threads).line())
    config = PlanConfig(
        model=args.model,
        rps=args.rps,
        input_tokens=args.input_len,
        output_tokens=args.output_len,
        max_model_len=args.max_model_len,
    )
    plan = make_plan(config)
    if plan.service is None or plan.service.replicas != 1 or plan.service.loaded is None:
        sys.exit("the plan wants more than one replica; lower --rps")
    flags = " ".join(plan.flags)
    print(f"flags: {flags}")
    with server(flags) as url:
        alone = load(url, args, 1, num_prompts=12, max_concurrency=1)
        full = load(url, args, 2, num_prompts=args.num_prompts)
        loaded = load(url, args, 3, num_prompts=args.num_prompts, request_rate=args.rps)
    print(f"{'':<30}{'plan':>10}{'measured':>10}{'off':>8}")
    for name, planned, measured in rows(plan.service, alone, full, loaded):
        print(f"{name:<30}{planned:>10.1f}{measured:>10.1f}{planned / measured - 1:>+8.0%}")


if __name__ == "__main__":
    main()
