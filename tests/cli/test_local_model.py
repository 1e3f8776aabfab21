"""The terminal's own engine, on the demo model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from octavo.cli.local_model import LocalModel
from octavo.cli.main import main
from octavo.config import EngineConfig

pytest.importorskip("octavo._native", reason="the kernels are not built")

GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 20}


@pytest.fixture(scope="module")
def model(demo_model: Path) -> Iterator[LocalModel]:
    model = LocalModel(EngineConfig(model=str(demo_model), max_model_len=512, num_gpu_blocks_override=64))
    yield model
    model.close()


def test_it_answers_piece_by_piece(model: LocalModel) -> None:
    pieces = list(model.chat([{"role": "user", "content": "What is the capital of Germany?"}], GREEDY))
    assert len(pieces) > 3
    assert "Berlin" in "".join(pieces)


def test_an_answer_that_is_left_is_aborted(model: LocalModel) -> None:
    alone = "".join(model.complete("One, two, three,", GREEDY))
    left = model.complete("Once upon a time", {"max_tokens": 400})
    next(left)
    left.close()  # type: ignore[attr-defined]
    assert "".join(model.complete("One, two, three,", GREEDY)) == alone


def test_what_does_not_fit_is_a_value_error(model: LocalModel) -> None:
    with pytest.raises(ValueError, match="512"):
        list(model.complete("word " * 1000, GREEDY))


def test_the_command(demo_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--prompt", "The capital of France is", "--temperature", "0", "--max-tokens", "4"]
    assert main(["complete", str(demo_model), "--num-gpu-blocks-override", "520", *flags]) == 0
    assert "Paris" in capsys.readouterr().out
