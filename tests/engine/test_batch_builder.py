"""The arrays of a step, spelled out."""

from __future__ import annotations

from octavo.engine.batch_builder import BatchBuilder
from octavo.engine.kv.block_table import BlockTable
from octavo.engine.messages import AddRequest
from octavo.engine.scheduling.scheduler import Step
from octavo.engine.sequence import Sequence
from octavo.sampling.output_rows import PromptRows
from octavo.sampling.state import SamplingState
from octavo.sampling_params import SamplingParams


def make_sequence(tokens: list[int], computed: int, blocks: list[int], prompt_logprobs=None) -> Sequence:
    params = SamplingParams(temperature=0.0, prompt_logprobs=prompt_logprobs)
    request = AddRequest("a", tokens, params, [], 0.0)
    sequence = Sequence(request, 0, 100, SamplingState(params, tokens, [], [], 100))
    sequence.num_computed_tokens, sequence.tables = computed, [BlockTable(blocks)]
    return sequence


def test_a_decode_a_chunk_and_a_prompt_with_log_probabilities():
    decode = make_sequence(list(range(18)), 17, [5, 3])
    chunk = make_sequence(list(range(20, 60)), 16, [7, 2, 9])
    prompt = make_sequence([61, 62, 63], 0, [1], prompt_logprobs=0)
    step = Step([decode, chunk, prompt], [1, 4, 3], 8)
    built = BatchBuilder(3, 8, 4).build(step)

    batch = built.batch
    assert batch.token_ids.tolist() == [17, 36, 37, 38, 39, 61, 62, 63]
    assert batch.positions.tolist() == [17, 16, 17, 18, 19, 0, 1, 2]
    assert batch.query_starts.tolist() == [0, 1, 5, 8]
    assert batch.context_lens.tolist() == [18, 20, 3]
    assert batch.block_tables[0, 0, :2].tolist() == [5, 3]
    assert batch.block_tables[0, 1].tolist() == [7, 2]  # No wider than the longest context.
    assert batch.block_tables[0, 2, :1].tolist() == [1]
    assert batch.output_rows.tolist() == [0, 5, 6, 7]

    assert built.sampling == [decode, prompt]
    assert built.rows.states == [decode.sampling, prompt.sampling]
    assert built.rows.rows == [0, 3]
    assert built.rows.prompts == [PromptRows(1, [62, 63], 0)]
    assert built.scored == [prompt]


def test_only_new_blocks_are_written_and_rows_are_used_again():
    builder = BatchBuilder(2, 8, 4)
    first, second = make_sequence([1] * 17, 15, [4]), make_sequence([2] * 3, 2, [6])
    assert builder.build(Step([first, second], [1, 1], 2)).rows.rows is None
    first.num_computed_tokens = 16
    first.tables[0].blocks.append(8)
    first.has_new_blocks = True
    batch = builder.build(Step([second, first], [1, 1], 2)).batch
    assert batch.block_tables[0, 0, 0] == 6
    assert batch.block_tables[0, 1].tolist() == [4, 8]

    first.tables[0].blocks[0], first.tables[0].num_written = 5, 0  # Shared with another from now on.
    first.has_new_blocks = True
    batch = builder.build(Step([first], [1], 1)).batch
    assert batch.block_tables[0, 0].tolist() == [5, 8]

    builder.release(first)
    builder.release(first)
    third = make_sequence([3] * 2, 0, [9])
    batch = builder.build(Step([third, second], [2, 1], 3)).batch
    assert batch.block_tables[0, :, 0].tolist() == [9, 6]
