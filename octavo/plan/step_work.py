"""What a step has to compute, as far as its time depends on it."""

from __future__ import annotations

from dataclasses import dataclass

from octavo.engine.kv.kv_groups import KVGroup
from octavo.engine.kv.needs import Window
from octavo.engine.scheduling.scheduler import Step
from octavo.engine.step_time import prompt_pairs


@dataclass(frozen=True, slots=True)
class StepWork:
    """Tokens that a step computes, (query, key) pairs of their attention, and keys that are read for it.

    `num_decodes` and `decode_pairs` are the part of the sequences that decode. Pairs and keys are those of
    the mean layer: one with a window has fewer.
    """

    num_tokens: int
    num_pairs: float
    num_keys: float
    num_decodes: int = 0
    decode_pairs: float = 0


def step_work(step: Step, groups: tuple[KVGroup, ...]) -> StepWork:
    """That of a step that is scheduled and was not run, with the layers of `groups`."""
    chunks = [
        (sequence.num_computed_tokens, count)
        for sequence, count in zip(step.sequences, step.num_new_tokens, strict=True)
    ]
    num_layers = sum(len(group.layers) for group in groups) or 1
    num_pairs = num_keys = decode_pairs = 0.0
    for window, share in _shares(groups).items():
        pairs = [seen_pairs(context, count, window) for context, count in chunks]
        num_pairs += share / num_layers * sum(pairs)
        decode_pairs += share / num_layers * sum(pairs[: step.num_decodes])
        num_keys += share / num_layers * sum(seen_keys(context, count, window) for context, count in chunks)
    return StepWork(step.num_tokens, num_pairs, num_keys, step.num_decodes, decode_pairs)


def seen_keys(context: int, count: int, window: int) -> int:
    """Keys that `count` tokens after `context` others see, `window` back at most; 0 is all."""
    return min(context + count, window - 1 + count) if window else context + count


def seen_pairs(context: int, count: int, window: int) -> int:
    """(query, key) pairs of those tokens: the one at position p sees p + 1 keys or `window`."""
    if not window:
        return prompt_pairs(count, context)
    short = min(count, max(0, window - context))  # the first so many see less than the window, or just that
    return prompt_pairs(short, context) + (count - short) * window


def _shares(groups: tuple[KVGroup, ...]) -> dict[int, int]:
    """Layers by window."""
    layers: dict[int, int] = {}
    for group in groups:
        window = group.need.tokens if isinstance(group.need, Window) else 0
        layers[window] = layers.get(window, 0) + (len(group.layers) or 1)
    return layers
