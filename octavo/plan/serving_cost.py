"""What serving adds to the steps of the bare engine: messages between processes, text, HTTP, the clients.

A server is started on this machine and a few streams are read from it. What they take longer than the steps
that the engine has to run for them is put down as seconds for each step and each of its sequences. Where the
server and its clients share the CPUs with the engine, tokens come unevenly: their gaps are kept too.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from octavo.bench.dataset.choose import make_conversations
from octavo.bench.load.config import LoadConfig
from octavo.bench.load.openai_api import OpenAIServer
from octavo.bench.load.outcome import Outcome
from octavo.bench.load.run import run_load, wait_until_ready
from octavo.bench.local_server import local_server
from octavo.config import EngineConfig
from octavo.engine.kv.block_pool import blocks_for
from octavo.engine.kv.kv_groups import kv_groups
from octavo.model.decoder import trace
from octavo.model.load import read_spec, resolve_model
from octavo.plan.step_cost import StepCost
from octavo.plan.step_work import StepWork
from octavo.tokenizer.load import load_tokenizer
from octavo.tokenizer.tokenizer import Tokenizer

_BATCHES = (1, 2, 3, 5, 8)
"""A load that leaves room has few streams, and between few it differs most how unevenly tokens come."""
_PROMPT = 32
_OUTPUT = 32
_FEWEST_ROUNDS, _MOST_ROUNDS = 2, 16
_SECONDS = 2.0
"""Enough of a batch: with more rounds the tail of the gaps is seen better, but a large model is slow."""
_START_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Streams:
    """What clients saw of `batch` streams at a time: seconds for a token, the median stream's, and the gaps.

    A gap is between two pieces of text, which may hold more than one token.
    """

    batch: int
    token_seconds: float
    gaps: tuple[float, ...]


class ServedCost:
    """The engine's steps, each longer by `per_step` and by `per_sequence` for each sequence that decodes."""

    def __init__(self, engine: StepCost, per_step: float, per_sequence: float, streams: Sequence[Streams]):
        """`streams` of some batch sizes say how unevenly tokens come; none of them: evenly."""
        self._engine = engine
        self._per_step = per_step
        self._per_sequence = per_sequence
        self._delays = {each.batch: tuple(gap - each.token_seconds for gap in each.gaps) for each in streams}

    def seconds(self, work: StepWork) -> float:
        """How long a step with that work takes in a server."""
        return self._engine.seconds(work) + self._per_step + self._per_sequence * work.num_decodes

    def delays(self, num_decodes: int) -> Sequence[float]:
        """Those of the batch size that is nearest."""
        if not self._delays:
            return ()
        return self._delays[min(self._delays, key=lambda batch: abs(batch - num_decodes))]


