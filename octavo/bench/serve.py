"""`octavo bench serve`: load any OpenAI-compatible server and measure what its clients see."""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import os
import resource
import sys
from pathlib import Path
from typing import Any

from octavo.bench.dataset.choose import make_conversations
from octavo.bench.dataset.conversation import Conversation
from octavo.bench.load.config import LoadConfig
from octavo.bench.load.openai_api import OpenAIServer
from octavo.bench.load.outcome import Outcome
from octavo.bench.load.run import run_load, wait_until_ready
from octavo.bench.load.summary import DETAILS, lines, summarise
from octavo.flags.from_config import add_flags, config_of
from octavo.frontend.progress import JobProgress
from octavo.machine.event_loop import loop_factory
from octavo.model.load import resolve_model
from octavo.tokenizer.load import load_tokenizer
from octavo.tokenizer.tokenizer import Tokenizer

HELP = "A server under load: latencies and rates as its clients see them."
_FAILED = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The load's flags."""
    add_flags(parser, LoadConfig)


def run(arguments: argparse.Namespace) -> int:
    """Print the result and write the files that were asked for; returns 1 when no request succeeded."""
    config = config_of(LoadConfig, arguments)
    check_report(config)
    tokenizer = tokenizer_of(config)
    conversations = make_conversations(config, tokenizer)
    result = measure(config, tokenizer, conversations)
    print("\n".join(lines(result, config)))
    for error in dict.fromkeys(result["errors"]):
        if error:
            sys.stderr.write(f"octavo: {result['errors'].count(error)} requests failed: {error}\n")
    if config.save_result:
        print(f"results in {save(result, config)}")
    if config.report is not None or config.plot is not None:
        from octavo.bench.report.serve_plots import plot_run
        from octavo.bench.report.write import write_report

        write_report(config, f"{result['model_id']} at {config.url}", [result], plot_run(result))
    return 0 if result["completed"] else _FAILED


def measure(config: LoadConfig, tokenizer: Tokenizer, conversations: list[Conversation]) -> dict[str, Any]:
    """Wait for the server, warm it, load it. Raises ValueError when it does not answer a first request."""
    _allow_many_connections()
    server = OpenAIServer(config, config.api_key or os.environ.get("OPENAI_API_KEY"), tokenizer)

    def waiting(reason: str) -> None:
        seconds = config.ready_check_timeout_sec
        sys.stderr.write(f"octavo: waiting up to {seconds} s for {config.url} ({reason})\n")

    async def load() -> dict[str, Any]:
        await wait_until_ready(server, conversations[0], config.ready_check_timeout_sec, waiting)
        warm = (conversations * -(-config.num_warmups // len(conversations)))[: config.num_warmups]
        await run_load(server, warm, config, lambda _: None)
        num_turns = sum(len(each.turns) for each in conversations)
        with JobProgress(num_turns, not config.disable_tqdm) as progress:

            def done(outcome: Outcome) -> None:
                progress.finished(outcome.prompt_tokens, outcome.output_tokens)

            return summarise(await run_load(server, conversations, config, done), config)

    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        figures = runner.run(load())
    return _what_was_run(config, server.model, len(conversations)) | figures


def save(result: dict[str, Any], config: LoadConfig) -> Path:
    """Write the result; returns the file. Raises ValueError when it can not be written."""
    kept = result if config.save_detailed else {k: v for k, v in result.items() if k not in DETAILS}
    concurrency = "" if config.max_concurrency is None else f"-concurrency{config.max_concurrency}"
    model = str(result["model_id"]).rsplit("/", 1)[-1]
    made = f"{result['label']}-{config.request_rate:g}qps{concurrency}-{model}-{result['date']}.json"
    path = Path(config.result_dir) / (config.result_filename or made)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(kept, indent=1) + "\n")
    except OSError as error:
        raise ValueError(f"result_dir (--result-dir): {error}") from error
    return path


def tokenizer_of(config: LoadConfig) -> Tokenizer:
    """What counts tokens here; raises ValueError when it can not be loaded."""
    model = config.model if config.model and Path(config.model).exists() else ""
    return load_tokenizer(Path(config.tokenizer) if config.tokenizer else resolve_model(model))


def check_report(config: LoadConfig) -> None:
    """Raise ValueError, before anything runs, when plots are asked for and can not be made."""
    if config.report is not None or config.plot is not None:
        from octavo.bench.report.write import check_matplotlib

        check_matplotlib()


def _what_was_run(config: LoadConfig, model: str, num_conversations: int) -> dict[str, Any]:
    rate = config.request_rate
    return {
        "date": datetime.datetime.now().strftime("%Y%m%d-%H%M%S"),
        "endpoint_type": config.backend,
        "backend": config.backend,
        "label": config.label or config.backend,
        "model_id": model,
        "tokenizer_id": config.tokenizer or config.model or "demo",
        "num_prompts": num_conversations,
        **config.labels,
        "request_rate": "inf" if rate == float("inf") else rate,
        "burstiness": config.burstiness,
        "max_concurrency": config.max_concurrency,
    }


def _allow_many_connections() -> None:
    """As many open files as this process may have: each request has a connection."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
