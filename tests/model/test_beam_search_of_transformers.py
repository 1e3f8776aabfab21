"""Beam search finds the sequences that transformers' finds, with a real model."""

from __future__ import annotations

import pytest
import torch

from octavo.config import EngineConfig
from octavo.engine.build import build_engine
from octavo.engine.messages import AddRequest
from octavo.frontend.beam_search import BeamSearch, BeamSearchParams
from octavo.outputs import Logprob


@pytest.mark.parametrize("width", [1, 3, 6])
def test_the_same_sequences_in_the_same_order(tiny_model, width: int):
    tiny = tiny_model("llama")
    prompt = [1, 17, 43, 9, 120]
    expected = tiny.model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        num_beams=width,
        num_return_sequences=width,
        do_sample=False,
        max_new_tokens=24,
        eos_token_id=None,
        pad_token_id=0,
    )

    config = EngineConfig(model=str(tiny.path), backend="reference", kv_cache_dtype="float32")
    engine = build_engine(config)
    search = BeamSearch(prompt, BeamSearchParams(beam_width=width, max_tokens=24), [], 128)
    number = 0
    while not search.done:
        for beam in search.beams:
            number += 1
            engine.add(AddRequest(f"{number:05}", beam.tokens, search.step_params(), [], float(number)))
        results = {}
        while engine.has_work:
            for output in engine.step().outputs:
                (logprobs,) = output.logprobs
                results[output.request_id] = {
                    token: Logprob(logprob)
                    for token, logprob in zip(logprobs.token_ids, logprobs.logprobs, strict=True)
                }
        search.advance([results[key] for key in sorted(results)])
    assert [beam.tokens for beam in search.best()] == expected.tolist()
