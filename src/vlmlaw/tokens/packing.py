"""Make batches from token tables: pad rows, and repeat the image's token V times.

R records, S segments (see token_table), T tokens, B rows of a batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from vlmlaw.tokens.token_table import IGNORE_INDEX, PREFIX, TokenTable


@dataclass(frozen=True)
class Batch:
    """Padded documents as numpy arrays; `attends` is True where a query (row) may attend to a key (column)."""

    input_ids: np.ndarray  # (B, T)
    position_ids: np.ndarray  # (B, T)
    targets: np.ndarray  # (B, T)
    segments: np.ndarray  # (B, T), -1 at padding
    attends: np.ndarray  # (B, 1, T, T)
    image_rows: np.ndarray  # (images of all rows,); with `image_of`, each distinct image once
    records: np.ndarray  # (B,) index of each row's record
    questions: np.ndarray  # (B, T) number of the question, from 0, that a token belongs to
    question_ids: np.ndarray | None = None  # (images of all rows, Q) each image's question, if the compressor reads it
    question_mask: np.ndarray | None = None
    image_of: np.ndarray | None = None  # (images of all rows,) index into image_rows


def expand_image(table: TokenTable, record: int, *, n_visual_tokens: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return ids, targets and segments of one record, with its image token repeated V times."""
    own = slice(table.starts[record], table.starts[record + 1])
    ids, targets, segments = table.ids[own], table.targets[own], table.segments[own]
    repeats = np.where(ids == table.image_token_id, n_visual_tokens, 1)
    return np.repeat(ids, repeats), np.repeat(targets, repeats), np.repeat(segments, repeats)


def make_batch(
    table: TokenTable, records: Iterable[int], *, n_visual_tokens: int, pad_id: int, reads_question: bool = False
) -> Batch:
    """Pad these records into one batch.

    With `reads_question`, each question becomes a row of its own, since a compressor that reads the question outputs
    different visual tokens for each; the image itself is in the batch once.
    """
    documents = [(r, *expand_image(table, r, n_visual_tokens=n_visual_tokens)) for r in records]
    if reads_question:
        documents = [single for document in documents for single in _split_questions(document)]
    n_tokens = max(len(ids) for _, ids, _, _ in documents)
    shape = (len(documents), n_tokens)
    input_ids, targets = np.full(shape, pad_id, dtype=np.int64), np.full(shape, IGNORE_INDEX, dtype=np.int64)
    segments = np.full(shape, -1, dtype=np.int64)
    for row, (_, ids, goal, segment) in enumerate(documents):
        length = len(ids)
        input_ids[row, :length], targets[row, :length], segments[row, :length] = ids, goal, segment
    rows = np.array([record for record, *_ in documents])
    image_rows, image_of = table.images(rows), None
    question = questions_alone(table, documents, pad_id) if reads_question and len(image_rows) else (None, None)
    if reads_question:
        image_rows, image_of = np.unique(image_rows, return_inverse=True)
    return Batch(
        input_ids=input_ids,
        position_ids=_positions(segments),
        targets=targets,
        segments=segments,
        attends=attention_rule(segments),
        image_rows=image_rows,
        records=rows,
        questions=segments - 1,
        question_ids=question[0],
        question_mask=question[1],
        image_of=image_of,
    )


def _positions(segments_BT: np.ndarray) -> np.ndarray:
    """Return positions (B, T): each segment counts on from the end of the prefix; 0 at padding."""
    places = np.arange(segments_BT.shape[1])
    begins = np.diff(segments_BT, axis=1, prepend=segments_BT[:, :1] - 1) != 0
    start_of = np.maximum.accumulate(np.where(begins, places, 0), axis=1)
    n_prefix = (segments_BT == PREFIX).sum(axis=1, keepdims=True)
    behind_prefix = np.where(segments_BT == PREFIX, 0, n_prefix)
    return np.where(segments_BT < 0, 0, places - start_of + behind_prefix)


def attention_rule(segments_BT: np.ndarray) -> np.ndarray:
    """Return attends (B, 1, T, T): each token attends to earlier ones of the prefix and of its own segment."""
    query, key = segments_BT[:, :, None], segments_BT[:, None, :]
    n_tokens = segments_BT.shape[1]
    causal = np.tri(n_tokens, dtype=bool)
    return (causal & ((key == PREFIX) | (key == query)))[:, None]


Expanded = tuple[int, np.ndarray, np.ndarray, np.ndarray]  # record, ids, targets, segments


def _split_questions(document: Expanded) -> list[Expanded]:
    """Split a document into one for each question: the prefix and that question alone."""
    record, ids, targets, segments = document
    parts = []
    for number in range(1, segments.max() + 1):
        own = (segments == PREFIX) | (segments == number)
        parts.append((record, ids[own], targets[own], segments[own]))
    return parts


def questions_alone(table: TokenTable, documents: list[Expanded], pad_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the question about each image (images of all documents, Q), padded on the right, with a mask."""
    return padded_questions(
        [asked for record, _, _, segments in documents for asked in table.questions(record, int(segments.max()))],
        pad_id,
    )


def padded_questions(questions: Sequence[Sequence[int] | np.ndarray], pad_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Pad questions on the right to (B, Q), with a mask; Q is at least 1, so that a model has something to read.

    >>> padded_questions([[5, 6], []], pad_id=0)[1].tolist()
    [[True, True], [False, False]]
    """
    n_tokens = max(1, *map(len, questions))
    padded = np.full((len(questions), n_tokens), pad_id, dtype=np.int64)
    mask = np.zeros(padded.shape, dtype=bool)
    for row, question in enumerate(questions):
        padded[row, : len(question)], mask[row, : len(question)] = question, True
    return padded, mask


@lru_cache(maxsize=2)
def record_order(n_records: int, *, seed: int, epoch: int) -> np.ndarray:
    """Return an epoch's order of records, a pure function of (seed, epoch). The array is shared and read-only."""
    order = np.random.default_rng([seed, epoch]).permutation(n_records)
    order.setflags(write=False)
    return order


def records_of_step(n_records: int, batch_size: int, *, seed: int, step: int) -> np.ndarray:
    """Return the records of one step, a pure function of (seed, step), so that a resumed run sees the same ones."""
    epoch, index = divmod(step, max(n_records // batch_size, 1))
    return record_order(n_records, seed=seed, epoch=epoch)[index * batch_size : (index + 1) * batch_size].copy()


def tensors(batch: Batch) -> dict[str, Tensor]:
    """Return a batch's text as arguments of a language model's forward.

    The mask is (B, 1, T, T) if questions share a prefix; otherwise padding is marked (B, T), and the model makes its
    own causal masks.
    """
    first_question = np.where(batch.segments > PREFIX, batch.segments, np.iinfo(np.int64).max).min(axis=1)
    shares_prefix = (batch.segments.max(axis=1) > first_question).any()
    arrays = {
        "input_ids": batch.input_ids,
        "position_ids": batch.position_ids,
        "attention_mask": batch.attends if shares_prefix else (batch.segments >= 0).astype(np.int64),
        "targets": batch.targets,
    }
    return {name: torch.from_numpy(array) for name, array in arrays.items()}
