"""Turns a scheduled step into the int32 arrays that an Executable runs."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from octavo.engine.kv.block_pool import blocks_for
from octavo.engine.scheduling.scheduler import Step
from octavo.engine.sequence import Sequence
from octavo.runtime.backend import Batch
from octavo.sampling.output_rows import DraftRows, OutputRows, PromptRows, StepTokens


@dataclass(slots=True)
class BuiltBatch:
    """A batch, what its output rows are for, and whose they are.

    `sampling` are the sequences of the rows' states: each gets a token. `scored` are those of the rows'
    prompts.
    """

    batch: Batch
    rows: OutputRows
    sampling: list[Sequence]
    scored: list[Sequence]

    def accepted(self, tokens: StepTokens) -> dict[Sequence, int]:
        """How many drafts came true, of the sequences that had such."""
        return {self.sampling[state]: len(further) for state, further in tokens.after_drafts.items()}


class BatchBuilder:
    """Keeps each running sequence's block tables as rows of one array, so that a step only writes news.

    A batch stays valid while the next one is built.
    """

    def __init__(
        self, max_num_seqs: int, max_num_batched_tokens: int, max_blocks: int, num_groups: int = 1
    ) -> None:
        """`max_blocks` is the most entries of a sequence's table in one of `num_groups` KV groups."""
        self._tables = np.zeros((num_groups, max_num_seqs, max_blocks), dtype=np.int32)
        self._free_rows = list(reversed(range(max_num_seqs)))
        self._count = np.arange(max_num_batched_tokens + 1, dtype=np.int32)

    def release(self, sequence: Sequence) -> None:
        """Take back the row of a sequence that no longer runs."""
        if sequence.row >= 0:
            self._free_rows.append(sequence.row)
            sequence.row = -1

    def build(self, step: Step) -> BuiltBatch:
        """The batch of a step that is not empty."""
        only_decodes = step.num_decodes == len(step.sequences) and not step.num_drafts
        return self._build_decodes(step) if only_decodes else self._build(step)

    def _build_decodes(self, step: Step) -> BuiltBatch:
        """Nearly every step: each sequence computes its last token and samples."""
        sequences = step.sequences
        count = len(sequences)
        context_lens = np.array([len(sequence.token_ids) for sequence in sequences], dtype=np.int32)
        batch = Batch(
            token_ids=np.array([sequence.token_ids[-1] for sequence in sequences], dtype=np.int32),
            positions=context_lens - 1,
            query_starts=self._count[: count + 1],
            context_lens=context_lens,
            block_tables=self._block_tables(sequences, blocks_for(int(context_lens.max()))),
            output_rows=self._count[:count],
        )
        return BuiltBatch(batch, OutputRows([sequence.sampling for sequence in sequences]), sequences, [])

    def _build(self, step: Step) -> BuiltBatch:
        tokens: list[int] = []
        ends: list[int] = []
        for sequence, num_new in zip(step.sequences, step.num_new_tokens, strict=True):
            start = sequence.num_computed_tokens
            if num_new == 1:
                tokens.append(sequence.token_ids[start])
            else:
                tokens += sequence.token_ids[start : start + num_new]
                if start + num_new > len(sequence.token_ids):
                    tokens += sequence.drafts
            ends.append(start + num_new)

        num_seqs, num_tokens = len(ends), len(tokens)
        num_new_tokens = np.array(step.num_new_tokens, dtype=np.int32)
        query_starts = np.zeros(num_seqs + 1, dtype=np.int32)
        np.cumsum(num_new_tokens, out=query_starts[1:])
        context_lens = np.array(ends, dtype=np.int32)
        # A sequence's last row has position context_len - 1; rows count up to it.
        shift = np.repeat(context_lens - query_starts[1:], num_new_tokens)
        positions = shift + self._count[:num_tokens]

        batch = Batch(
            token_ids=np.array(tokens, dtype=np.int32),
            positions=positions,
            query_starts=query_starts,
            context_lens=context_lens,
            block_tables=self._block_tables(step.sequences, blocks_for(max(ends))),
            output_rows=self._count[:0],
        )
        return self._with_outputs(batch, step, ends)

    def _block_tables(self, sequences: list[Sequence], most_blocks: int) -> NDArray[np.int32]:
        """`[KV groups, S, most_blocks]`; what is beyond a sequence's own blocks means nothing."""
        rows = []
        for sequence in sequences:
            if sequence.row < 0 or sequence.has_new_blocks:
                self._write_tables(sequence)
            rows.append(sequence.row)
        return self._tables[:, :, :most_blocks].take(rows, axis=1)

    def _write_tables(self, sequence: Sequence) -> None:
        if sequence.row < 0:
            sequence.row = self._free_rows.pop()
            for table in sequence.tables:
                table.num_written = 0
        for number, table in enumerate(sequence.tables):
            start, end = table.num_written, len(table.blocks)
            self._tables[number, sequence.row, start:end] = table.blocks[start:]
            table.num_written = end
        sequence.has_new_blocks = False

    def _with_outputs(self, batch: Batch, step: Step, ends: list[int]) -> BuiltBatch:
        """Adds the rows that want logits: those of last tokens, of drafts, and of prompts on request."""
        sampling: list[Sequence] = []
        sampling_rows: list[int] = []
        scored: list[Sequence] = []
        prompts: list[PromptRows] = []
        drafts: list[DraftRows] = []
        output_rows: list[int] = []
        for sequence, num_new, end, query_end in zip(
            step.sequences, step.num_new_tokens, ends, accumulate(step.num_new_tokens), strict=True
        ):
            num_drafts = end - len(sequence.token_ids)
            samples = num_drafts >= 0
            if sequence.num_prompt_logprobs is not None and num_new > samples:
                # Row of position p gives the log probability of prompt token p + 1.
                token_ids = sequence.token_ids[end - num_new + 1 : end - samples + 1]
                prompts.append(PromptRows(len(output_rows), token_ids, sequence.num_prompt_logprobs))
                scored.append(sequence)
                output_rows += range(query_end - num_new, query_end - samples)
            if samples:
                sampling.append(sequence)
                sampling_rows.append(len(output_rows))
                if num_drafts > 0:
                    drafts.append(DraftRows(len(sampling) - 1, len(output_rows), list(sequence.drafts)))
                    output_rows += range(query_end - 1 - num_drafts, query_end - 1)
                output_rows.append(query_end - 1)
        batch.output_rows = np.array(output_rows, dtype=np.int32)
        states = [sequence.sampling for sequence in sampling]
        rows = OutputRows(states, sampling_rows if prompts or drafts else None, prompts, drafts)
        return BuiltBatch(batch, rows, sampling, scored)
