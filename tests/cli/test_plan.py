"""`octavo plan` from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from octavo.cli.main import main


def plan(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> dict[str, Any]:
    assert main(["plan", *arguments, "--json"]) == code
    loaded: dict[str, Any] = json.loads(capsys.readouterr().out)
    return loaded


def test_text_and_json_say_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--model", "Llama-3.1-70B", "--gpu", "4xA100-80", "--max-model-len", "8192"]
    arguments += ["--rps", "5", "--in", "512", "--out", "128", "--price", "2.5"]
    found = plan(capsys, *arguments)
    assert main(["plan", *arguments]) == 0
    text = capsys.readouterr().out
    replicas = found["service"]["replicas"]
    assert f"{replicas} for 5 requests/s of 512 + 128 tokens" in text
    assert found["fits"] is True
    assert found["kv_bytes_per_sequence"] == 327_680 * 8192
    assert "2.68 GB for a sequence of 8,192 tokens" in text
    assert found["price_per_hour_in_all"] == replicas * 4 * 2.5
    assert f"{replicas * 10:.2f} an hour" in text
    assert "--tensor-parallel-size 4 --gpu-memory-utilization 0.9 --max-model-len 8192" in text


def test_what_does_not_fit_has_an_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    found = plan(capsys, "Llama-3.1-70B", "--gpu", "A100-80", code=3)
    assert found["fits"] is False
    assert found["service"] is None
    assert found["advice"]


def test_targets_out_of_reach_have_it_too(capsys: pytest.CaptureFixture[str]) -> None:
    found = plan(capsys, "Llama-3.1-8B", "--gpu", "L4", "--target-itl", "5", code=3)
    assert found["fits"] is True
    assert found["service"]["replicas"] is None


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("Llama-3.1-8B", "or name devices (--gpu) to plan for a known name"),
        ("Llama-3.1-8B --gpu A200", "gpu (--gpu): 'A200' is not like 2xA100-80"),
        ("Llama-9 --gpu A100-80", "model (--model): 'Llama-9' is neither a path nor a name that is known"),
        ("Llama-2-7B --gpu A100-80 --max-model-len 8192", "--max-model-len) is at most 4096"),
        ("Llama-2-7B --gpu A100-80 --in 4000 --out 128", "input_tokens (--in) and output_tokens (--out)"),
        ("Llama-2-7B --gpu A100-80 --rps 0", "rps (--rps) must be at least 0.001"),
    ],
)
def test_what_is_wrong_is_one_line(arguments: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *arguments.split()]) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert says in lines[0]


def test_this_machine(demo_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("octavo._native", reason="the kernels are not built")
    sizes = ["--max-model-len", "1024", "--in", "100", "--out", "20", "--rps", "0.2", "--max-num-seqs", "2"]
    targets = ["--target-ttft", "60000", "--target-itl", "10000"]
    found = plan(capsys, str(demo_model), *sizes, *targets)
    service = found["service"]
    assert service["replicas"] == 1
    assert all(0 < seconds < 60 for seconds in service["unloaded"].values())
    assert service["max_num_seqs"] == 2
    assert service["capacity_output_tokens"] == pytest.approx(20 * service["capacity_rps"])
    assert "--tensor-parallel-size" not in " ".join(found["flags"])
