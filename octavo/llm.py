"""The offline API: prompts in, completions out, the engine in this process. vLLM's `LLM`."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Self, cast

import msgspec

from octavo.engine.build import build_engine
from octavo.engine.engine import Engine
from octavo.flags.vllm_arguments import engine_config
from octavo.frontend.beam_search import (
    BeamSearch,
    BeamSearchOutput,
    BeamSearchParams,
    BeamSearchSequence,
    first_logprobs,
)
from octavo.frontend.interrupts import deferred_interrupts
from octavo.frontend.output_processor import OutputProcessor
from octavo.frontend.progress import JobProgress
from octavo.frontend.request import (
    Prompt,
    Request,
    RequestBuilder,
    TokensPrompt,
    check_policy_takes,
)
from octavo.model.generation_config import sampling_defaults
from octavo.model.load import read_model_info, resolve_model
from octavo.outputs import RequestOutput
from octavo.request_options import RequestOptions, check_text
from octavo.sampling_params import RequestOutputKind, SamplingParams
from octavo.structured.compiler import GrammarCompiler
from octavo.structured.config import structured_outputs_config
from octavo.tokenizer.load import load_tokenizer
from octavo.tokenizer.tokenizer import Tokenizer

Conversation = Sequence[Mapping[str, Any]]


class LLM:
    """A model that completes prompts.

    `model` is a GGUF file or a Hugging Face directory, "" the demo model; the keyword arguments are the
    fields of `EngineConfig`, under vLLM's names (`max_model_len`, `max_num_seqs`, `seed`, ...). Arguments
    of vLLM's that octavo does not have are accepted where they change nothing (`tensor_parallel_size=1`).
    Memory is freed by `close`, or at the end of a `with` block.

    Raises ValueError for a model or a value that can not be, TypeError for an unknown argument.
    """

    def __init__(self, model: str = "", **arguments: Any) -> None:
        config = engine_config(model, arguments)
        path = resolve_model(config.model)
        config.model = str(path)
        self._policy = config.scheduling_policy
        info = read_model_info(path)
        self._sampling_defaults = sampling_defaults(info.sampling, config)
        self._tokenizer = load_tokenizer(path, config.tokenizer)
        grammars = GrammarCompiler(lambda: self._tokenizer, info.spec.vocab_size, info.eos_token_ids)
        self._engine: Engine | None = build_engine(config, grammars)
        self._requests = RequestBuilder(
            self._tokenizer,
            vocab_size=info.spec.vocab_size,
            max_model_len=self._engine.ready().max_model_len,
            eos_token_ids=info.eos_token_ids,
            seed=config.seed,
            grammars=grammars,
            structured_outputs=structured_outputs_config(config.structured_outputs_config),
        )
        self._ids = itertools.count()

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        use_tqdm: bool = True,
        lora_request: None = None,
        *,
        priority: Sequence[int] | None = None,
    ) -> list[RequestOutput]:
        """Complete one prompt or many; outputs come in the order of the prompts.

        A prompt is text, a list of token ids, or a dict (`{"prompt": ...}`, `{"prompt_token_ids": ...}`).
        `sampling_params` is for all prompts or one for each; None is `get_default_sampling_params()`. Lower
        `priority` runs first. `use_tqdm` shows progress on a terminal. `lora_request` can only be None.

        Raises ValueError, before anything runs, for a prompt or parameters that can not be.
        """
        _check_no_lora(lora_request)
        listed = _as_list(prompts)
        if sampling_params is None:
            sampling_params = self.get_default_sampling_params()
        params = _one_each(sampling_params, len(listed))
        if priority is not None and len(priority) != len(listed):
            raise ValueError(f"priority has {len(priority)} entries for {len(listed)} prompts")
        for rank in priority or ():
            check_policy_takes(rank, self._policy)
        requests = [
            self._requests.build(prompt, each, str(next(self._ids)), RequestOptions(priority=rank))
            for prompt, each, rank in zip(
                self._tokenize(listed), params, priority or [0] * len(listed), strict=True
            )
        ]
        return self._run(requests, use_tqdm)

    def chat(
        self,
        messages: Conversation | Sequence[Conversation],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        use_tqdm: bool = True,
        lora_request: None = None,
        *,
        chat_template: str | None = None,
        chat_template_content_format: Literal["auto"] = "auto",
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: list[dict[str, Any]] | None = None,
        chat_template_kwargs: dict[str, Any] | None = None,
    ) -> list[RequestOutput]:
        """Complete one conversation or many, each a list of `{"role": ..., "content": ...}` messages.

        They are rendered by the model's chat template, or by `chat_template`, which also gets `tools` and
        `chat_template_kwargs`; whether it wants contents as text or in parts is seen from it. Raises
        ValueError as `generate` does, and when there is no template or it refuses the messages.
        """
        if chat_template_content_format != "auto":
            raise ValueError(
                f"chat_template_content_format={chat_template_content_format!r} does not work here: what a "
                "template wants is seen from the template; leave it at 'auto'"
            )
        prompts: list[Prompt] = []
        for conversation in _as_conversations(messages):
            text = self._tokenizer.apply_chat_template(
                conversation,
                tools=tools,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                chat_template=chat_template,
                **(chat_template_kwargs or {}),
            )
            check_text("messages", text)
            # The template writes the special tokens itself.
            tokens = self._tokenizer.encode(text, add_special_tokens=False)
            prompts.append(TokensPrompt(prompt=text, prompt_token_ids=tokens))
        return self.generate(prompts, sampling_params, use_tqdm, lora_request)

    def beam_search(
        self, prompts: Prompt | Sequence[Prompt], params: BeamSearchParams, use_tqdm: bool = False
    ) -> list[BeamSearchOutput]:
        """The `params.beam_width` most likely completions of one prompt or many; see `BeamSearchParams`.

        Outputs come in the order of the prompts. Raises ValueError as `generate` does.
        """
        engine = self._running_engine()
        builder, length = self._requests, engine.ready().max_model_len
        searches: list[tuple[BeamSearch, RequestOptions]] = []
        for prompt in self._tokenize(_as_list(prompts)):
            group = f"beams-{next(self._ids)}"
            first = builder.build(prompt, SamplingParams(max_tokens=1), group)
            search = BeamSearch(first.prompt_token_ids, params, first.eos_token_ids, length)
            searches.append((search, msgspec.structs.replace(first.options, group=group)))
        with JobProgress(len(searches), use_tqdm) as progress:
            while going_on := [each for each in searches if not each[0].done]:
                requests = [
                    builder.build(beam.tokens, search.step_params(), str(next(self._ids)), options)
                    for search, options in going_on
                    for beam in search.beams
                ]
                outputs = iter(self._run(requests, use_tqdm=False))
                for search, *_ in going_on:
                    search.advance([first_logprobs(next(outputs)) for _ in search.beams])
                    if search.done:
                        num_tokens = sum(len(search.generated(beam)) for beam in search.best())
                        progress.finished(search.num_prompt_tokens, num_tokens)
        return [BeamSearchOutput([self._with_text(beam) for beam in each[0].best()]) for each in searches]

    def _with_text(self, beam: BeamSearchSequence) -> BeamSearchSequence:
        beam.text = self._tokenizer.decode(beam.tokens)
        return beam

    def get_default_sampling_params(self) -> SamplingParams:
        """What the model's generation_config.json asks for, and `override_generation_config` over it."""
        return SamplingParams(**self._sampling_defaults)

    def get_tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        return self._tokenizer

    def reset_prefix_cache(self) -> None:
        """Forget what was computed for earlier prompts."""
        self._running_engine().reset_prefix_cache()

    def close(self) -> None:
        """Free the model and its KV cache; this object can not be used after that."""
        if self._engine is not None:
            self._engine.close()
        self._engine = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _running_engine(self) -> Engine:
        if self._engine is None:
            raise RuntimeError("this LLM was closed")
        return self._engine

    def _tokenize(self, prompts: list[Prompt]) -> list[Prompt]:
        """The prompts with those that are text tokenised, in one parallel batch."""
        texts = [prompt for prompt in prompts if isinstance(prompt, str)]
        for text in texts:
            check_text("prompt", text)
        encoded = iter(self._tokenizer.encode_batch(texts) if texts else [])
        return [
            TokensPrompt(prompt=prompt, prompt_token_ids=next(encoded)) if isinstance(prompt, str) else prompt
            for prompt in prompts
        ]

    def _run(self, requests: list[Request], use_tqdm: bool) -> list[RequestOutput]:
        """Run requests to their end. On any exception, Ctrl-C too, those that are open are aborted."""
        engine = self._running_engine()
        processor = OutputProcessor(self._tokenizer)
        outputs: dict[str, RequestOutput] = {}
        with JobProgress(len(requests), use_tqdm) as progress, deferred_interrupts() as interrupts:
            try:
                for request in requests:
                    for message in processor.add(request)[1]:
                        engine.add(message)
                while len(processor):
                    states, stopped = processor.process(engine.step())
                    engine.abort(stopped)
                    for state in states:
                        output = state.take()
                        if output is not None:
                            outputs[output.request_id] = output
                            num_tokens = sum(len(each.token_ids) for each in output.outputs)
                            progress.finished(len(output.prompt_token_ids), num_tokens)
                    interrupts.raise_pending()
            finally:
                open_ids = [state.request.request_id for state in processor.states]
                engine.abort(processor.abort(open_ids)[1])
        return [outputs[request.request_id] for request in requests]


