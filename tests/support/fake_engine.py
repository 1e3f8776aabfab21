"""An engine without a model, whose tokens follow from the request and the position alone; a program too."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from dataclasses import dataclass, field

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from octavo.config import EngineConfig
from octavo.engine.messages import (
    AddRequest,
    DescribeState,
    EngineReady,
    EngineState,
    SchedulerStats,
    SequenceOutput,
    StepOutputs,
)
from octavo.engine.process import engine_process as process
from octavo.sampling.logprobs import TokenLogprobs
from octavo.structured.vocabulary import Vocabulary
from octavo.tokenizer.tokenizer import Tokenizer

VOCAB_SIZE = 257
EOS = 256
CRASH_PROMPT = [99, 114, 97, 115, 104]  # "crash" in bytes
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"


def byte_tokenizer() -> Tokenizer:
    """One token for each byte, its id the byte, and `<eos>`."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    characters = {byte: chr(byte) for byte in printable} | {b: chr(256 + i) for i, b in enumerate(others)}
    assert sorted(characters.values()) == alphabet
    backend = tokenizers.Tokenizer(
        models.BPE(vocab={characters[byte]: byte for byte in range(256)}, merges=[])
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken("<eos>", special=True)])
    return Tokenizer(backend, {"eos_token": "<eos>"}, {"default": TEMPLATE})


def fake_token(prompt: list[int], seed: int, position: int) -> int:
    """The token at `position` of the output: a letter or a space, now and then two bytes of a character."""
    key = repr((prompt, seed, position // 2)).encode()
    pair = hashlib.sha256(key).digest()
    if pair[0] < 64:
        return b"\xc3\xa9"[position % 2]
    return b"etaoin srhld"[pair[1 + position % 2] % 12]


def fake_tokens(prompt: list[int], seed: int, count: int) -> list[int]:
    """The first `count` tokens of an output."""
    return [fake_token(prompt, seed, position) for position in range(count)]


@dataclass
class FakeSequence:
    request: AddRequest
    outputs: list[int]


@dataclass
class FakeEngine:
    """Gives each sequence up to `tokens_per_step` tokens a step; `script` replaces the tokens."""

    step_seconds: float = 0.0
    tokens_per_step: int = 1
    max_model_len: int = 4096
    script: list[int] | None = None
    num_steps: int = 0
    aborted: list[str] = field(default_factory=list)
    cache_resets: int = 0
    sequences: dict[str, FakeSequence] = field(default_factory=dict)

    @property
    def has_work(self) -> bool:
        return bool(self.sequences)

    def ready(self) -> EngineReady:
        return EngineReady(1000, self.max_model_len, 0, 0, "fake", 16000)

    def add(self, request: AddRequest) -> None:
        assert request.request_id not in self.sequences
        self.sequences[request.request_id] = FakeSequence(request, list(request.output_token_ids))

    def abort(self, request_ids: list[str]) -> None:
        for request_id in request_ids:
            self.aborted.append(request_id)
            self.sequences.pop(request_id, None)

    def use_vocabulary(self, vocabulary: Vocabulary) -> None:
        pass

    def reset_prefix_cache(self) -> None:
        self.cache_resets += 1

    def describe(self, request: DescribeState) -> EngineState:
        return EngineState(1000, 1000, 0, 1, b"", b"", 0, len(self.sequences), [], 0, [])

    def step(self) -> StepOutputs:
        time.sleep(self.step_seconds)
        self.num_steps += 1
        outputs = [self._advance(sequence) for sequence in list(self.sequences.values())]
        stats = SchedulerStats(num_running=len(self.sequences), num_preemptions=self.num_steps)
        return StepOutputs(outputs, stats)

    def save_some(self) -> float | None:
        return None

    def close(self) -> None:
        pass

    def _advance(self, sequence: FakeSequence) -> SequenceOutput:
        request, params = sequence.request, sequence.request.params
        if request.prompt_token_ids == CRASH_PROMPT:
            os.abort()
        output = SequenceOutput(request.request_id, [], num_cached_tokens=len(sequence.outputs) and 16)
        if params.logprobs is not None:
            output.logprobs = []
        if params.prompt_logprobs is not None and not sequence.outputs:
            scored = [fake_logprobs(token) for token in request.prompt_token_ids[1:]]
            output.prompt_logprobs = [None, *scored]
        for _ in range(self.tokens_per_step):
            position = len(sequence.outputs)
            if self.script is not None:
                token = self.script[position]
            else:
                assert params.seed is not None
                token = fake_token(request.prompt_token_ids, params.seed, position)
            sequence.outputs.append(token)
            output.token_ids.append(token)
            if output.logprobs is not None:
                output.logprobs.append(fake_logprobs(token))
            if token in request.eos_token_ids and not params.ignore_eos:
                output.finish_reason = "stop"
            elif token in params.stop_token_ids:
                output.finish_reason, output.stop_reason = "stop", token
            elif params.max_tokens is not None and len(sequence.outputs) >= params.max_tokens:
                output.finish_reason = "length"
            if output.finish_reason is not None:
                del self.sequences[request.request_id]
                break
        return output


def fake_logprobs(token: int) -> TokenLogprobs:
    """The token at rank 2, after another one, and itself again among the most likely."""
    return TokenLogprobs([token, 65, token], [-1.0, -0.5, -1.0], 2)


def command(*arguments: str) -> list[str]:
    """What runs this file as an engine process."""
    return [sys.executable, "-P", __file__, *arguments]


def build(config: EngineConfig) -> FakeEngine:
    """As the arguments say: "slow", or a way to fail."""
    how = sys.argv[1] if len(sys.argv) > 1 else ""
    if how == "refuse":
        raise ValueError(f"model (--model): {config.model!r} is\nnot a model")
    if how == "exit":
        sys.stderr.write("the last words\n")
        sys.stderr.flush()
        os._exit(3)
    if how == "once":
        marker = sys.argv[2]
        if os.path.exists(marker):
            os._exit(4)
        open(marker, "w").close()
    return FakeEngine(step_seconds=float(how) if how.startswith("0.") else 0.0)


if __name__ == "__main__":
    sys.exit(process.run(build))
