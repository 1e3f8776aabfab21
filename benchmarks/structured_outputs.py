"""What a structured output costs per decode step: beside free requests, in turns, on one engine.

python benchmarks/structured_outputs.py --batch 1 16 --rounds 12
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

from octavo import SamplingParams, StructuredOutputsParams
from octavo.config import EngineConfig
from octavo.engine.build import build_engine
from octavo.engine.engine import Engine
from octavo.engine.messages import AddRequest


def people(word: dict[str, Any]) -> StructuredOutputsParams:
    """A list of people that does not come to its end, whose strings are like `word`."""
    person = {
        "type": "object",
        "properties": {
            "name": word,
            "age": {"type": "integer", "minimum": 0, "maximum": 120},
            "tags": {"type": "array", "items": word, "minItems": 1, "maxItems": 3},
        },
        "required": ["name", "age", "tags"],
        "additionalProperties": False,
    }
    return StructuredOutputsParams(
        json={"type": "array", "items": person, "minItems": 200}, disable_any_whitespace=True
    )


FORMS = {
    "free": None,
    "JSON schema": people({"type": "string"}),
    "JSON schema, strings of maxLength 12": people({"type": "string", "maxLength": 12}),
    "any JSON": StructuredOutputsParams(
        json={"type": "array", "minItems": 1000}, disable_any_whitespace=True
    ),
    "regex": StructuredOutputsParams(regex=r"(\d{1,5}, ){400}"),
}
NUM_STEPS = 64
NUM_PROMPT_TOKENS = 32


def step_seconds(engine: Engine, form: StructuredOutputsParams | None, batch: int, turn: int) -> float:
    """The median decode step of `batch` requests, every one of which gets a token in it."""
    for number in range(batch):
        params = SamplingParams(
            temperature=0.8,
            seed=number,
            max_tokens=NUM_STEPS + 8,
            ignore_eos=form is None,
            structured_outputs=form,
            skip_reading_prefix_cache=True,
        )
        prompt = [1000 + (7 * number + 13 * each) % 20_000 for each in range(NUM_PROMPT_TOKENS)]
        name = f"{turn}-{number}"
        engine.add(AddRequest(name, prompt, params, [0, 2], time.monotonic()))
    seconds = []
    while engine.has_work:
        started = time.perf_counter()
        outputs = engine.step()
        elapsed = time.perf_counter() - started
        if len(outputs.outputs) == batch == outputs.stats.num_scheduled_tokens:
            seconds.append(elapsed)
    assert len(seconds) >= NUM_STEPS // 2
    return statistics.median(seconds)


def main() -> None:
    """Print a line for each batch and form."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", nargs="?", default="", help="a model; the demo by default")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16], help="sequences in a step")
    parser.add_argument(
        "--rounds", type=int, default=12, help="turns of each form, of which the fastest counts"
    )
    arguments = parser.parse_args()
    most = max(arguments.batch)
    engine = build_engine(
        EngineConfig(
            model=arguments.model,
            max_model_len=256,
            max_num_seqs=most,
            num_gpu_blocks_override=16 * most + 16,
        )
    )
    print("| batch | output | ms a step | ratio to free |\n|---|---|---|---|")
    turn = 0
    for batch in arguments.batch:
        found: dict[str, list[float]] = {name: [] for name in FORMS}
        for _ in range(arguments.rounds):
            for name, form in FORMS.items():
                turn += 1
                found[name].append(step_seconds(engine, form, batch, turn))
        free = min(found["free"])
        for name, values in found.items():
            print(f"| {batch} | {name} | {1000 * min(values):.3f} | {min(values) / free:.2f} |")


if __name__ == "__main__":
    main()
