"""One engine process and several users: each gets its own, over the death of the engine or another user."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

from support.fake_engine import CRASH_PROMPT, EOS, VOCAB_SIZE, byte_tokenizer, command, fake_tokens

from octavo.config import EngineConfig
from octavo.frontend.async_engine import EngineDeadError
from octavo.frontend.request import RequestBuilder
from octavo.frontend.shared_engine import AttachedEngine, EngineNews, SharedEngine
from octavo.sampling_params import RequestOutputKind, SamplingParams

PROMPT = [1, 2, 3]
CONFIG = EngineConfig(model="fake")


def requests() -> RequestBuilder:
    return RequestBuilder(
        byte_tokenizer(), vocab_size=VOCAB_SIZE, max_model_len=4096, eos_token_ids=[EOS], seed=0
    )


def want_turn(owner: SharedEngine, name: str, wanted: bool) -> None:
    asyncio.get_running_loop().call_soon(lambda: owner.want_turn(name, wanted=wanted))


@asynccontextmanager
async def running(
    num_users: int, *arguments: str
) -> AsyncIterator[tuple[SharedEngine, list[AttachedEngine]]]:
    loop = asyncio.get_running_loop()
    owner = SharedEngine(CONFIG, requests(), command(*arguments))
    users = [AttachedEngine(CONFIG, requests(), f"user{index}") for index in range(num_users)]

    def tell(news: EngineNews) -> None:
        for user in users:
            user.tell(news)

    owner.on_news = tell
    by_name = {f"user{index}": user for index, user in enumerate(users)}
    owner.on_turn = lambda name, turn: loop.call_soon(by_name[name].tell, turn)
    for name, user in by_name.items():
        user.want_turn = partial(want_turn, owner, name)
    await owner.launch()
    try:
        for user in users:
            assert await user.settled()
        yield owner, users
    finally:
        for user in users:
            await user.stop()
        await owner.stop()


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        await asyncio.wait_for(test(), 300)

    asyncio.run(limited())


async def collect(
    engine: AttachedEngine, request_id: str, count: int, prompt: list[int] | None = None
) -> list[int]:
    params = SamplingParams(seed=5, max_tokens=count, output_kind=RequestOutputKind.DELTA, ignore_eos=True)
    stream = engine.generate(PROMPT if prompt is None else prompt, params, request_id)
    return [token async for output in stream for part in output.outputs for token in part.token_ids]


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


def test_users_may_choose_the_same_ids_and_get_their_own() -> None:
    async def test() -> None:
        async with running(3) as (owner, users):
            prompts = [[1], [2], [3]]
            pairs = list(zip(users, prompts, strict=True))
            found = await asyncio.gather(*(collect(user, "same", 50, prompt) for user, prompt in pairs))
            assert found == [fake_tokens(prompt, 5, 50) for prompt in prompts]
            assert {user.pid for user in users} == {owner.pid}
            states = [await user.describe() for user in users]
            assert [state is not None and state.num_running for state in states] == [0, 0, 0]

    run(test)


def test_kill_9_in_the_middle_of_the_streams_of_all() -> None:
    async def test() -> None:
        async with running(2, "0.01") as (owner, users):
            tasks = [
                asyncio.create_task(collect(user, str(index), 250, [index]))
                for index in range(20)
                for user in users
            ]
            for kill in range(2):
                await until(lambda: owner.stats.num_running == 40)
                assert owner.pid is not None
                os.kill(owner.pid, signal.SIGKILL)
                await until(lambda n=kill: owner.num_restarts == n + 1)  # type: ignore[misc]
            found = await asyncio.gather(*tasks)
            assert found == [fake_tokens([index], 5, 250) for index in range(20) for _ in users]
            assert [user.num_restarts for user in users] == [2, 2]

    run(test)


def test_a_user_that_is_gone_leaves_nothing_in_the_engine() -> None:
    async def test() -> None:
        async with running(2, "0.01") as (owner, (gone, other)):
            kept = asyncio.create_task(collect(other, "kept", 300))
            lost = asyncio.create_task(collect(gone, "lost", 4000))
            await until(lambda: owner.stats.num_running == 2)
            owner.forget("user0")
            await until(lambda: owner.stats.num_running == 1)
            # What it may still have had on its way is not taken either.
            late = asyncio.create_task(collect(gone, "late", 4000))
            assert await kept == fake_tokens(PROMPT, 5, 300)
            await until(lambda: owner.stats.num_running == 0)
            for task in (lost, late):
                task.cancel()
            await asyncio.gather(lost, late, return_exceptions=True)

    run(test)


def test_one_request_that_kills_the_engine_takes_none_of_another_user_along() -> None:
    async def test() -> None:
        async with running(3, "0.01") as (owner, users):
            tasks = [
                asyncio.create_task(collect(user, str(index), 60, [index, which]))
                for which, user in enumerate(users)
                for index in range(3)
            ]
            await asyncio.sleep(0)
            killers = [asyncio.create_task(collect(user, "killer", 60, CRASH_PROMPT)) for user in users[:2]]
            for found in await asyncio.gather(*killers, return_exceptions=True):
                assert isinstance(found, EngineDeadError)
                assert "each time that it ran this request" in str(found)
            expected = [fake_tokens([index, which], 5, 60) for which in range(3) for index in range(3)]
            assert await asyncio.gather(*tasks) == expected
            assert owner.healthy

    run(test)


def test_the_end_of_all_engines_is_told_to_all() -> None:
    async def test() -> None:
        async with running(2, "0.01") as (owner, users):
            tasks = [asyncio.create_task(collect(user, "r", 4000)) for user in users]
            await until(lambda: owner.stats.num_running == 2)
            await owner.stop()
            for found in await asyncio.gather(*tasks, return_exceptions=True):
                assert isinstance(found, EngineDeadError)

    run(test)
