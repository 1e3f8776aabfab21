"""The offline API on a fake engine: order, forms of prompts, errors before work, interruption."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.fake_engine import EOS, VOCAB_SIZE, FakeEngine, byte_tokenizer, fake_tokens

import octavo.llm
from octavo import LLM, RequestOutputKind, SamplingParams
from octavo.config import EngineConfig
from octavo.frontend.request import Prompt

TOKENIZER = byte_tokenizer()


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(max_model_len=64)


@pytest.fixture
def llm(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> LLM:
    info = SimpleNamespace(spec=SimpleNamespace(vocab_size=VOCAB_SIZE), eos_token_ids=[EOS], sampling={})
    monkeypatch.setattr(octavo.llm, "resolve_model", Path)
    monkeypatch.setattr(octavo.llm, "read_model_info", lambda path: info)
    monkeypatch.setattr(octavo.llm, "load_tokenizer", lambda path, override: TOKENIZER)
    monkeypatch.setattr(octavo.llm, "build_engine", lambda config, grammars: engine)
    return LLM("fake", seed=3)


def test_outputs_come_in_the_order_of_the_prompts(llm: LLM, engine: FakeEngine) -> None:
    params = [SamplingParams(max_tokens=length, seed=length) for length in (9, 2, 5, 1)]
    prompts: list[Prompt] = ["aé", [1, 2], {"prompt": "b"}, {"prompt_token_ids": [7], "prompt": "seven"}]
    outputs = llm.generate(prompts, params)
    assert [output.prompt for output in outputs] == ["aé", None, "b", "seven"]
    tokens = [[97, 0xC3, 0xA9], [1, 2], [98], [7]]
    assert [output.prompt_token_ids for output in outputs] == tokens
    for output, prompt, each in zip(outputs, tokens, params, strict=True):
        (completion,) = output.outputs
        assert output.finished
        assert completion.token_ids == fake_tokens(prompt, each.seed or 0, each.max_tokens or 0)
        assert completion.text == TOKENIZER.decode(completion.token_ids)
    assert len({output.request_id for output in outputs}) == 4
    assert not engine.has_work


@pytest.mark.parametrize("prompt", ["a", [97], {"prompt": "a"}, {"prompt_token_ids": [97]}, ["a"], [[97]]])
def test_one_prompt_needs_no_list(llm: LLM, prompt: Any) -> None:
    (output,) = llm.generate(prompt, SamplingParams(max_tokens=4, seed=1))
    assert output.outputs[0].token_ids == fake_tokens([97], 1, 4)


def test_no_prompts_no_outputs(llm: LLM) -> None:
    assert llm.generate([]) == []


def test_defaults_are_vllms(llm: LLM) -> None:
    (output,) = llm.generate("a")
    assert (len(output.outputs[0].token_ids), output.outputs[0].finish_reason) == (16, "length")


def test_only_the_end_comes_whatever_kind_of_output_was_asked_for(llm: LLM) -> None:
    params = SamplingParams(max_tokens=6, seed=1, n=2, output_kind=RequestOutputKind.DELTA)
    (output,) = llm.generate("a", params)
    assert [completion.token_ids for completion in output.outputs] == [
        fake_tokens([97], 1 + index, 6) for index in range(2)
    ]
    assert params.output_kind is RequestOutputKind.DELTA


def test_a_seed_for_all_is_the_same_for_each_and_none_differs(llm: LLM) -> None:
    def tokens(seed: int | None) -> list[list[int]]:
        outputs = llm.generate(["a"] * 3, SamplingParams(seed=seed, max_tokens=12))
        return [output.outputs[0].token_ids for output in outputs]

    assert tokens(4) == [fake_tokens([97], 4, 12)] * 3
    first, second, third = tokens(None)
    assert len({tuple(first), tuple(second), tuple(third)}) == 3


def test_a_stop_string_frees_the_sequence(llm: LLM, engine: FakeEngine) -> None:
    text = TOKENIZER.decode(fake_tokens([97], 1, 50))
    (output,) = llm.generate("a", SamplingParams(max_tokens=50, seed=1, stop=[text[10:13]]))
    assert output.outputs[0].text == text[: text.index(text[10:13])]
    assert len(engine.aborted) == 1
    assert not engine.has_work


@pytest.mark.parametrize(
    ("prompts", "params", "message"),
    [
        (["a", ""], None, "prompt is empty"),
        (["a", "b" * 64], None, "prompt is 64 tokens long"),
        (["a", "\ud800"], None, "prompt holds half a surrogate pair"),
        (["a", 3.5], None, "prompt must be text or"),
        (5, None, "prompts must be text, token ids"),
        (["a", "b"], [SamplingParams()], "sampling_params has 1 entries for 2 prompts"),
        ("a", SamplingParams(stop_token_ids=[VOCAB_SIZE]), "stop_token_ids"),
    ],
)
def test_nothing_runs_when_one_request_can_not(
    llm: LLM, engine: FakeEngine, prompts: Any, params: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        llm.generate(prompts, params)
    assert engine.num_steps == 0
    assert not engine.has_work


def test_priority_goes_to_the_engine(llm: LLM, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    add = engine.add
    monkeypatch.setattr(engine, "add", lambda request: (seen.append(request.options.priority), add(request)))
    with pytest.raises(ValueError, match="--scheduling-policy priority"):
        llm.generate(["a", "b"], priority=[0, -1])
    monkeypatch.setattr(llm, "_policy", "priority")
    llm.generate(["a", "b"], priority=[5, -1])
    assert seen == [5, -1]
    with pytest.raises(ValueError, match="priority has 1 entries for 2 prompts"):
        llm.generate(["a", "b"], priority=[5])


def test_chat_renders_the_template(llm: LLM) -> None:
    first = [{"role": "user", "content": "hi"}]
    second = [{"role": "system", "content": "<eos>"}]
    params = SamplingParams(max_tokens=2, seed=0)
    (one,) = llm.chat(first, params)
    assert one.prompt == "user: hi\nassistant:"
    assert one.prompt_token_ids == list(one.prompt.encode())
    both = llm.chat([first, second], params)
    assert [output.prompt for output in both] == [one.prompt, "system: <eos>\nassistant:"]
    assert EOS in both[1].prompt_token_ids
    (other,) = llm.chat(first, params, chat_template="{{ messages[0].content }}{{ extra }}!",
                        chat_template_kwargs={"extra": 1})  # fmt: skip
    assert other.prompt == "hi1!"
    for wrong in ("hi", 3):
        with pytest.raises(ValueError, match="messages must be"):
            llm.chat(wrong)  # type: ignore[arg-type]


def interrupting(engine: FakeEngine, at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    step = engine.step

    def interrupted() -> Any:
        if engine.num_steps == at:
            os.kill(os.getpid(), signal.SIGINT)
        return step()

    monkeypatch.setattr(engine, "step", interrupted)


@pytest.fixture
def python_handles_control_c() -> Iterator[None]:
    """As in a terminal: a shell starts its background jobs with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("python_handles_control_c")
