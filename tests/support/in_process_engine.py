"""An AsyncEngine whose engine runs in the event loop, on a model that is a hash."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from support.fake_engine import EOS, VOCAB_SIZE, byte_tokenizer
from support.hash_executable import HashExecutable
from support.step_gate import StepGate

from octavo.config import EngineConfig
from octavo.engine.build import scheduler_settings, step_limits
from octavo.engine.engine import Engine, EngineSettings
from octavo.engine.messages import (
    AbortRequests,
    AddRequest,
    DescribeState,
    EngineState,
    ResetPrefixCache,
    StepOutputs,
    ToEngine,
)
from octavo.frontend.async_engine import AsyncEngine
from octavo.frontend.client import EngineClient
from octavo.frontend.request import RequestBuilder
from octavo.structured.config import structured_outputs_config
from octavo.structured.vocabulary import Vocabulary

MAX_MODEL_LEN = 256
NUM_BLOCKS = 128


class InProcessClient:
    """Stands in for the engine's process and its client; `step_seconds` is how long a step lasts at least."""

    pid = 0
    on_state: Callable[[EngineState], None]

    def __init__(self, engine: Engine, on_step: Callable[[StepOutputs], None], step_seconds: float) -> None:
        self._engine = engine
        self._on_step = on_step
        self._step_seconds = step_seconds
        self._running: asyncio.Task[None] | None = None
        self.gate = StepGate()
        self.after_step: Callable[[], None] = lambda: None
        self.requests: list[AddRequest] = []
        """All that were ever sent."""
        self.descriptions: list[DescribeState] = []
        """All that were ever asked for."""

    def send(self, message: ToEngine) -> None:
        match message:
            case AddRequest():
                self.requests.append(message)
                self._engine.add(message)
            case AbortRequests(request_ids):
                self._engine.abort(request_ids)
            case Vocabulary():
                self._engine.use_vocabulary(message)
            case ResetPrefixCache():
                self._engine.reset_prefix_cache()
            case DescribeState():
                self.descriptions.append(message)
                asyncio.get_running_loop().call_soon(self.on_state, self._engine.describe(message))
                return
        if self._running is None or self._running.done():
            self._running = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])

    async def _run(self) -> None:
        more = True
        while more:
            await asyncio.sleep(self._step_seconds)
            await self.gate.enter()
            more = self._engine.has_work
            self._on_step(self._engine.step())
            self.after_step()


class InProcessEngine(AsyncEngine):
    """All of AsyncEngine but the process: the same requests, streams, aborts and outputs."""

    def __init__(self, step_seconds: float = 0.0, config: EngineConfig | None = None) -> None:
        """`config` decides about the scheduler and the KV cache; the model is what it is."""
        config = config or EngineConfig(max_num_seqs=16, max_num_batched_tokens=64)
        requests = RequestBuilder(
            byte_tokenizer(),
            vocab_size=VOCAB_SIZE,
            max_model_len=MAX_MODEL_LEN,
            eos_token_ids=[EOS],
            seed=0,
            structured_outputs=structured_outputs_config(config.structured_outputs_config),
        )
        super().__init__(config, requests)
        self._step_seconds = step_seconds
        self.fake_client: InProcessClient

    async def launch(self, client: EngineClient | None = None) -> None:
        config = self.config
        scheduler = scheduler_settings(config, MAX_MODEL_LEN)
        settings = EngineSettings(
            scheduler,
            MAX_MODEL_LEN,
            VOCAB_SIZE,
            config.num_gpu_blocks_override or NUM_BLOCKS,
            prefix_caching=config.enable_prefix_caching,
            followed_blocks=config.kv_cache_metrics_sample if config.kv_cache_metrics else 0.0,
        )
        limits = step_limits(scheduler, MAX_MODEL_LEN, VOCAB_SIZE)
        engine = Engine(HashExecutable(VOCAB_SIZE, limits), settings, grammars=self._requests.grammars)
        self.fake_client = InProcessClient(engine, self._take_step, self._step_seconds)
        self.fake_client.on_state = self._descriptions.take
        self.ready = engine.ready()
        self._client = self.fake_client  # type: ignore[assignment]
