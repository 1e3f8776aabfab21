"""The comparison: fair turns, a peer that is only believed when it answers, and figures that add up."""

from __future__ import annotations

import io
import json
import sys
import venv
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from octavo.bench import compare as comparison
from octavo.bench import engine_rate as timing
from octavo.bench.compare import Report, take_turns
from octavo.bench.engine_rate import EngineRate
from octavo.bench.peers.choose import find_peers
from octavo.bench.peers.llama_cpp import LlamaCpp
from octavo.bench.peers.peer import Unavailable
from octavo.bench.peers.python_peer import PythonPeer
from octavo.bench.workload import Workload
from octavo.cli.main import main
from octavo.config import EngineConfig

PREFILL = Workload(kind="prefill", prompt_tokens=512)
SINGLE = Workload(kind="decode", prompt_tokens=100, output_tokens=20)
BATCH = Workload(kind="decode", prompt_tokens=100, output_tokens=20, batch=4)


class Scripted:
    """A side that writes down its turns."""

    def __init__(self, name: str, turns: list[tuple[str, Workload]]) -> None:
        self.name = name
        self._turns = turns

    def tokens_per_second(self, workload: Workload) -> float:
        self._turns.append((self.name, workload))
        return float(len(self._turns))


def make_program(path: Path, body: str) -> None:
    """A program that runs `body` in Python, with `arguments` the list of its arguments."""
    path.write_text(f"#!{sys.executable}\nimport sys, json\narguments = sys.argv[1:]\n{body}\n")
    path.chmod(0o755)


def peer_of(tmp_path: Path, bench: str = "", batched: str = "") -> LlamaCpp:
    """A peer whose two programs are scripts."""
    make_program(tmp_path / "llama-bench", bench)
    make_program(tmp_path / "llama-batched-bench", batched)
    model = tmp_path / "model.gguf"
    model.touch()
    return LlamaCpp(tmp_path, model, threads=3)


def log_to(path: Path, answer: object) -> str:
    """The body of a program that keeps its arguments and prints `answer`."""
    return f"open({str(path)!r}, 'w').write(json.dumps(arguments))\nprint(json.dumps({answer!r}))"


def test_sides_take_turns_on_every_workload_of_every_round():
    turns: list[tuple[str, Workload]] = []
    ours, peer = Scripted("ours", turns), Scripted("peer", turns)
    figures = take_turns([ours, peer], [PREFILL, SINGLE], 2, lambda _: None)
    once = [("ours", PREFILL), ("peer", PREFILL), ("ours", SINGLE), ("peer", SINGLE)]
    assert turns == once * 2
    assert figures == [[[1, 5], [2, 6]], [[3, 7], [4, 8]]]


@pytest.mark.parametrize(
    ("workload", "options"),
    [
        (PREFILL, {"-p": "512", "-n": "0"}),
        (SINGLE, {"-p": "0", "-n": "20", "-d": "100"}),
    ],
)
def test_a_single_sequence_is_llama_benchs(tmp_path: Path, workload: Workload, options: dict[str, str]):
    log = tmp_path / "log"
    peer = peer_of(tmp_path, bench=log_to(log, [{"avg_ts": 12.5}]))
    assert peer.tokens_per_second(workload) == 12.5
    given = json.loads(log.read_text())
    given = dict(zip(given[::2], given[1::2], strict=True))
    assert given.items() >= {**options, "-t": "3", "-m": str(tmp_path / "model.gguf"), "-ngl": "0"}.items()