def _check_no_lora(lora_request: object) -> None:
    if lora_request is not None:
        raise ValueError("lora_request must be None: LoRA adapters are not supported yet")


def _as_list(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    if isinstance(prompts, str | dict):
        return [prompts]
    if not isinstance(prompts, Sequence):
        raise ValueError(f"prompts must be text, token ids, a dict, or a list of them; got {prompts!r:.80}")
    if prompts and isinstance(prompts[0], int):
        return [cast(list[int], prompts)]
    return list(cast(Sequence[Prompt], prompts))


def _as_conversations(messages: Conversation | Sequence[Conversation]) -> list[Conversation]:
    if not isinstance(messages, Sequence) or isinstance(messages, str):
        raise ValueError("messages must be a list of messages or a list of such lists")
    if messages and isinstance(messages[0], Mapping):
        return [cast(Conversation, messages)]
    return list(cast(Sequence[Conversation], messages))


def _one_each(params: SamplingParams | Sequence[SamplingParams], num_prompts: int) -> list[SamplingParams]:
    """Parameters for each prompt, of which only the end is wanted."""
    if isinstance(params, SamplingParams):
        params = [params] * num_prompts
    if len(params) != num_prompts:
        raise ValueError(f"sampling_params has {len(params)} entries for {num_prompts} prompts")
    final = {
        id(each): msgspec.structs.replace(each, output_kind=RequestOutputKind.FINAL_ONLY) for each in params
    }
    return [final[id(each)] for each in params]