def test_control_c_comes_between_steps_and_leaves_an_engine_that_works(
    llm: LLM, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupting(engine, 3, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        llm.generate(["a", "b"], SamplingParams(max_tokens=30))
    assert engine.num_steps == 4  # the step that was interrupted ran to its end
    assert len(engine.aborted) == 2
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    (output,) = llm.generate("a", SamplingParams(max_tokens=3, seed=1))
    assert output.outputs[0].token_ids == fake_tokens([97], 1, 3)


def test_a_programs_own_handler_is_left_alone(
    llm: LLM, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
    try:
        interrupting(engine, 1, monkeypatch)
        llm.generate("a", SamplingParams(max_tokens=5))
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == [signal.SIGINT]


def test_an_error_of_the_engine_frees_what_was_open(
    llm: LLM, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(engine, "step", fail)
    with pytest.raises(RuntimeError, match="no"):
        llm.generate(["a", "b"])
    assert len(engine.aborted) == 2


def test_closing_frees_the_engine(llm: LLM) -> None:
    with llm:
        llm.generate("a")
    for use in (lambda: llm.generate("a"), llm.reset_prefix_cache):
        with pytest.raises(RuntimeError, match="closed"):
            use()


def test_progress_is_shown_on_a_terminal_only(
    llm: LLM, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("octavo.frontend.progress._PATIENCE_SECONDS", 0.0)
    params = SamplingParams(max_tokens=3)

    def shown(use: Callable[[], object]) -> str:
        use()
        return capsys.readouterr().err

    assert shown(lambda: llm.generate(["a"] * 4, params)) == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert shown(lambda: llm.generate(["a"] * 4, params, use_tqdm=False)) == ""
    text = shown(lambda: llm.generate(["a"] * 4, params))
    assert "4/4" in text
    assert "tok/s out" in text


def test_arguments_become_the_config(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[EngineConfig] = []

    class StopHere(Exception):
        pass

    def resolve(model: str) -> Path:
        raise StopHere

    monkeypatch.setattr(octavo.llm, "resolve_model", resolve)
    monkeypatch.setattr(
        octavo.llm,
        "engine_config",
        lambda model, arguments: (
            seen.append(octavo.flags.vllm_arguments.engine_config(model, arguments)) or seen[-1]
        ),
    )
    harmless = {"tensor_parallel_size": 1, "trust_remote_code": True, "dtype": "bfloat16",
                "enforce_eager": True, "swap_space": 4, "quantization": None, "disable_log_stats": True,
                "enable_prefix_caching": None, "max_num_batched_tokens": None}  # fmt: skip
    with pytest.raises(StopHere):
        LLM(model="m", max_model_len=128, gpu_memory_utilization=0.5, max_num_seqs=4, **harmless)
    (config,) = seen
    assert config == EngineConfig(model="m", max_model_len=128, gpu_memory_utilization=0.5, max_num_seqs=4)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"tensor_parallel_size": 2}, ValueError, "size=2 does not.*leave it out, or at .*size=1$"),
        ({"enable_lora": True}, ValueError, "enable_lora=True does not work here: LoRA adapters are not"),
        ({"quantization": "hqq"}, ValueError, "quantization .--quantization. must be one of int8, int4"),
        ({"max_model_length": 5}, TypeError, "'max_model_length'; did you mean max_model_len"),
        ({"zzz": 5}, TypeError, "unexpected keyword argument 'zzz'; there are .*max_num_seqs"),
        ({"max_num_seqs": 0}, ValueError, "max_num_seqs .--max-num-seqs. must be at least 1"),
        ({"dtype": "float8"}, ValueError, "dtype .--dtype. must be one of auto, float32"),
    ],
)  # fmt: skip
def test_arguments_that_can_not_be(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        LLM("m", **arguments)


def test_what_vllm_s_scripts_give_and_what_can_not_be(llm: LLM) -> None:
    params = SamplingParams(temperature=0, max_tokens=2)
    assert len(llm.generate("a", params, lora_request=None)) == 1
    with pytest.raises(ValueError, match=r"^lora_request must be None: LoRA"):
        llm.generate("a", params, lora_request=object())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^chat_template_content_format='string' does not work here"):
        llm.chat([], params, chat_template_content_format="string")  # type: ignore[arg-type]


def test_a_model_that_is_not_there() -> None:
    with pytest.raises(ValueError, match=r"^model .*/nowhere"):
        LLM("/nowhere")


def test_without_parameters_the_model_s_defaults_hold(llm: LLM, engine: FakeEngine) -> None:
    llm._sampling_defaults = {"temperature": 0.5, "max_tokens": 3}
    assert llm.get_default_sampling_params() == SamplingParams(temperature=0.5, max_tokens=3)
    [output] = llm.generate("a")
    assert len(output.outputs[0].token_ids) == 3
    [output] = llm.generate("a", SamplingParams(max_tokens=5))
    assert len(output.outputs[0].token_ids) == 5
