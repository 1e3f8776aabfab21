"""NVIDIA's AIPerf completes a run, where its command `aiperf` is on the PATH.

It is no part of the development install: 0.13.0 brings 1.2 GB along. In an environment of its own:
`pip install aiperf==0.13.0`, then `PATH=$PATH:.../bin pytest tests/server/test_aiperf.py`.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from support.serve_command import serve
from tokenizers import Tokenizer, models

pytest.importorskip("octavo._native", reason="the kernels are not built")
pytestmark = pytest.mark.skipif(shutil.which("aiperf") is None, reason="aiperf is not installed")

NUM_REQUESTS = 12


def tokenizer_folder(folder: Path) -> Path:
    """AIPerf loads one before it begins, though the server counts the tokens; any will do."""
    folder.mkdir()
    Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]")).save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def test_a_run_through_two_api_processes(demo_model: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    lines = [{"text": f"Write a line about the number {number}."} for number in range(NUM_REQUESTS)]
    prompts.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with serve(demo_model, "--api-server-count", "2") as command:
        arguments = ["--model", "demo", "--url", command.url, "--endpoint-type", "chat", "--streaming"]
        arguments += ["--input-file", str(prompts), "--custom-dataset-type", "single_turn"]
        arguments += ["--request-count", str(NUM_REQUESTS), "--concurrency", "4"]
        arguments += ["--extra-inputs", "max_tokens:16", "--extra-inputs", "ignore_eos:true"]
        arguments += [
            "--use-server-token-count",
            "--tokenizer",
            str(tokenizer_folder(tmp_path / "tokenizer")),
        ]
        arguments += ["--ui", "none", "--output-artifact-dir", str(tmp_path / "out")]
        done = subprocess.run(
            ["aiperf", "profile", *arguments], capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    found = json.loads((tmp_path / "out" / "profile_export_aiperf.json").read_text())
    assert found["request_count"]["avg"] == NUM_REQUESTS
    assert found["error_summary"] == []
    assert found["total_output_tokens"]["avg"] == 16 * NUM_REQUESTS
