"""Data sets: exact lengths, what is shared, what is left out, and what is wrong with a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.fake_engine import byte_tokenizer

from octavo.bench.dataset.choose import make_conversations
from octavo.bench.dataset.config import DatasetConfig
from octavo.tokenizer.load import load_tokenizer
from octavo.tokenizer.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(demo_model: Path) -> Tokenizer:
    return load_tokenizer(demo_model)


@pytest.mark.parametrize("length", [1, 7, 512])
def test_random_prompts_have_exactly_as_many_tokens_as_asked_for(tokenizer: Tokenizer, length: int):
    config = DatasetConfig(num_prompts=20, random_input_len=length, random_output_len=3)
    turns = [each.turns[0] for each in make_conversations(config, tokenizer)]
    assert {turn.num_tokens for turn in turns} == {length}
    assert [len(tokenizer.encode(turn.text)) for turn in turns] == [length] * 20
    assert {turn.output_len for turn in turns} == {3}
    assert len({turn.text for turn in turns}) > 1


def test_random_prompts_follow_from_the_seed(tokenizer: Tokenizer):
    def made(seed: int) -> object:
        return make_conversations(DatasetConfig(num_prompts=3, input_len=20, seed=seed), tokenizer)

    assert made(1) == made(1)
    assert made(1) != made(2)


def test_a_prefix_is_shared_and_comes_on_top(tokenizer: Tokenizer):
    config = DatasetConfig(num_prompts=8, input_len=10, random_prefix_len=30)
    prompts = [tokenizer.encode(each.turns[0].text) for each in make_conversations(config, tokenizer)]
    assert {len(prompt) for prompt in prompts} == {40}
    assert len({tuple(prompt[:30]) for prompt in prompts}) == 1
    assert len({tuple(prompt[30:]) for prompt in prompts}) == 8


def test_a_range_of_lengths(tokenizer: Tokenizer):
    config = DatasetConfig(num_prompts=200, input_len=100, output_len=50, random_range_ratio=0.5)
    turns = [each.turns[0] for each in make_conversations(config, tokenizer)]
    assert min(turn.num_tokens for turn in turns) < 60
    assert max(turn.num_tokens for turn in turns) > 140
    assert all(50 <= turn.num_tokens <= 150 and 25 <= turn.output_len <= 75 for turn in turns)


def test_a_tokenizer_without_words_gives_characters():
    [conversation] = make_conversations(DatasetConfig(num_prompts=1, input_len=33), byte_tokenizer())
    assert len(conversation.turns[0].text) == 33


def test_turns_of_random_words(tokenizer: Tokenizer):
    config = DatasetConfig(num_prompts=2, input_len=10, num_turns=3)
    assert [[turn.num_tokens for turn in each.turns] for each in make_conversations(config, tokenizer)] == [
        [10, 10, 10]
    ] * 2


def test_sonnets_share_their_beginning_and_keep_to_a_line_of_their_length(tokenizer: Tokenizer):
    config = DatasetConfig(dataset_name="sonnet", num_prompts=20)
    turns = [each.turns[0] for each in make_conversations(config, tokenizer)]
    assert all(abs(turn.num_tokens - 550) < 40 for turn in turns)
    assert {turn.output_len for turn in turns} == {150}
    prompts = [tokenizer.encode(turn.text) for turn in turns]
    shared = next(i for i, each in enumerate(zip(*prompts, strict=False)) if len(set(each)) > 1)
    assert abs(shared - 200) < 20


def test_sonnets_take_a_file_of_lines(tokenizer: Tokenizer, tmp_path: Path):
    file = tmp_path / "poem.txt"
    file.write_text("one line of the poem\n\nanother line of it\n")
    config = DatasetConfig(dataset_name="sonnet", dataset_path=str(file), num_prompts=3, input_len=250)
    for conversation in make_conversations(config, tokenizer):
        assert set(conversation.turns[0].text.splitlines()[1:]) <= {
            "one line of the poem",
            "another line of it",
        }
    file.write_text("\n")
    with pytest.raises(ValueError, match="has no lines"):
        make_conversations(config, tokenizer)


def sharegpt(tmp_path: Path, *conversations: list[str]) -> DatasetConfig:
    entries = [
        {
            "id": str(i),
            "conversations": [
                {"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(each)
            ],
        }
        for i, each in enumerate(conversations)
    ]
    file = tmp_path / "sharegpt.json"
    file.write_text(json.dumps(entries))
    return DatasetConfig(dataset_name="sharegpt", dataset_path=str(file), num_prompts=4)


def test_sharegpt_takes_pairs_within_its_bounds(tokenizer: Tokenizer, tmp_path: Path):
    question, answer = "What is the capital of France?", "The capital of France is Paris."
    config = sharegpt(
        tmp_path,
        [question, answer, "And the one of Spain, please?", answer],
        ["hi", answer],  # too short a prompt
        [question, "ok"],  # too short an answer
        [question],  # no answer
        ["word " * 1100, answer],  # too long a prompt
        ["word " * 1000, "word " * 1100],  # too long together
    )
    found = make_conversations(config, tokenizer)
    assert {each.turns[0].text for each in found} == {question}
    assert len(found) == 4  # the only one, again and again
    assert found[0].turns[0].output_len == len(tokenizer.encode(answer))
    config.num_turns = 5
    assert [turn.text for turn in make_conversations(config, tokenizer)[0].turns][1:] == [
        "And the one of Spain, please?"
    ]
    config.sharegpt_output_len = 9
    assert {each.turns[0].output_len for each in make_conversations(config, tokenizer)} == {9}


@pytest.mark.parametrize(
    ("content", "message"),
    [("{}", "is not a list of conversations"), ("[]", "no conversation of"), ("[{", "is not a list")],
)
def test_a_sharegpt_file_that_is_none(tokenizer: Tokenizer, tmp_path: Path, content: str, message: str):
    config = sharegpt(tmp_path)
    assert config.dataset_path is not None
    Path(config.dataset_path).write_text(content)
    with pytest.raises(ValueError, match=rf"dataset_path \(--dataset-path\): .*{message}"):
        make_conversations(config, tokenizer)


def test_custom_lines(tokenizer: Tokenizer, tmp_path: Path):
    file = tmp_path / "lines.jsonl"
    file.write_text('{"prompt": "Hello there"}\n\n{"turns": ["One", "Two", "Three"], "output_tokens": 5}\n')
    config = DatasetConfig(dataset_name="custom", dataset_path=str(file), num_prompts=2, num_turns=2)
    found = {each.turns[0].text: each for each in make_conversations(config, tokenizer)}
    assert found["Hello there"].turns[0].output_len == 256
    assert [turn.text for turn in found["One"].turns] == ["One", "Two"]
    assert found["One"].turns[1].output_len == 5
    config.output_len = 7
    assert {each.turns[0].output_len for each in make_conversations(config, tokenizer)} == {7}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"prompt": "a"}\n{"text": "b"}\n', "line 2: it has neither a prompt nor turns"),
        ('{"prompt": ""}\n', "line 1: it has neither"),
        ("prompt\n", "line 1: JSON is malformed"),
        ('{"prompt": 3}\n', "line 1: Expected"),
        ("\n", "has no prompts"),
    ],
)
def test_custom_lines_that_are_wrong(tokenizer: Tokenizer, tmp_path: Path, content: str, message: str):
    file = tmp_path / "lines.jsonl"
    file.write_text(content)
    config = DatasetConfig(dataset_name="custom", dataset_path=str(file))
    with pytest.raises(ValueError, match=rf"dataset_path \(--dataset-path\): .*{message}"):
        make_conversations(config, tokenizer)


def test_a_file_that_is_not_there(tokenizer: Tokenizer, tmp_path: Path):
    with pytest.raises(ValueError, match="must name a file for sharegpt"):
        DatasetConfig(dataset_name="sharegpt")
    config = DatasetConfig(dataset_name="custom", dataset_path=str(tmp_path / "none"))
    with pytest.raises(ValueError, match="No such file"):
        make_conversations(config, tokenizer)
