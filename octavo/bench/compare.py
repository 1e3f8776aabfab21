"""Engines on the same file, threads and workloads, taking turns so that all see the same machine."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from rich.table import Table

from octavo.bench.engine_rate import EngineRate
from octavo.bench.machine import Machine, this_machine
from octavo.bench.peers.peer import Peer
from octavo.bench.roofline import Ceiling, ModelWork, Roofline, measure_roofline, work_of_model
from octavo.bench.workload import Workload
from octavo.config import EngineConfig
from octavo.engine.kv.block_pool import blocks_for

WORKLOADS = (
    Workload(kind="prefill", prompt_tokens=512),
    *(Workload(kind="decode", prompt_tokens=128, output_tokens=128, batch=batch) for batch in (1, 8, 32)),
)


class Row(msgspec.Struct, kw_only=True):
    """A workload's figures: tokens a second of each round, ours and each peer's."""

    workload: Workload
    ours: list[float]
    peers: dict[str, list[float]]
    ceiling: Ceiling

    def ratio(self, peer: str) -> float:
        """Our median over a peer's."""
        return statistics.median(self.ours) / statistics.median(self.peers[peer])


class Report(msgspec.Struct, kw_only=True):
    """A comparison and what it was measured on; `skipped` has a reason for each peer that did not run."""

    model: str
    peers: list[str]
    skipped: dict[str, str]
    machine: Machine
    roofline: Roofline
    work: ModelWork
    rows: list[Row]

    def table(self) -> Table:
        """The medians, their ratios, and how near ours come to what the machine allows."""
        table = Table(title=f"{self.model}, tokens/s, median of {len(self.rows[0].ours)} (lowest to highest)")
        table.add_column("workload")
        table.add_column("octavo", justify="right")
        for peer in self.peers:
            table.add_column(peer, justify="right")
            table.add_column("ratio", justify="right")
        for column in ("ceiling", "octavo of it"):
            table.add_column(column, justify="right")
        for row in self.rows:
            most = row.ceiling.tokens_per_second
            beside: list[str] = []
            for peer in self.peers:
                beside += [_spread(row.peers[peer]), f"{row.ratio(peer):.2f}x"]
            table.add_row(
                row.workload.name,
                _spread(row.ours),
                *beside,
                f"{most:,.0f} ({row.ceiling.bound})",
                f"{statistics.median(row.ours) / most:.0%}",
            )
        return table

    def notes(self) -> list[str]:
        """Who was left out, the machine, its ceilings, and what a token costs at batch 1."""
        work = self.work
        single = next(
            (row for row in self.rows if row.workload.kind == "decode" and row.workload.batch == 1), None
        )
        notes = [f"without {peer}: {reason}" for peer, reason in self.skipped.items()]
        notes += [*self.machine.lines(), self.roofline.line()]
        if single is not None:
            read = work.step_bytes(single.workload)
            rate = read * statistics.median(single.ours)
            notes.append(
                f"decode at batch 1 reads {read / 1e6:.1f} MB a token: {rate / 1e9:.1f} GB/s, "
                f"{rate / self.roofline.read_bandwidth:.0%} of the measured bandwidth"
            )
        return notes


def compare(
    model: Path,
    peers: Sequence[Peer],
    skipped: dict[str, str],
    threads: int,
    rounds: int,
    on_progress: Callable[[str], None],
) -> Report:
    """Compare octavo's engine with `peers` on a model.

    `on_progress` gets a line before each measurement. Raises ValueError when a side can not run.
    """
    machine = this_machine()
    ours = EngineRate(_engine_config(model, threads))
    on_progress("warming up")
    ours.tokens_per_second(max(WORKLOADS, key=_kv_blocks))
    on_progress("the machine's ceilings")
    roofline = measure_roofline(ours.ready.isa, threads)
    work = work_of_model(model, ours.ready.weight_bytes)
    figures = take_turns([ours, *peers], WORKLOADS, rounds, on_progress)
    roofline = roofline.fastest(measure_roofline(ours.ready.isa, threads))
    names = [peer.name for peer in peers]
    rows = [
        Row(
            workload=workload,
            ours=each[0],
            peers=dict(zip(names, each[1:], strict=True)),
            ceiling=work.ceiling(workload, roofline),
        )
        for workload, each in zip(WORKLOADS, figures, strict=True)
    ]
    return Report(
        model=model.name,
        peers=names,
        skipped=skipped,
        machine=machine,
        roofline=roofline,
        work=work,
        rows=rows,
    )


def take_turns(
    sides: Sequence[Peer], workloads: Sequence[Workload], rounds: int, on_progress: Callable[[str], None]
) -> list[list[list[float]]]:
    """Each workload's figures: for each side, in their order, a number for each round."""
    figures: list[list[list[float]]] = [[[] for _ in sides] for _ in workloads]
    for number in range(rounds):
        for workload, each in zip(workloads, figures, strict=True):
            for side, collected in zip(sides, each, strict=True):
                on_progress(f"round {number + 1} of {rounds}: {side.name}, {workload.name}")
                collected.append(side.tokens_per_second(workload))
    return figures


def _engine_config(path: Path, threads: int) -> EngineConfig:
    """A KV cache just large enough, as the peer's is, so that all of it is in use after the warm-up."""
    return EngineConfig(
        model=str(path),
        threads=threads,
        max_model_len=max(workload.longest for workload in WORKLOADS),
        num_gpu_blocks_override=max(map(_kv_blocks, WORKLOADS)),
    )


def _kv_blocks(workload: Workload) -> int:
    return workload.batch * blocks_for(workload.longest)


def _spread(figures: list[float]) -> str:
    return f"{statistics.median(figures):,.0f} ({min(figures):,.0f} to {max(figures):,.0f})"
