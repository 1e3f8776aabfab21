"""The demo model through the offline API and through an engine process that is killed: the same tokens."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.killed_engine import outputs_under_kills

from octavo import LLM, SamplingParams
from octavo.config import EngineConfig
from octavo.frontend.async_engine import AsyncEngine, EngineDeadError
from octavo.outputs import CompletionOutput, RequestOutput

SETTINGS = {"max_model_len": 512, "num_gpu_blocks_override": 256, "max_num_seqs": 16}
PROMPTS = ["The capital of France is", "Once upon a time", "1, 2, 3,", "def main():\n", "The sea"]


def wanted(index: int) -> SamplingParams:
    """Greedy, sampled, with penalties, with stop strings and log probabilities."""
    return [
        SamplingParams(temperature=0, max_tokens=16),
        SamplingParams(temperature=1.0, top_p=0.9, seed=11, max_tokens=16, n=2),
        SamplingParams(temperature=0, max_tokens=16, presence_penalty=1.0, repetition_penalty=1.1),
        SamplingParams(temperature=0.7, seed=5, max_tokens=16, stop=["\n\n", "return"]),
        SamplingParams(temperature=0, max_tokens=16, logprobs=2, prompt_logprobs=0),
    ][index]


@pytest.fixture(scope="module")
def llm(demo_model: Path) -> Iterator[LLM]:
    with LLM(str(demo_model), async_scheduling=False, **SETTINGS) as llm:
        yield llm


@pytest.fixture(scope="module")
def offline(llm: LLM) -> list[RequestOutput]:
    return llm.generate(PROMPTS, [wanted(index) for index in range(len(PROMPTS))])


def test_it_completes(llm: LLM, offline: list[RequestOutput]) -> None:
    assert "Paris" in offline[0].outputs[0].text
    tokenizer = llm.get_tokenizer()
    for output in offline:
        for completion in output.outputs:
            if completion.finish_reason == "length":
                assert completion.text == tokenizer.decode(completion.token_ids)
    scored = offline[4]
    assert scored.prompt_logprobs is not None
    assert scored.outputs[0].logprobs is not None
    for token, logprobs in zip(scored.outputs[0].token_ids, scored.outputs[0].logprobs, strict=True):
        assert logprobs[token].rank == 1
        assert logprobs[token].decoded_token == tokenizer.token_text(token)


def test_alone_or_together_in_any_order(llm: LLM, offline: list[RequestOutput]) -> None:
    for index in reversed(range(len(PROMPTS))):
        (alone,) = llm.generate(PROMPTS[index], wanted(index))
        assert same(alone.outputs) == same(offline[index].outputs)


def test_a_chat_is_its_rendered_prompt_and_ends_by_itself(llm: LLM) -> None:
    params = SamplingParams(temperature=0, max_tokens=60)
    (chat,) = llm.chat([{"role": "user", "content": "Say hello."}], params)
    assert chat.prompt is not None
    assert chat.prompt.endswith("<|im_start|>user\nSay hello.<|im_end|>\n<|im_start|>assistant\n")
    (plain,) = llm.generate({"prompt_token_ids": chat.prompt_token_ids}, params)
    assert same(plain.outputs) == same(chat.outputs)
    (completion,) = chat.outputs
    assert (completion.finish_reason, completion.stop_reason) == ("stop", None)
    assert not completion.text.endswith("<|im_end|>")


def same(completions: list[CompletionOutput]) -> list[tuple[object, ...]]:
    """What must be equal bit for bit."""
    return [dataclasses.astuple(completion) for completion in completions]


@pytest.mark.parametrize(("kills", "async_scheduling"), [(0, False), (2, False), (2, True)])
def test_a_killed_engine_process_changes_nothing(
    demo_model: Path, offline: list[RequestOutput], kills: int, async_scheduling: bool
) -> None:
    async def test() -> None:
        config = EngineConfig(model=str(demo_model), async_scheduling=async_scheduling, **SETTINGS)
        engine = await AsyncEngine.start(config)
        try:
            outputs = await outputs_under_kills(
                engine, [(prompt, wanted(index)) for index, prompt in enumerate(PROMPTS)], kills
            )
        finally:
            await engine.stop()
        assert engine.num_restarts == kills
        for online, reference in zip(outputs, offline, strict=True):
            assert same(online.outputs) == same(reference.outputs)
            assert online.prompt_logprobs == reference.prompt_logprobs

    asyncio.run(asyncio.wait_for(test(), 120))


def test_a_setting_that_can_not_be_is_told_before_and_by_the_process(demo_model: Path) -> None:
    async def start(**settings: object) -> None:
        await AsyncEngine.start(EngineConfig(model=str(demo_model), **settings))  # type: ignore[arg-type]

    with pytest.raises(ValueError, match="max_model_len"):
        asyncio.run(start(max_model_len=10**6))
    with pytest.raises(EngineDeadError, match=r"^(?!.*Traceback)[^\n]*kv_cache_memory_bytes[^\n]*$"):
        asyncio.run(start(kv_cache_memory_bytes=1000))
