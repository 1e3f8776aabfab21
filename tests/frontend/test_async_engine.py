"""Streams over the process boundary, and over the death of the process."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import TypeVar

import pytest
from support.fake_engine import CRASH_PROMPT, EOS, VOCAB_SIZE, byte_tokenizer, command, fake_tokens

from octavo.config import EngineConfig
from octavo.engine.messages import StepOutputs
from octavo.frontend.async_engine import AsyncEngine, EngineDeadError
from octavo.frontend.request import Prompt, RequestBuilder
from octavo.frontend.supervisor import RestartBudget
from octavo.frontend.suspects import MAX_CRASHES
from octavo.outputs import RequestOutput
from octavo.sampling_params import RequestOutputKind, SamplingParams

T = TypeVar("T")
PROMPT = [1, 2, 3]


def new_engine(*arguments: str, max_model_len: int = 4096) -> AsyncEngine:
    requests = RequestBuilder(
        byte_tokenizer(), vocab_size=VOCAB_SIZE, max_model_len=max_model_len, eos_token_ids=[EOS], seed=0
    )
    return AsyncEngine(EngineConfig(model="fake"), requests, command(*arguments))


@asynccontextmanager
async def running(*arguments: str) -> AsyncIterator[AsyncEngine]:
    engine = new_engine(*arguments)
    await engine.launch()
    try:
        yield engine
    finally:
        await engine.stop()


def run(test: Callable[[], Awaitable[T]]) -> T:
    """A test on an event loop of its own, with a limit so that a stream that hangs fails."""

    async def limited() -> T:
        return await asyncio.wait_for(test(), 300)

    return asyncio.run(limited())


def params(max_tokens: int, **rest: object) -> SamplingParams:
    return SamplingParams(seed=5, max_tokens=max_tokens, output_kind=RequestOutputKind.DELTA, **rest)  # type: ignore[arg-type]


async def collect(
    engine: AsyncEngine, request_id: str, wanted: SamplingParams, prompt: Prompt | None = None
) -> list[RequestOutput]:
    stream = engine.generate(PROMPT if prompt is None else prompt, wanted, request_id)
    return [output async for output in stream]


def token_ids(outputs: list[RequestOutput], index: int = 0) -> list[int]:
    return [
        token
        for output in outputs
        for part in output.outputs
        if part.index == index
        for token in part.token_ids
    ]


def expected(max_tokens: int, prompt: list[int] | None = None, seed: int = 5) -> list[int]:
    return fake_tokens(prompt or PROMPT, seed, max_tokens)


async def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


async def drained(engine: AsyncEngine) -> None:
    """Wait until the engine process runs nothing of what came before."""
    await collect(engine, f"probe {time.monotonic()}", params(3))
    await until(lambda: engine.stats.num_running == 0)


def test_streams_of_many_requests() -> None:
    async def test() -> None:
        async with running() as engine:
            assert engine.healthy
            assert engine.ready.isa == "fake"
            results = await asyncio.gather(
                *(collect(engine, str(i), params(40 + i, n=1 + i % 2), [i]) for i in range(50))
            )
        for i, outputs in enumerate(results):
            for index in range(1 + i % 2):
                assert token_ids(outputs, index) == expected(40 + i, [i], 5 + index)
            assert [output.finished for output in outputs] == [False] * (len(outputs) - 1) + [True]

    run(test)


def test_text_prompts_and_stop_strings() -> None:
    async def test() -> None:
        async with running() as engine:
            text = engine.tokenizer.decode(expected(400))
            stop = text[100:104]
            outputs = await collect(engine, "r", params(400, stop=[stop]), bytes(PROMPT).decode())
            shown = "".join(output.outputs[0].text for output in outputs)
            assert shown == text[: text.index(stop)]
            assert outputs[-1].outputs[0].stop_reason == stop
            await drained(engine)

    run(test)


def test_a_slow_reader_gets_few_outputs_and_every_token() -> None:
    async def test() -> None:
        async with running("0.002") as engine:
            outputs = []
            async for output in engine.generate(PROMPT, params(100), "r"):
                outputs.append(output)
                await until(lambda: engine.stats.num_running == 0)
            assert token_ids(outputs) == expected(100)
            assert len(outputs) <= 2

    run(test)


@pytest.mark.parametrize("how", ["aclose", "cancel", "drop", "abort"])
def test_leaving_a_stream_aborts_it(how: str) -> None:
    async def test() -> None:
        # Of 4000 tokens, so that neither ends by itself in the time that this takes.
        async with running("0.01") as engine:
            kept: list[RequestOutput] = []

            async def stay() -> None:
                async for output in engine.generate(PROMPT, params(4000), "other"):
                    kept.append(output)

            other = asyncio.create_task(stay())
            await until(lambda: engine.stats.num_running == 1)
            if how == "aclose":
                async with aclosing(engine.generate(PROMPT, params(4000), "r")) as stream:
                    async for _ in stream:
                        break
            elif how == "cancel":
                task = asyncio.create_task(collect(engine, "r", params(4000)))
                await until(lambda: engine.stats.num_running == 2)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            elif how == "drop":
                async for _ in engine.generate(PROMPT, params(4000), "r"):
                    break
            else:
                outputs = []
                async for output in engine.generate(PROMPT, params(4000), "r"):
                    outputs.append(output)
                    engine.abort("r")
                assert outputs[-1].outputs[0].finish_reason == "abort"
                assert outputs[-1].finished
                engine.abort("unknown")
            await until(lambda: engine.stats.num_running == 1)
            # The id is free again, and what is on its way for the old request does not reach the new one.
            assert token_ids(await collect(engine, "r", params(20))) == expected(20)
            other.cancel()
            assert len(token_ids(kept)) >= 20
            assert token_ids(kept) == expected(len(token_ids(kept)))

    run(test)


def test_a_request_that_can_not_run_is_refused_and_leaves_nothing_behind() -> None:
    async def test() -> None:
        async with running("0.01") as engine:
            for prompt, wanted, message in [
                ([], params(5), "prompt is empty"),
                ([1] * 4096, params(5), "max_model_len"),
                ([1], params(5, stop_token_ids=[999]), "stop_token_ids"),
            ]:
                with pytest.raises(ValueError, match=message):
                    await collect(engine, "r", wanted, prompt)
            first = asyncio.create_task(collect(engine, "r", params(100)))
            await until(lambda: engine.stats.num_running == 1)
            with pytest.raises(ValueError, match="in use"):
                await collect(engine, "r", params(5))
            assert token_ids(await first) == expected(100)

    run(test)


def test_kill_9_in_the_middle_of_a_hundred_streams() -> None:
    async def test() -> None:
        async with running("0.01") as engine:
            tasks = [
                asyncio.create_task(collect(engine, str(i), params(250, n=1 + i % 2), [i]))
                for i in range(100)
            ]
            for kill in range(3):
                await until(lambda: engine.stats.num_running == 150 and engine.healthy)
                await asyncio.sleep(0.05)
                assert engine.pid is not None
                os.kill(engine.pid, signal.SIGKILL)
                await until(lambda n=kill: engine.num_restarts == n + 1)  # type: ignore[misc]
            for i, outputs in enumerate(await asyncio.gather(*tasks)):
                for index in range(1 + i % 2):
                    assert token_ids(outputs, index) == expected(250, [i], 5 + index)
            assert engine.healthy
            # Totals go on over the death of the processes that counted them.
            assert engine.stats.num_preemptions >= 250

    run(test)


def test_requests_that_come_while_there_is_no_engine_wait_for_the_next() -> None:
    async def test() -> None:
        async with running() as engine:
            assert engine.pid is not None
            os.kill(engine.pid, signal.SIGKILL)
            await until(lambda: not engine.healthy)
            dropped = engine.generate(PROMPT, params(5), "dropped")
            waiting = asyncio.ensure_future(anext(dropped))
            await asyncio.sleep(0)
            waiting.cancel()
            outputs = await collect(engine, "r", params(20))
            assert token_ids(outputs) == expected(20)
            assert (engine.num_restarts, engine.healthy) == (1, True)

    run(test)


def test_a_request_that_crashes_the_engine_is_found_and_the_others_live() -> None:
    async def test() -> None:
        async with running("0.01") as engine:
            others = [asyncio.create_task(collect(engine, str(i), params(200), [i])) for i in range(5)]
            await until(lambda: engine.stats.num_running == 5)
            with pytest.raises(
                EngineDeadError, match="killed by SIGABRT, each time that it ran this request"
            ):
                await collect(engine, "bad", params(5), list(CRASH_PROMPT))
            for i, outputs in enumerate(await asyncio.gather(*others)):
                assert token_ids(outputs) == expected(200, [i])
            await until(lambda: engine.num_restarts == MAX_CRASHES + 1)

    run(test)


def test_an_engine_that_can_not_start_again_is_given_up(tmp_path: Path) -> None:
    async def test() -> None:
        async with running("once", str(tmp_path / "marker")) as engine:
            engine._budget = RestartBudget(limit=2)
            os.kill(engine.pid or 0, signal.SIGKILL)
            with pytest.raises(EngineDeadError, match=r"exit code 4 \(gave up after 2 restarts in 60 s\)"):
                await collect(engine, "r", params(10**6))
            with pytest.raises(EngineDeadError, match="gave up"):
                await collect(engine, "later", params(5))
            assert not engine.healthy

    run(test)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("refuse",), "^model .--model.: 'fake' is not a model$"),
        (("exit",), "^the engine process left with exit code 3: the last words$"),
    ],
)
def test_a_start_that_fails_says_why_in_one_line(arguments: tuple[str, ...], message: str) -> None:
    async def test() -> None:
        engine = new_engine(*arguments)
        with pytest.raises(EngineDeadError, match=message):
            await engine.launch()
        await engine.stop()

    run(test)


def test_a_program_that_is_not_there() -> None:
    async def test() -> None:
        engine = new_engine()
        engine._command = ["/nowhere/python"]
        with pytest.raises(EngineDeadError, match="could not be started"):
            await engine.launch()

    run(test)


def test_stop_fails_what_is_open_and_ends_the_process() -> None:
    async def test() -> None:
        async with running("0.01") as engine:
            task = asyncio.create_task(collect(engine, "r", params(4000)))
            await until(lambda: engine.stats.num_running == 1)
            pid = engine.pid
            assert pid is not None
            await engine.stop()
            with pytest.raises(EngineDeadError, match="was stopped"):
                await task
            with pytest.raises(EngineDeadError, match="was stopped"):
                await collect(engine, "r", params(5))
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)

    run(test)


def test_stop_while_an_engine_is_being_replaced() -> None:
    async def test() -> None:
        async with running() as engine:
            os.kill(engine.pid or 0, signal.SIGKILL)
            await until(lambda: not engine.healthy)
        assert engine.num_restarts == 0

    run(test)


def test_reset_prefix_cache_reaches_the_engine() -> None:
    async def test() -> None:
        async with running() as engine:
            engine.reset_prefix_cache()
            await drained(engine)

    run(test)


def test_descriptions_are_given_in_turn_and_not_by_an_engine_that_is_gone() -> None:
    async def test() -> None:
        async with running("0.05") as engine:
            stream = engine.generate([1, 2], params(100_000), "r")
            await anext(stream)
            abandoned = asyncio.create_task(engine.describe())
            await asyncio.sleep(0)
            abandoned.cancel()
            states = await asyncio.gather(*(engine.describe() for _ in range(3)))
            assert [state.num_running for state in states if state] == [1, 1, 1]

            waiting = asyncio.create_task(engine.describe())
            await asyncio.sleep(0)
            assert engine.pid is not None
            os.kill(engine.pid, signal.SIGKILL)
            assert await waiting is None
            while not engine.healthy:
                assert await engine.describe() is None
                await asyncio.sleep(0.01)
            state = await engine.describe()
            assert state is not None
            await stream.aclose()
        assert await engine.describe() is None

    run(test)


def test_restart_budget() -> None:
    budget = RestartBudget(limit=2, window=10)
    assert [budget.spend(now) for now in (0, 1, 2, 9.9, 10, 10.5, 11)] == [
        True,
        True,
        False,
        False,
        True,
        False,
        True,
    ]


def test_steps_are_shown_to_whoever_counts_them() -> None:
    async def test() -> None:
        async with running() as engine:
            steps: list[StepOutputs] = []
            engine.on_step = steps.append
            await collect(engine, "r", params(5))
            assert [token for step in steps for token in step.outputs[0].token_ids] == expected(5)
            assert engine.stats is steps[-1].stats

    run(test)
