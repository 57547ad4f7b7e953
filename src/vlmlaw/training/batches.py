"""Divide the records of a training step over processes and passes, each pass within a token limit.

The records of a step, and their processes and passes, are a pure function of the step's number. Dialogues are packed:
they stand one behind the other in one row, and attention keeps them apart (vlm/packed_attention.py). Records whose
questions share a prefix are rows with a mask of which token sees which. R records, T tokens.
"""

from __future__ import annotations

import copy
import heapq
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from vlmlaw.errors import UserError
from vlmlaw.tokens.packing import Batch, expand_image, make_batch, questions_alone, records_of_step, tensors
from vlmlaw.tokens.token_table import IGNORE_INDEX, PREFIX, TokenTable
from vlmlaw.training.passes import Records
from vlmlaw.training.settings import AUTO
from vlmlaw.training.throughput import Pass, Work
from vlmlaw.vlm.image_inputs import ImageInputs

if TYPE_CHECKING:
    from vlmlaw.training.distributed import Machine
    from vlmlaw.training.settings import ComputeSettings


def model_inputs(batch: Batch, images: ImageInputs) -> dict[str, Any]:
    """Return the arguments of a VLM's forward: the text, and `images` (of batch.image_rows) with any questions."""
    if batch.question_ids is None or batch.question_mask is None or batch.image_of is None:
        return {**tensors(batch), "images": images}
    asked = ImageInputs(
        question_ids=torch.from_numpy(batch.question_ids),
        question_mask=torch.from_numpy(batch.question_mask),
        image_of=torch.from_numpy(batch.image_of),
    )
    return {**tensors(batch), "images": images.joined(asked)}


def places_of(ids: np.ndarray, targets: np.ndarray, *, image_token_id: int) -> dict[str, Tensor]:
    """Return flat indices of labels and of visual tokens, because finding them on a GPU would stall its queue."""
    found = {"target_places": targets != IGNORE_INDEX, "image_places": ids == image_token_id}
    return {name: torch.from_numpy(np.flatnonzero(mask)) for name, mask in found.items()}


