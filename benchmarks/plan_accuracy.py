"""How near `octavo plan` comes on this machine: the plan and what `octavo bench serve` measures, in one run.

    python benchmarks/plan_accuracy.py --rps 3 --input-len 220 --output-len 64

Makes the plan, starts a server with the flags that the plan gives, and loads it three ways: one request at a
time, all at once, and at `--rps`; all of it `--turns` times, since machines that are shared have faster and
slower minutes and random arrivals have worse and better luck. Prints medians. The load generator shares the
machine with the server, as everything here does. Takes about a minute a turn, and wants the machine for
itself: what other processes took of it is printed.
"""

from __future__ import annotations

import argparse
import os
import shlex
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from octavo.bench.dataset.choose import make_conversations
from octavo.bench.load.config import LoadConfig
from octavo.bench.local_server import local_server
from octavo.bench.roofline import measure_roofline
from octavo.bench.serve import measure, tokenizer_of
from octavo.machine.isa import choose_isa
from octavo.plan.make import PlanConfig, make_plan
from octavo.plan.service import Service


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the comparison."""

    name: str
    planned: float
    measured: float


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


def figures(
    service: Service, alone: dict[str, Any], full: dict[str, Any], loaded: dict[str, Any]
) -> list[Figure]:
    """What the plan says beside what was measured."""
    assert service.loaded is not None
    return [
        Figure("alone: TTFT p50, ms", 1e3 * service.unloaded.ttft_p50, alone["p50_ttft_ms"]),
        Figure("alone: ITL p50, ms", 1e3 * service.unloaded.itl_p50, alone["p50_itl_ms"]),
        Figure("all at once: requests/s", service.capacity_rps, full["request_throughput"]),
        Figure("all at once: output tokens/s", service.capacity_output_tokens, full["output_throughput"]),
        Figure("at the rate: TTFT p50, ms", 1e3 * service.loaded.ttft_p50, loaded["p50_ttft_ms"]),
        Figure("at the rate: TTFT p95, ms", 1e3 * service.loaded.ttft_p95, loaded["p95_ttft_ms"]),
        Figure("at the rate: ITL p50, ms", 1e3 * service.loaded.itl_p50, loaded["p50_itl_ms"]),
        Figure("at the rate: ITL p95, ms", 1e3 * service.loaded.itl_p95, loaded["p95_itl_ms"]),
        Figure("at the rate: E2E p95, ms", 1e3 * service.loaded.e2e_p95, loaded["p95_e2el_ms"]),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", nargs="?", default="")
    parser.add_argument("--rps", type=float, default=3.0)
    parser.add_argument("--input-len", type=int, default=220)
    parser.add_argument("--output-len", type=int, default=64)
    parser.add_argument("--max-model-len", type=int, default=1024)
    parser.add_argument("--num-prompts", type=int, default=100)
    parser.add_argument("--turns", type=int, default=3)
    args = parser.parse_args()

    print(measure_roofline(choose_isa(), len(os.sched_getaffinity(0))).line())
    turns = []
    for number in range(args.turns):
        print(f"turn {number + 1}:")
        if (found := turn(args, number)) is not None:
            turns.append(found)
            report([found])
    if not turns:
        sys.exit("every plan wanted more than one replica; lower --rps")
    if len(turns) > 1:
        print("medians:")
        report(turns)


def turn(args: argparse.Namespace, number: int) -> list[Figure] | None:
    """A plan, and a server with the plan's flags under load; None where one server would not do."""
    config = PlanConfig(
        model=args.model,
        rps=args.rps,
        input_tokens=args.input_len,
        output_tokens=args.output_len,
        max_model_len=args.max_model_len,
    )
    plan = make_plan(config)
    if plan.service is None or plan.service.replicas != 1 or plan.service.loaded is None:
        print("left out: the plan wants more than one replica")
        return None
    flags = " ".join(plan.flags)
    with local_server(shlex.split(flags)) as server:
        before = other_seconds(server.pid)
        began = time.perf_counter()
        alone = load(server.url, args, 10 * number + 1, num_prompts=12, max_concurrency=1)
        full = load(server.url, args, 10 * number + 2, num_prompts=max(60, args.num_prompts // 2))
        loaded = load(server.url, args, 10 * number + 3, num_prompts=args.num_prompts, request_rate=args.rps)
        others = (other_seconds(server.pid) - before) / (time.perf_counter() - began)
    print(f"flags: {flags}; other processes took {others:.0%} of a CPU meanwhile")
    return figures(plan.service, alone, full, loaded)


def report(turns: list[list[Figure]]) -> None:
    """A line a figure: medians over the turns, and of what the plan was off in each."""
    print(f"{'':<30}{'plan':>10}{'measured':>10}{'differs':>8}")
    for same in zip(*turns, strict=True):
        planned, measured, off = (
            statistics.median(values)
            for values in zip(
                *((f.planned, f.measured, f.planned / f.measured - 1) for f in same), strict=True
            )
        )
        print(f"{same[0].name:<30}{planned:>10.1f}{measured:>10.1f}{off:>+8.0%}")


def other_seconds(server_pid: int) -> float:
    """CPU time that processes other than this one and the server's have taken since the machine started."""
    user, nice, system, _, _, irq, softirq, steal = (
        int(field) for field in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]
    )
    ours = 0
    for pid in {os.getpid(), *family(server_pid)}:
        fields = _stat(pid)
        ours += int(fields[11]) + int(fields[12])
    return (user + nice + system + irq + softirq + steal - ours) / os.sysconf("SC_CLK_TCK")


def family(pid: int) -> list[int]:
    """A process, its children and theirs."""
    children = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    found = [pid]
    for parent in found:
        found += [child for child in children if _parent(child) == parent]
    return found


def _parent(pid: int) -> int:
    try:
        return int(_stat(pid)[1])
    except OSError:
        return 0  # it has ended


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the name, which may hold anything."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


if __name__ == "__main__":
    main()
