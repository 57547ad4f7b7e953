"""Conversations to tokens, once for every cell, and tokens to batches with V visual tokens in the image's place.

One document is one record. Its questions may be independent: each then sees the record's prefix (the image, a
description) and itself, never another question, so that one prefix serves them all. A dialogue has one segment, in
which later turns see earlier ones. R records, S segments, T tokens, B rows of a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from vlmlaw.data.shards import IMAGE_PLACEHOLDER, Dataset, Record
from vlmlaw.errors import UserError
from vlmlaw.files import whole_file

if TYPE_CHECKING:
    from vlmlaw.experiment import TokenSettings

IGNORE_INDEX = -100
PREFIX = 0  # the segment that every other segment of its document sees


@dataclass(frozen=True)
class TokenTable:
    """All records of a dataset as flat arrays; record r owns tokens starts[r]:starts[r + 1].

    `targets` is the token that a place should predict, IGNORE_INDEX where it is not an answer's. `segments` is
    PREFIX or the number of the question, from 1. The image is one token, which a batch expands to V.
    """

    ids: np.ndarray
    targets: np.ndarray
    segments: np.ndarray
    starts: np.ndarray
    image_rows: np.ndarray  # (R,), -1 for a record without image
    image_token_id: int

    def __len__(self) -> int:
        return len(self.starts) - 1

    def save(self, file: BinaryIO) -> None:
        np.savez(file, **vars(self))

    @classmethod
    def load(cls, path: Path) -> TokenTable:
        with np.load(path) as arrays:
            fields = {name: arrays[name] for name in arrays.files}
        return cls(**fields | {"image_token_id": int(fields["image_token_id"])})


def tokenize(dataset: Dataset, tokenizer: Any, *, independent: bool) -> TokenTable:
    """Every record through the tokenizer's chat template, labels on answers only.

    Raises UserError naming the record when an answer would have no label.
    """
    image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_PLACEHOLDER)
    ids, targets, segments, starts = [], [], [], [0]
    for record, (prompts, turns) in zip(
        dataset.records, _rendered(dataset.records, tokenizer, independent=independent), strict=True
    ):
        encode = _independent if independent else _dialogue
        record_ids, record_targets, record_segments = encode(prompts, turns)
        if (record_targets != IGNORE_INDEX).sum() < len(turns):
            raise UserError(f"record {record.id!r}: the chat template leaves an answer without a label to learn from.")
        ids.append(record_ids)
        targets.append(record_targets)
        segments.append(record_segments)
        starts.append(starts[-1] + len(record_ids))
    image_rows = [dataset.image_row(record) if record.image else -1 for record in dataset.records]
    return TokenTable(
        ids=np.concatenate(ids).astype(np.int32),
        targets=np.concatenate(targets).astype(np.int32),
        segments=np.concatenate(segments).astype(np.int16),
        starts=np.array(starts, dtype=np.int64),
        image_rows=np.array(image_rows, dtype=np.int64),
        image_token_id=image_token_id,
    )


def tokenize_dataset(dataset: Path, tokenizer: Path, out: Path, *, settings: TokenSettings) -> None:
    """Tokenize the dataset in a folder with the tokenizer in another, and write the table to `out`."""
    from transformers import AutoTokenizer

    table = tokenize(Dataset(dataset), AutoTokenizer.from_pretrained(tokenizer), independent=settings.independent)
    with whole_file(out) as partial, partial.open("wb") as file:
        table.save(file)


def _rendered(
    records: Sequence[Record], tokenizer: Any, *, independent: bool
) -> Iterator[tuple[list[list[int]], list[list[int]]]]:
    """For each record, token lists of its turns: the prompt alone, and the prompt with its answer."""
    chats: list[str] = []
    for record in records:
        for number, (question, answer) in enumerate(zip(record.questions, record.answers, strict=True)):
            # A dialogue shows its image once, with the first question.
            content = record.prompt(question) if independent or number == 0 else question
            user = {"role": "user", "content": content}
            assistant = {"role": "assistant", "content": answer}
            chats.append(tokenizer.apply_chat_template([user], tokenize=False, add_generation_prompt=True))
            chats.append(tokenizer.apply_chat_template([user, assistant], tokenize=False))
    # One call of the (Rust) tokenizer for all: a call for each turn takes ten times as long.
    encoded = tokenizer(chats, add_special_tokens=False)["input_ids"]
    at = 0
    for record in records:
        n_turns = len(record.questions)
        pairs = encoded[at : at + 2 * n_turns]
        at += 2 * n_turns
        yield pairs[0::2], pairs[1::2]


def _targets_of(prompt: list[int], turn: list[int]) -> np.ndarray:
    """targets_T of a turn: its next token where that belongs to the answer."""
    targets = np.append(np.array(turn[1:]), IGNORE_INDEX)
    targets[: len(prompt) - 1] = IGNORE_INDEX
    return targets


def _independent(prompts: list[list[int]], turns: list[list[int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One segment for each turn, behind the longest prefix that all prompts share."""
    n_prefix = min(len(prompt) for prompt in prompts) - 1
    first = prompts[0]
    for prompt in prompts[1:]:
        n_prefix = next((i for i in range(n_prefix) if prompt[i] != first[i]), n_prefix)
    # The last token of a turn predicts nothing, so it is no input. That an answer ends is learned from one turn of
    # each record: in all of them it would be a quarter of the miniature's tokens and half of its loss.
    ends = [len(turn) - 2 for turn in turns[:-1]] + [len(turns[-1]) - 1]
    bodies = [turn[n_prefix:end] for turn, end in zip(turns, ends, strict=True)]
    targets = [_targets_of(prompt, turn)[n_prefix:end] for prompt, turn, end in zip(prompts, turns, ends, strict=True)]
    numbers = np.repeat(np.arange(len(turns)) + 1, [len(body) for body in bodies])
    return (
        np.concatenate([first[:n_prefix], *bodies]),
        np.concatenate([np.full(n_prefix, IGNORE_INDEX), *targets]),
        np.concatenate([np.full(n_prefix, PREFIX), numbers]),
    )