def test_a_batch_is_llama_batched_benchs_with_room_for_its_tokens(tmp_path: Path):
    log = tmp_path / "log"
    peer = peer_of(tmp_path, batched=log_to(log, {"speed_pp": 1.0, "speed_tg": 99.0}))
    assert peer.tokens_per_second(BATCH) == 99.0
    given = json.loads(log.read_text())
    given = dict(zip(given[::2], given[1::2], strict=True))
    assert given.items() >= {"-npp": "100", "-ntg": "20", "-npl": "4", "-c": "480", "-t": "3"}.items()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("print('oops', file=sys.stderr); sys.exit(3)", "llama-bench failed with exit code 3: oops"),
        ("sys.exit(1)", "llama-bench failed with exit code 1: no reason given"),
        ("print('tokens: many')", "llama-bench printed no JSON"),
        ("print('[{}]')", "no avg_ts"),
        ("print('[{\"avg_ts\": null}]')", "no avg_ts"),
    ],
)
def test_a_peer_that_fails_gives_no_figure(tmp_path: Path, body: str, message: str):
    peer = peer_of(tmp_path, bench=body)
    with pytest.raises(ValueError, match=message) as raised:
        peer.tokens_per_second(PREFILL)
    assert "\n" not in str(raised.value)


def test_a_peer_needs_its_programs_and_a_file(tmp_path: Path):
    with pytest.raises(ValueError, match=r"--peer-bin: .* has no llama-bench; build it there first"):
        LlamaCpp(tmp_path, tmp_path / "model.gguf", threads=1)
    peer_of(tmp_path)
    with pytest.raises(Unavailable, match="reads only GGUF files"):
        LlamaCpp(tmp_path, tmp_path, threads=1)


@pytest.fixture(autouse=True)
def briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "SECONDS", 0.01)


@pytest.fixture(scope="module")
def engine_rate(demo_model: Path) -> EngineRate:
    return EngineRate(EngineConfig(model=str(demo_model), max_model_len=256, num_gpu_blocks_override=40))


def test_the_engine_is_timed_again_and_again(engine_rate: EngineRate):
    for _ in range(2):
        assert engine_rate.tokens_per_second(Workload(kind="prefill", prompt_tokens=32)) > 0
        decode = Workload(kind="decode", prompt_tokens=16, output_tokens=3, batch=4)
        assert engine_rate.tokens_per_second(decode) > 0


def test_a_workload_longer_than_the_model_is_refused(engine_rate: EngineRate):
    with pytest.raises(ValueError, match="takes 257 positions, over 256"):
        engine_rate.tokens_per_second(Workload(kind="prefill", prompt_tokens=255))


def test_a_batch_that_has_to_wait_for_memory_is_refused(engine_rate: EngineRate):
    # 40 blocks hold 640 tokens; 8 x 100 do not fit.
    with pytest.raises(ValueError, match="does not fit the KV cache"):
        engine_rate.tokens_per_second(Workload(kind="decode", prompt_tokens=60, output_tokens=40, batch=8))
    assert engine_rate.tokens_per_second(Workload(kind="prefill", prompt_tokens=32)) > 0


@pytest.fixture
def small_workloads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        comparison,
        "WORKLOADS",
        (
            Workload(kind="prefill", prompt_tokens=32),
            Workload(kind="decode", prompt_tokens=16, output_tokens=2),
            Workload(kind="decode", prompt_tokens=16, output_tokens=2, batch=2),
        ),
    )


@pytest.mark.usefixtures("small_workloads")
def test_the_command_prints_a_table_or_json(
    tmp_path: Path, demo_model: Path, capsys: pytest.CaptureFixture[str]
):
    peer_of(tmp_path, bench="print('[{\"avg_ts\": 1e-3}]')", batched="print('{\"speed_tg\": 1e-3}')")
    command = ["bench", "compare", str(demo_model), "--peer-bin", str(tmp_path), "--rounds", "2"]
    command += ["--peer-python", str(tmp_path / "none")]
    assert main([*command, "--json"]) == 0
    report = msgspec.json.decode(capsys.readouterr().out, type=Report)
    assert [len(row.ours) for row in report.rows] == [2, 2, 2]
    assert all(row.peers == {"llama.cpp": [1e-3, 1e-3]} for row in report.rows)
    assert all(row.ratio("llama.cpp") == pytest.approx(sum(row.ours) / 2 / 1e-3) for row in report.rows)
    assert set(report.skipped) == {"openvino", "transformers"}
    assert report.work.weight_bytes > 50e6

    console = Console(width=140, file=io.StringIO(), record=True)
    console.print(report.table())
    text = console.export_text()
    assert "llama.cpp" in text
    for row in report.rows:
        assert row.workload.name in text
        assert f"{row.ratio('llama.cpp'):.2f}x" in text
    assert any("decode at batch 1 reads" in note for note in report.notes())
    assert any(note.startswith("without openvino: ") for note in report.notes())


