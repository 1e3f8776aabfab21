"""Streams from an engine process that is killed while they run."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence

from octavo.frontend.async_engine import AsyncEngine
from octavo.outputs import RequestOutput
from octavo.sampling_params import SamplingParams

OUTPUTS_BEFORE_A_KILL = 15


async def outputs_under_kills(
    engine: AsyncEngine, requests: Sequence[tuple[str, SamplingParams]], kills: int
) -> list[RequestOutput]:
    """The last output of each request, all at once, with the process killed each time that there is news."""
    num_outputs = 0

    async def stream(index: int) -> RequestOutput:
        nonlocal num_outputs
        outputs = []
        async for output in engine.generate(*requests[index], str(index)):
            num_outputs += 1
            outputs.append(output)
        return outputs[-1]

    async def kill() -> None:
        for number in range(kills):
            while num_outputs < OUTPUTS_BEFORE_A_KILL * (number + 1) or engine.pid is None:
                await asyncio.sleep(0.005)
            os.kill(engine.pid, signal.SIGKILL)
            while engine.num_restarts == number:
                await asyncio.sleep(0.005)

    *outputs, _ = await asyncio.gather(*map(stream, range(len(requests))), kill())
    return outputs
