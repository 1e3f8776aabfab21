"""Beam search against one written anew over the model's logits, and what it costs the engine."""

from __future__ import annotations

import functools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.fake_engine import VOCAB_SIZE, byte_tokenizer
from support.hash_executable import HashExecutable, hashed_logits

import octavo.llm
from octavo import LLM, BeamSearchParams
from octavo.engine.engine import Engine, EngineSettings
from octavo.engine.scheduling.scheduler import SchedulerSettings
from octavo.runtime.backend import Limits

MAX_MODEL_LEN = 96
EOS = list(range(0, VOCAB_SIZE, 9))
PROMPTS = [[3, 1, 4], [n % VOCAB_SIZE for n in range(40)]]


def make_llm(monkeypatch: pytest.MonkeyPatch, *, prefix_caching: bool = True) -> tuple[LLM, Engine]:
    settings = EngineSettings(
        SchedulerSettings(64, 256, 64), MAX_MODEL_LEN, VOCAB_SIZE, 512, prefix_caching=prefix_caching
    )
    engine = Engine(HashExecutable(VOCAB_SIZE, Limits(256, 64, 64, MAX_MODEL_LEN, VOCAB_SIZE)), settings)
    info = SimpleNamespace(spec=SimpleNamespace(vocab_size=VOCAB_SIZE), eos_token_ids=EOS, sampling={})
    monkeypatch.setattr(octavo.llm, "resolve_model", Path)
    monkeypatch.setattr(octavo.llm, "read_model_info", lambda path: info)
    monkeypatch.setattr(octavo.llm, "load_tokenizer", lambda path, override: byte_tokenizer())
    monkeypatch.setattr(octavo.llm, "build_engine", lambda config, grammars: engine)
    return LLM("fake"), engine


@pytest.fixture
def llm(monkeypatch: pytest.MonkeyPatch) -> LLM:
    return make_llm(monkeypatch)[0]


@functools.cache
def log_probabilities(tokens: tuple[int, ...]) -> np.ndarray:
    logits = hashed_logits(np.array(tokens), np.arange(len(tokens)), VOCAB_SIZE).astype(np.float64)
    return logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()


def plain_beam_search(prompt: list[int], params: BeamSearchParams) -> list[tuple[list[int], float, str]]:
    """Tokens, log probability and reason of each sequence; no shortcut, no early end."""
    beams, completed = [(tuple(prompt), 0.0)], []
    for _ in range(min(params.max_tokens, MAX_MODEL_LEN - len(prompt))):
        grown = []
        for tokens, total in beams:
            step = log_probabilities(tokens)
            for token in np.argsort(-step, kind="stable")[: 2 * params.beam_width]:
                longer = total + float(step[token])
                if token in EOS and not params.ignore_eos:
                    completed.append((tokens, longer, "stop"))
                else:
                    grown.append(((*tokens, int(token)), longer))
        beams = sorted(grown, key=lambda beam: -beam[1])[: params.beam_width]
    completed += [(*beam, "length") for beam in beams]
    completed.sort(key=lambda each: -each[1] / len(each[0]) ** params.length_penalty)
    return [(list(tokens), total, reason) for tokens, total, reason in completed[: params.beam_width]]


@pytest.mark.parametrize("width", [1, 2, 5])
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"ignore_eos": True},
        {"length_penalty": 0.0},
        {"length_penalty": 3.0},
        {"length_penalty": -1.0},
        {"max_tokens": 1},
        {"max_tokens": 500, "ignore_eos": True},
    ],
)
def test_it_finds_what_a_plain_search_finds(llm: LLM, width: int, more: dict[str, Any]):
    params = BeamSearchParams(**{"beam_width": width, "max_tokens": 12, **more})
    outputs = llm.beam_search(PROMPTS, params)
    for prompt, output in zip(PROMPTS, outputs, strict=True):
        expected = plain_beam_search(prompt, params)
        got = [(beam.tokens, beam.finish_reason) for beam in output.sequences]
        assert got == [(tokens, reason) for tokens, _, reason in expected]
        np.testing.assert_allclose(
            [beam.cum_logprob for beam in output.sequences], [total for _, total, _ in expected], atol=1e-4
        )
        for beam in output.sequences:
            assert beam.text == llm.get_tokenizer().decode(beam.tokens)
            assert (beam.stop_reason in EOS) == (beam.finish_reason == "stop")


def test_the_end_of_sequence_shows_if_asked_for(llm: LLM):
    hidden, shown = (
        llm.beam_search(
            PROMPTS[0],
            BeamSearchParams(
                beam_width=4, max_tokens=6, include_stop_str_in_output=include, length_penalty=0.0
            ),
        )[0].sequences
        for include in (False, True)
    )
    assert any(beam.finish_reason == "stop" for beam in hidden)
    for before, after in zip(hidden, shown, strict=True):
        ends = [after.stop_reason] if after.finish_reason == "stop" else []
        assert after.tokens == before.tokens + ends
        assert len(after.logprobs) == len(before.logprobs) + len(ends)


@pytest.mark.parametrize("prefix_caching", [True, False])
def test_a_step_computes_one_token_a_beam(monkeypatch: pytest.MonkeyPatch, prefix_caching: bool):
    llm, engine = make_llm(monkeypatch, prefix_caching=prefix_caching)
    counts, step = [], engine.step
    monkeypatch.setattr(engine, "step", lambda: (counts.append(each := step()), each)[1])
    llm.beam_search(PROMPTS[1], BeamSearchParams(beam_width=4, max_tokens=20, ignore_eos=True))
    assert [each.stats.num_scheduled_tokens for each in counts] == [40] + [4] * 19
    assert engine._pool.num_free == 512


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"beam_width": 0}, "beam_width"),
        ({"beam_width": 51}, "beam_width"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"length_penalty": float("nan")}, "length_penalty"),
        ({"temperature": -1.0}, "temperature"),
    ],
)
def test_parameters_out_of_bounds_are_refused(more: dict[str, Any], field: str):
    with pytest.raises(ValueError, match=field):
        BeamSearchParams(**{"beam_width": 2, "max_tokens": 2, **more})


def test_a_prompt_that_is_too_long_is_refused(llm: LLM):
    with pytest.raises(ValueError, match="shorten the prompt"):
        llm.beam_search([[1] * MAX_MODEL_LEN], BeamSearchParams(beam_width=2, max_tokens=2))