def measure_serving(config: EngineConfig, engine: StepCost, progress: Callable[[str], object]) -> ServedCost:
    """Start a server, read streams from it, stop it; seconds for a small model.

    Raises ValueError when the server does not start, or answers with errors.
    """
    prompt = min(_PROMPT, (config.max_model_len or _PROMPT * 2) // 2)
    output = min(_OUTPUT, (config.max_model_len or _PROMPT + _OUTPUT) - prompt)
    batches = sorted({min(batch, config.max_num_seqs) for batch in _BATCHES})
    progress("starting a server")
    tokenizer = load_tokenizer(resolve_model(config.model), config.tokenizer)
    num_blocks = max(batches) * blocks_for(prompt + output + 1)
    with local_server(_flags(config, num_blocks)) as server:
        progress(f"reading up to {batches[-1]} streams")
        readers = [_Reader(server.url, tokenizer, batch, prompt, output) for batch in batches]
        asyncio.run(_read_in_turns(readers))
    streams = [reader.streams() for reader in readers]
    added = [each.token_seconds - _expected_gap(engine, each.batch, prompt, output) for each in streams]
    shares = share_out((batches[0], batches[-1]), (added[0], added[-1]))
    return ServedCost(engine, *shares, streams)


def share_out(batches: tuple[int, int], added: tuple[float, float]) -> tuple[float, float]:
    """The line through what two batches take longer, neither part of it negative."""
    (small, large), (first, second) = batches, added
    if large == small:
        return max(0.0, first), 0.0
    per_sequence = min(max(0.0, (second - first) / (large - small)), max(0.0, second / large))
    return max(0.0, first - small * per_sequence), per_sequence


def _expected_gap(engine: StepCost, batch: int, prompt: int, output: int) -> float:
    """The mean time of a step in which `batch` sequences decode, over their lengths."""
    lengths = range(prompt + 1, prompt + output)
    return statistics.fmean(
        engine.seconds(StepWork(batch, batch * length, batch * length, batch, batch * length))
        for length in lengths
    )


class _Reader:
    """`batch` clients, and what they saw so far."""

    def __init__(self, url: str, tokenizer: Tokenizer, batch: int, prompt: int, output: int) -> None:
        self._batch = batch
        self._config = LoadConfig(
            base_url=url,
            num_prompts=batch * (_MOST_ROUNDS + 1),
            input_len=prompt,
            output_len=output,
            ignore_eos=True,
            ready_check_timeout_sec=_START_SECONDS,
            seed=batch,
        )
        self._conversations = make_conversations(self._config, tokenizer)
        self._server = OpenAIServer(self._config, None, tokenizer)
        self._rounds: list[list[Outcome]] = []

    async def warm_up(self) -> None:
        """One request."""
        await wait_until_ready(self._server, self._conversations[0], _START_SECONDS)

    async def read(self) -> None:
        """A round: each client reads one stream, all from the same moment on."""
        first = self._batch * (len(self._rounds) + 1)
        several = self._conversations[first : first + self._batch]
        outcomes = (await run_load(self._server, several, self._config, lambda _: None)).outcomes
        if failed := [outcome.error for outcome in outcomes if not outcome.ok]:
            raise ValueError(f"a server of this model does not answer: {failed[0]}")
        self._rounds.append(outcomes)

    def streams(self) -> Streams:
        """Over all rounds."""
        token_seconds = statistics.median(outcome.tpot for outcomes in self._rounds for outcome in outcomes)
        gaps = tuple(gap for outcomes in self._rounds for gap in gaps_together(outcomes))
        return Streams(self._batch, token_seconds, gaps)


async def _read_in_turns(readers: Sequence[_Reader]) -> None:
    """A round of each, and again: machines have faster and slower seconds, of which all get some."""
    for reader in readers:
        await reader.warm_up()
    began = time.perf_counter()
    for number in range(_MOST_ROUNDS):
        if number >= _FEWEST_ROUNDS and time.perf_counter() - began > _SECONDS * len(readers):
            break
        for reader in readers:
            await reader.read()


def gaps_together(outcomes: list[Outcome]) -> Iterator[float]:
    """The gaps that began when every stream had its first token: no prompt is in them."""
    together = max(outcome.start + outcome.ttft for outcome in outcomes)
    for outcome in outcomes:
        now = outcome.start + outcome.ttft
        for gap in outcome.gaps:
            if now >= together:
                yield gap
            now += gap


def _flags(config: EngineConfig, num_blocks: int) -> list[str]:
    """Those of a server that has `num_blocks` for every group of layers, and otherwise is what is planned."""
    model = resolve_model(config.model)
    # Short sequences have a block for the same tokens in every group.
    num_groups = len(kv_groups(trace(read_spec(model)).cache_layers, num_blocks * config.block_size))
    return [
        str(model),
        *("--num-gpu-blocks-override", str(max(2, num_blocks * num_groups))),
        *("--max-num-seqs", str(config.max_num_seqs), "--max-model-len", str(num_blocks * config.block_size)),
        *("--max-num-batched-tokens", str(config.max_num_batched_tokens)),
    ]
