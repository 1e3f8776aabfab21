"""Which prompts a benchmark uses, under the names of vLLM's flags."""

from __future__ import annotations

from dataclasses import dataclass

from octavo.config import check_settings, setting


@dataclass(slots=True, kw_only=True)
class DatasetConfig:
    """The flags of a data set."""

    dataset_name: str = setting(
        "random",
        "Prompts of random words (random), random lines after a shared beginning (sonnet), a ShareGPT file "
        "(sharegpt), or a file with a JSON object on each line (custom).",
        "Data set",
        choices=("random", "sonnet", "sharegpt", "custom"),
    )
    dataset_path: str | None = setting(
        None,
        "The file of sharegpt and custom; lines of text for sonnet, which has lines of its own.",
        "Data set",
    )
    num_prompts: int = setting(
        1000, "Requests; conversations where they have turns.", "Data set", low=1, high=1_000_000
    )
    input_len: int | None = setting(
        None, "Tokens of a prompt of random and sonnet, whatever their own flags say.", "Data set", low=1
    )
    output_len: int | None = setting(
        None, "Most tokens of an answer, whatever the data set and its own flags say.", "Data set", low=1
    )
    random_input_len: int = setting(1024, "Tokens of a random prompt.", "Data set", low=1, high=1_000_000)
    random_output_len: int = setting(128, "Tokens that answer it.", "Data set", low=1, high=1_000_000)
    random_range_ratio: float = setting(
        0.0, "Draw both lengths from (1 - X) to (1 + X) times what was given.", "Data set", low=0.0, high=0.99
    )
    random_prefix_len: int = setting(
        0, "Tokens before each random prompt that are the same in all.", "Data set", low=0, high=1_000_000
    )
    sonnet_input_len: int = setting(550, "Tokens of a sonnet prompt.", "Data set", low=1, high=1_000_000)
    sonnet_output_len: int = setting(150, "Tokens that answer it.", "Data set", low=1, high=1_000_000)
    sonnet_prefix_len: int = setting(200, "Tokens of it that are the same in all.", "Data set", low=0)
    sharegpt_output_len: int | None = setting(
        None, "Most tokens of an answer; default: those of the answer in the file.", "Data set", low=1
    )
    custom_output_len: int = setting(
        256, "Most tokens of an answer where the line has no output_tokens.", "Data set", low=1
    )
    num_turns: int = setting(
        1,
        "Most turns of a conversation; each is sent after the answer to the one before it.",
        "Data set",
        low=1,
        high=1000,
    )
    seed: int = setting(0, "What is drawn at random follows from it.", "Data set", low=0)

    def __post_init__(self) -> None:
        check_settings(self)
        if self.dataset_name in ("sharegpt", "custom") and self.dataset_path is None:
            raise ValueError(f"dataset_path (--dataset-path) must name a file for {self.dataset_name}")