class StepPasses:
    """Makes this process's passes of a step. `images_of` turns image rows into the model's inputs."""

    def __init__(
        self,
        table: TokenTable,
        images_of: Callable[[np.ndarray], ImageInputs],
        *,
        batch_size: int,
        seed: int,
        n_visual_tokens: int,
        pad_id: int,
        reads_question: bool,
        compute: ComputeSettings,
        machine: Machine,
        tokens_of_step: Callable[[int], Sequence[int]] | None = None,
    ):
        """Choose the layouts. `tokens_of_step` gives the Vs of a step's passes if they are not `n_visual_tokens` alone.

        Raises UserError if a batch has fewer records than there are processes.
        """
        if batch_size < machine.n_processes:
            raise UserError(
                f"batch_size is {batch_size}, but {machine.n_processes} processes need a record each; "
                "raise it, or lower compute.gpus (or compute.processes)."
            )
        self.table, self.images_of, self.batch_size, self.seed = table, images_of, batch_size, seed
        self.n_processes, self.rank = machine.n_processes, machine.rank
        limit = compute.tokens_per_pass
        self.tokens_per_pass: int | None = None if limit is None or limit == AUTO else int(limit)
        self.layout: dict[str, Any] = {"pad_id": pad_id, "reads_question": reads_question}
        self.n_visual_tokens, self.tokens_of_step = n_visual_tokens, tokens_of_step
        self._sizes = {n_visual_tokens: _RecordSizes.of(table, n_visual_tokens, reads_question=reads_question)}
        if self._sizes[n_visual_tokens].all_dialogues:
            self.layouts = ["packed", "padded"] if compute.layout == "packed" else ["padded"]
        else:
            self.layouts = ["padded"] if reads_question else ["shared", "padded"]
        self.use(self.layouts[0])

    def use(self, layout: str) -> None:
        """Make passes in one of `layouts`: `packed`, `shared` (questions behind their prefix), `padded` (rows)."""
        self.packed = layout == "packed"
        if layout == "padded" and self.layouts[0] == "shared":  # each question's row repeats the prefix
            self.layout["reads_question"] = True
            self._sizes.clear()

    def records(self) -> Records:
        """Return the figures of the records that an estimate of memory needs."""
        sizes = self._sizes_at(self.n_visual_tokens)
        n_tokens, n_targets = float(sizes.n_tokens.mean()), float(sizes.n_targets.mean())
        return Records(n_tokens, n_targets, float(self.table.n_images.mean()), int(sizes.n_tokens.max()))

    def halve(self) -> int:
        """Halve the tokens of later passes and return them. Raises UserError if a pass is one record already."""
        longest, mean = self.records().longest, self.records().n_tokens
        before = self.tokens_per_pass or math.ceil(mean * self.batch_size / self.n_processes)
        if before <= mean:
            raise UserError(
                f"the device's memory does not hold a pass of one record, of {longest} tokens at most. Set "
                "compute.recompute: true, take more GPUs (compute.gpus), or shorten data.max_text_tokens."
            )
        self.tokens_per_pass = before // 2
        return self.tokens_per_pass

    def records_to_check(self) -> np.ndarray:
        """Return a few records of the first step, including the longest."""
        records = records_of_step(len(self.table), self.batch_size, seed=self.seed, step=0)
        by_length = records[np.argsort(self._sizes_at(self.n_visual_tokens).n_tokens[records], kind="stable")]
        return np.unique(np.concatenate([by_length[:2], by_length[-1:]]))

    def checked_and_alone(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the model's arguments for these records in the training's layout, and with a row for each question."""
        records = self.records_to_check()
        made = self._make(records, self.n_visual_tokens, share=1.0).inputs
        layout = {"pad_id": self.layout["pad_id"], "n_visual_tokens": self.n_visual_tokens, "reads_question": True}
        alone = make_batch(self.table, records, **layout)
        return dict(made), model_inputs(alone, self.images_of(alone.image_rows))

    def __call__(self, step: int) -> list[Pass]:
        records = records_of_step(len(self.table), self.batch_size, seed=self.seed, step=step)
        if self.tokens_of_step is None:
            return self._passes(records, self.n_visual_tokens)
        # The mean of the losses at each V; the pass tells the model its V.
        counts = self.tokens_of_step(step)
        return [
            replace(one, inputs={**one.inputs, "n_visual_tokens": n_tokens}, share=one.share / len(counts))
            for n_tokens in counts
            for one in self._passes(records, n_tokens)
        ]

    def over(self, table: TokenTable) -> Iterator[Pass]:
        """Yield this process's passes over every record of another table, in the layout of the training."""
        other = copy.copy(self)
        other.table, other._sizes = table, {}
        for records in np.array_split(np.arange(len(table)), max(1, len(table) // self.batch_size)):
            yield from other._passes(records, self.n_visual_tokens)

    def _passes(self, records: np.ndarray, n_visual_tokens: int) -> list[Pass]:
        if self.n_processes == 1 and self.tokens_per_pass is None:
            return [self._make(records, n_visual_tokens, share=1.0)]
        sizes = self._sizes_at(n_visual_tokens)
        shared = share_out(sizes.n_tokens[records], n_processes=self.n_processes, tokens_per_pass=self.tokens_per_pass)
        n_targets = sizes.n_targets[records]
        return [
            self._make(records[own], n_visual_tokens, share=float(n_targets[own].sum() / n_targets.sum()))
            for own in shared[self.rank]
        ]

    def _sizes_at(self, n_visual_tokens: int) -> _RecordSizes:
        if n_visual_tokens not in self._sizes:
            reads_question = self.layout["reads_question"]
            self._sizes[n_visual_tokens] = _RecordSizes.of(self.table, n_visual_tokens, reads_question=reads_question)
        return self._sizes[n_visual_tokens]

    def _make(self, records: np.ndarray, n_visual_tokens: int, *, share: float) -> Pass:
        layout = {"n_visual_tokens": n_visual_tokens, **self.layout}
        if self.packed:
            inputs, work = packed_inputs(self.table, records, images_of=self.images_of, **layout)
        else:
            batch = make_batch(self.table, records, **layout)
            inputs = model_inputs(batch, self.images_of(batch.image_rows))
            inputs |= places_of(batch.input_ids, batch.targets, image_token_id=self.table.image_token_id)
            work = _work_of(batch, n_samples=len(records))
        return Pass(inputs, share, work)


def _work_of(batch: Batch, *, n_samples: int) -> Work:
    n_tokens = int((batch.segments >= 0).sum())
    return Work(
        n_samples=n_samples,
        n_tokens=n_tokens,
        n_places=batch.input_ids.size,
        n_pairs=int(batch.position_ids.sum()) + n_tokens,  # a token sees as many tokens before it as its position
        n_targets=int((batch.targets != IGNORE_INDEX).sum()),
        n_images=len(batch.image_rows if batch.image_of is None else batch.image_of),
    )


def packed_inputs(
    table: TokenTable,
    records: Sequence[int] | np.ndarray,
    *,
    images_of: Callable[[np.ndarray], ImageInputs],
    n_visual_tokens: int,
    pad_id: int,
    reads_question: bool,
) -> tuple[dict[str, Any], Work]:
    """Pack dialogues into one row. Returns the model's arguments and the amount of work."""
    documents = [(int(r), *expand_image(table, int(r), n_visual_tokens=n_visual_tokens)) for r in records]
    lengths = np.array([len(ids) for _, ids, _, _ in documents])
    ids, targets = (np.concatenate([document[part] for document in documents])[None] for part in (1, 2))
    positions = np.concatenate([np.arange(length) for length in lengths])[None]
    inputs: dict[str, Any] = {
        "input_ids": torch.from_numpy(ids.astype(np.int64)),
        "targets": torch.from_numpy(targets.astype(np.int64)),
        "position_ids": torch.from_numpy(positions),
        "cu_seq_lens_q": torch.from_numpy(np.concatenate([[0], lengths.cumsum()]).astype(np.int32)),
        "max_length_q": int(lengths.max()),
        **places_of(ids, targets, image_token_id=table.image_token_id),
    }
    rows = table.images(map(int, records))
    images = images_of(rows)
    if reads_question and len(rows):
        asked, mask = questions_alone(table, documents, pad_id)
        images = images.joined(ImageInputs(question_ids=torch.from_numpy(asked), question_mask=torch.from_numpy(mask)))
    inputs["images"] = images
    work = Work(
        n_samples=len(documents),
        n_tokens=ids.size,
        n_places=ids.size,
        n_pairs=int((lengths * (lengths + 1) // 2).sum()),
        n_targets=int((targets != IGNORE_INDEX).sum()),
        n_images=len(rows),
    )
    return inputs, work


@dataclass(frozen=True)
class _RecordSizes:
    """Tokens of each record, with its visual tokens and as often as the layout repeats them, and its targets."""

    n_tokens: np.ndarray
    n_targets: np.ndarray
    all_dialogues: bool  # no record's questions share a prefix

    @classmethod
    def of(cls, table: TokenTable, n_visual_tokens: int, *, reads_question: bool) -> _RecordSizes:
        first = table.starts[:-1]
        in_prefix = table.segments == PREFIX
        n_prefix = np.add.reduceat(in_prefix, first, dtype=np.int64)
        visual = table.n_images * (n_visual_tokens - 1)
        n_tokens = np.diff(table.starts) + visual
        if reads_question:  # the prefix is repeated for each question
            n_questions = np.maximum.reduceat(table.segments, first)
            n_tokens = n_tokens + (n_questions - 1) * np.where(n_prefix > 0, n_prefix + visual, 0)
        n_targets = np.add.reduceat(table.targets != IGNORE_INDEX, first, dtype=np.int64)
        return cls(n_tokens, n_targets, bool((table.segments == PREFIX + 1).all()))


def share_out(lengths: np.ndarray, *, n_processes: int, tokens_per_pass: int | None) -> list[list[np.ndarray]]:
    """Divide records over the passes of processes, which have equal numbers of passes and about equal tokens in each.

    The longest records go first, each into the pass with the fewest tokens (Graham 1969, doi 10.1137/0117039).
    A record beyond the limit has a pass of its own. Raises UserError for fewer records than processes.
    """
    n_records = len(lengths)
    if n_records < n_processes:
        raise UserError(f"a step of {n_records} records cannot be shared out over {n_processes} processes; use fewer.")
    limit = tokens_per_pass or math.inf
    n_each = max(1, math.ceil(lengths.sum() / (limit * n_processes)))
    while True:
        n_each = min(n_each, n_records // n_processes)
        passes = _balanced(lengths, n_each * n_processes)
        fits = all(lengths[own].sum() <= limit or len(own) == 1 for own in passes)
        if fits or n_each == n_records // n_processes:
            break
        n_each += 1
    passes.sort(key=lambda own: -lengths[own].sum())  # so that processes run passes of similar size together
    return [passes[rank::n_processes] for rank in range(n_processes)]


def _balanced(lengths: np.ndarray, n_parts: int) -> list[np.ndarray]:
    heap = [(0, part) for part in range(n_parts)]
    parts: list[list[int]] = [[] for _ in range(n_parts)]
    for record in np.argsort(-lengths, kind="stable").tolist():
        load, part = heapq.heappop(heap)
        parts[part].append(record)
        heapq.heappush(heap, (load + int(lengths[record]), part))
    return [np.array(sorted(part)) for part in parts]