def _dialogue(prompts: list[list[int]], turns: list[list[int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All turns one after another in one segment."""
    ids = np.concatenate([np.array(turn) for turn in turns])
    targets = np.concatenate([_targets_of(prompt, turn) for prompt, turn in zip(prompts, turns, strict=True)])
    return ids[:-1], targets[:-1], np.ones(len(ids) - 1, dtype=np.int64)


@dataclass(frozen=True)
class Batch:
    """Rows of padded documents, as numpy arrays; `attends` is True where a query (rows) may see a key (columns)."""

    input_ids: np.ndarray  # (B, T)
    position_ids: np.ndarray  # (B, T)
    targets: np.ndarray  # (B, T)
    segments: np.ndarray  # (B, T), -1 at padding
    attends: np.ndarray  # (B, 1, T, T)
    image_rows: np.ndarray  # (B,) or (B with an image,)
    records: np.ndarray  # (B,) which record each row is
    questions: np.ndarray  # (B, T) which of the record's questions a token belongs to, from 0
    question_ids: np.ndarray | None = None  # (B, Q) the question alone, where the compressor reads it
    question_mask: np.ndarray | None = None


def expand_image(table: TokenTable, record: int, *, n_visual_tokens: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ids, targets and segments of one record, its image token repeated V times."""
    own = slice(table.starts[record], table.starts[record + 1])
    ids, targets, segments = table.ids[own], table.targets[own], table.segments[own]
    repeats = np.where(ids == table.image_token_id, n_visual_tokens, 1)
    return np.repeat(ids, repeats), np.repeat(targets, repeats), np.repeat(segments, repeats)


def make_batch(
    table: TokenTable, records: Sequence[int], *, n_visual_tokens: int, pad_id: int, reads_question: bool = False
) -> Batch:
    """The records as one padded batch.

    With `reads_question` each question becomes a row of its own with its own visual tokens, since a compressor that
    reads the question makes other tokens for each.
    """
    documents = [(r, *expand_image(table, r, n_visual_tokens=n_visual_tokens)) for r in records]
    if reads_question:
        documents = [single for document in documents for single in _split_questions(document)]
    n_tokens = max(len(ids) for _, ids, _, _ in documents)
    shape = (len(documents), n_tokens)
    input_ids, targets = np.full(shape, pad_id, dtype=np.int64), np.full(shape, IGNORE_INDEX, dtype=np.int64)
    segments, position_ids = np.full(shape, -1, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    for row, (_, ids, goal, segment) in enumerate(documents):
        length = len(ids)
        input_ids[row, :length], targets[row, :length], segments[row, :length] = ids, goal, segment
        position_ids[row, :length] = _positions(segment)
    rows = np.array([record for record, *_ in documents])
    image_rows = table.image_rows[rows]
    question = _questions(documents, table.image_token_id, pad_id) if reads_question else (None, None)
    return Batch(
        input_ids=input_ids,
        position_ids=position_ids,
        targets=targets,
        segments=segments,
        attends=attention_rule(segments),
        image_rows=image_rows[image_rows >= 0],
        records=rows,
        questions=segments - 1,
        question_ids=question[0],
        question_mask=question[1],
    )


def _positions(segments_T: np.ndarray) -> np.ndarray:
    """Each segment goes on counting where the prefix ends."""
    n_prefix = int((segments_T == PREFIX).sum())
    places = np.arange(len(segments_T))
    starts = np.flatnonzero(np.diff(segments_T, prepend=-1))
    start_of = starts[np.searchsorted(starts, places, side="right") - 1]
    return np.where(segments_T == PREFIX, places, places - start_of + n_prefix)


def attention_rule(segments_BT: np.ndarray) -> np.ndarray:
    """attends (B, 1, T, T): a token sees earlier ones of the prefix and of its own segment. Padding sees itself."""
    query, key = segments_BT[:, :, None], segments_BT[:, None, :]
    n_tokens = segments_BT.shape[1]
    causal = np.tri(n_tokens, dtype=bool)
    return (causal & ((key == PREFIX) | (key == query)))[:, None]


Document = tuple[int, np.ndarray, np.ndarray, np.ndarray]  # record, ids, targets, segments


def _split_questions(document: Document) -> list[Document]:
    """One document for each question: the prefix and that question alone."""
    record, ids, targets, segments = document
    parts = []
    for number in range(1, segments.max() + 1):
        own = (segments == PREFIX) | (segments == number)
        parts.append((record, ids[own], targets[own], segments[own]))
    return parts


def _questions(documents: list[Document], image_token_id: int, pad_id: int) -> tuple[np.ndarray, np.ndarray]:
    """(B, Q) the words of each row's question without the image and the answer, padded on the right, with a mask."""
    questions = []
    for _, ids, targets, _ in documents:
        prompt = ids[: int(np.argmax(targets != IGNORE_INDEX)) + 1]
        questions.append(prompt[prompt != image_token_id])
    n_tokens = max(len(question) for question in questions)
    padded = np.full((len(questions), n_tokens), pad_id, dtype=np.int64)
    mask = np.zeros(padded.shape, dtype=bool)
    for row, question in enumerate(questions):
        padded[row, : len(question)], mask[row, : len(question)] = question, True
    return padded, mask


def record_order(n_records: int, *, seed: int, epoch: int) -> np.ndarray:
    """The order of an epoch's records, a pure function of (seed, epoch)."""
    return np.random.default_rng([seed, epoch]).permutation(n_records)


def records_of_step(n_records: int, batch_size: int, *, seed: int, step: int) -> np.ndarray:
    """The records of one step, a pure function of (seed, step), so that a resumed run sees the same ones."""
    epoch, index = divmod(step, max(n_records // batch_size, 1))
    return record_order(n_records, seed=seed, epoch=epoch)[index * batch_size : (index + 1) * batch_size]