def test_the_command_names_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    model = tmp_path / "model.gguf"
    model.touch()
    assert main(["bench", "compare", str(model), "--peer-bin", str(tmp_path)]) == 1
    assert "has no llama-bench" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["bench", "compare", str(model), "--peer-bin", str(tmp_path), "--rounds", "0"])
    assert "--rounds: expected a whole number from 1 to 1024, got '0'" in capsys.readouterr().err


WORKER = """
import json, sys
print(json.dumps({"name": f"{sys.argv[1]} of {sys.argv[2]} with {sys.argv[3]}"}), flush=True)
for line in sys.stdin:
    work = json.loads(line)
    answer = {"tokens_per_second": work["prompt_tokens"]} if work["kind"] == "prefill" else {"error": "tired"}
    print(json.dumps(answer), flush=True)
"""


def python_peer(tmp_path: Path, script: str) -> PythonPeer:
    (tmp_path / "worker.py").write_text(script)
    return PythonPeer("openvino", sys.executable, Path("m.gguf"), 2, tmp_path / "worker.py")


def test_a_worker_is_asked_line_by_line(tmp_path: Path):
    peer = python_peer(tmp_path, WORKER)
    try:
        assert peer.name == "openvino of m.gguf with 2"
        assert [peer.tokens_per_second(PREFILL) for _ in range(2)] == [512.0, 512.0]
        with pytest.raises(ValueError, match=r"openvino of m\.gguf with 2: tired"):
            peer.tokens_per_second(SINGLE)
    finally:
        peer.close()
    with pytest.raises(ValueError, match="has ended"):
        peer.tokens_per_second(PREFILL)


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ('print(\'{"error": "not installed"}\')', "openvino: not installed"),
        ("print('[]')", r"openvino: \[\]"),
        ("import nothing_of_the_name", "openvino ended without an answer"),
    ],
)
def test_a_worker_that_can_not_is_left_out_with_its_reason(tmp_path: Path, script: str, reason: str):
    with pytest.raises(Unavailable, match=reason):
        python_peer(tmp_path, script)


def test_a_library_that_is_missing_is_left_out_with_what_to_install(tmp_path: Path):
    """In an interpreter without any packages, octavo among them."""
    venv.create(tmp_path / "venv", with_pip=False)
    with pytest.raises(Unavailable, match=r"not installed \(.*\); pip install torch transformers"):
        PythonPeer("transformers", str(tmp_path / "venv/bin/python"), tmp_path, 1)


def test_transformers_is_timed_where_it_is_installed(tmp_path: Path):
    # A model of a few weights, so that the worker itself is tested and not the machine.
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=4000,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=128,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path)
    peers, skipped = find_peers(
        ["transformers", "llama.cpp"],
        tmp_path,
        1,
        programs=None,
        pythons=["no-such-python", sys.executable],
        on_progress=lambda _: None,
    )
    assert skipped == {"llama.cpp": "no --peer-bin was given"}
    [peer] = peers
    assert isinstance(peer, PythonPeer)
    try:
        assert peer.name == f"transformers {transformers.__version__} float32"
        assert peer.tokens_per_second(Workload(kind="prefill", prompt_tokens=8)) > 0
        decode = Workload(kind="decode", prompt_tokens=8, output_tokens=4, batch=2)
        assert peer.tokens_per_second(decode) > 0
    finally:
        peer.close()
