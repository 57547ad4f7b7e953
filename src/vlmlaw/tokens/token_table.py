"""Turn conversations into tokens, once for all cells.

One document is one record. Its questions may be independent: each then sees the record's prefix (the image, a
description) and itself, but no other question, so that one prefix serves all of them. A dialogue has one segment, in
which later turns see earlier ones. R records, S segments, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from dataclasses import fields as dataclass_fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from vlmlaw.data.shards import IMAGE_PLACEHOLDER, Dataset, Record
from vlmlaw.errors import UserError
from vlmlaw.runtime.whole_files import UNREADABLE, refused_if_damaged, whole_file
from vlmlaw.tokens.chat_template import Chat
from vlmlaw.tokens.prompt import ChatTokenizer, TokenizedChat

if TYPE_CHECKING:
    from vlmlaw.data.settings import TokenSettings

IGNORE_INDEX = -100  # torch's cross-entropy leaves such targets out
NO_TOKEN = -1  # the image token's id for a tokenizer without one
RECORDS_AT_ONCE = 8192
PREFIX = 0  # the segment that every other segment of its document sees


@dataclass(frozen=True)
class TokenTable:
    """All records of a dataset as flat arrays; record r owns tokens starts[r]:starts[r + 1].

    `targets` is the token that a place should predict, or IGNORE_INDEX if that is not part of an answer. `segments` is
    PREFIX or the number of the question, from 1. An image is one token, which a batch expands to V.
    The questions about images (vlmlaw.tokens.prompt) are in `question_ids`, entry e at question_starts[e]:
    question_starts[e + 1]. Record r has the entries question_rows[r]:question_rows[r + 1], one for each image and
    question of the record. It shows the images shown_images[image_starts[r]:image_starts[r + 1]], in the order of their
    places.
    """

    ids: np.ndarray
    targets: np.ndarray
    segments: np.ndarray
    starts: np.ndarray
    shown_images: np.ndarray  # (images of all records,) their positions in the dataset
    image_starts: np.ndarray  # (R + 1,)
    image_token_id: int
    question_ids: np.ndarray
    question_starts: np.ndarray
    question_rows: np.ndarray  # (R + 1,)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def save(self, file: BinaryIO) -> None:
        np.savez(file, **vars(self))

    @classmethod
    def load(cls, path: Path) -> TokenTable:
        try:
            with np.load(path) as arrays:
                fields = {name: arrays[name] for name in arrays.files}
        except UNREADABLE as error:
            raise UserError(f"{path} is no file of tokens ({error}); tokenize the data again.") from error
        missing = sorted(field.name for field in dataclass_fields(cls) if field.name not in fields)
        if missing:
            raise UserError(f"{path} lacks {', '.join(missing)}: an older version made it; tokenize the data again.")
        return cls(**fields | {"image_token_id": int(fields["image_token_id"])})

    @property
    def n_images(self) -> np.ndarray:
        """Number of images of each record (R,)."""
        return np.diff(self.image_starts)

    @property
    def image_rows(self) -> np.ndarray:
        """Position in the dataset of each record's first image (R,); -1 for a record without images."""
        rows = np.full(len(self), -1, dtype=np.int64)
        rows[self.n_images > 0] = self.shown_images[self.image_starts[:-1][self.n_images > 0]]
        return rows

    def images(self, records: Iterable[int]) -> np.ndarray:
        """Return the positions in the dataset of these records' images, record by record."""
        rows = [self.shown_images[self.image_starts[r] : self.image_starts[r + 1]] for r in records]
        return np.concatenate(rows) if rows else self.shown_images[:0]

    def questions(self, record: int, segment: int) -> list[np.ndarray]:
        """Return the question about each image of a record in a segment (1 for a dialogue); [] without an image."""
        first, end = self.question_rows[record : record + 2]
        n_segments = int(self.segments[self.starts[record] : self.starts[record + 1]].max())
        n_each = int(end - first) // n_segments
        entries = range(first + (segment - 1) * n_each, first + segment * n_each)
        return [self.question_ids[self.question_starts[entry] : self.question_starts[entry + 1]] for entry in entries]


def tokenize(
    dataset: Dataset, tokenizer: Any, *, independent: bool, max_text_tokens: int = 0, skip_at_most: float = 0.0
) -> TokenTable:
    """Tokenize every record by the tokenizer's chat template, with labels on answers only.

    A dialogue is cut off after max_text_tokens (0: never), of which an image takes one; images behind the cut are left
    out. Records that the cut leaves without a label are left out up to the share skip_at_most of all. Raises UserError
    for the first record beyond that share, for one in which an answer would have no label, and if there is no record.
    """
    if not dataset.records:
        raise UserError(f"{dataset.folder} holds no record; there is nothing to learn from.")
    image_token_id = tokenizer.get_vocab().get(IMAGE_PLACEHOLDER, NO_TOKEN)
    parts: list[tuple[np.ndarray, ...]] = []
    lengths, skipped = [0], list[str]()
    image_rows, n_images = list[int](), [0]
    asked, n_asked = list[list[int]](), [0]
    for record, document, questions in _documents(dataset.records, tokenizer, image_token_id, independent=independent):
        ids, targets, segments = document if independent else _cut(document, max_text_tokens or None)
        if max(targets) < 0:
            skipped.append(record.id)
            _require_few_skipped(skipped, len(dataset.records), max_text_tokens, skip_at_most)
            continue
        arrays = np.array(ids, dtype=np.int32), np.array(targets, dtype=np.int32), np.array(segments, dtype=np.int16)
        parts.append(arrays)
        lengths.append(len(ids))
        # Images whose place lies behind the cut are not shown.
        n_images.append(ids.count(image_token_id) if record.images else 0)
        shown = record.images[: n_images[-1]]
        image_rows += [dataset.image_row(record.with_images([name])) for name in shown]
        questions = questions if independent else questions[: n_images[-1]]
        asked += questions
        n_asked.append(len(questions))
    if not parts:
        raise UserError(
            f"no record of {dataset.folder} has a label within {max_text_tokens} tokens; allow more of them."
        )
    ids_T, targets_T, segments_T = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return TokenTable(
        ids=ids_T,
        targets=targets_T,
        segments=segments_T,
        starts=np.cumsum(lengths, dtype=np.int64),
        shown_images=np.array(image_rows, dtype=np.int64),
        image_starts=np.cumsum(n_images, dtype=np.int64),
        image_token_id=image_token_id,
        question_ids=np.array([token for question in asked for token in question], dtype=np.int32),
        question_starts=np.cumsum([0, *map(len, asked)], dtype=np.int64),
        question_rows=np.cumsum(n_asked, dtype=np.int64),
    )


def _documents(
    records: Sequence[Record], tokenizer: Any, image_token_id: int, *, independent: bool
) -> Iterator[tuple[Record, Document, list[list[int]]]]:
    """Yield each record with its document and its questions, tokenized in groups so that memory stays small."""
    read = ChatTokenizer(tokenizer)
    for start in range(0, len(records), RECORDS_AT_ONCE):
        part = records[start : start + RECORDS_AT_ONCE]
        chats_of_record = [_chats(record, independent=independent) for record in part]
        # Many records have the same chats; each is rendered and tokenized once.
        different = list(dict.fromkeys(chat for chats in chats_of_record for chat in chats))
        try:
            turns = dict(zip(different, read.dialogues(different), strict=True))
        except UserError:
            _raise_for_record(part, chats_of_record, read)
            raise
        for record, chats in zip(part, chats_of_record, strict=True):
            own = [turns[chat] for chat in chats]
            document = (_independent if independent else _dialogue)(own)
            ids, targets, segments = document
            answered = {place for place, target in zip(segments, targets, strict=True) if target >= 0}
            if len(answered) < len(own) or any(not 0 < first < end for turn in own for first, end in turn.answers):
                raise UserError(
                    f"record {record.id!r}: the chat template leaves an answer without a label to learn from."
                )
            _require_image_token(record, ids.count(image_token_id))
            yield record, document, [question for turn in own for question in turn.questions]
    read.require_end()


def _raise_for_record(records: Sequence[Record], chats_of_record: Sequence[list[Chat]], read: ChatTokenizer) -> None:
    """Raise the error of the first record that cannot be tokenized, with its id."""
    for record, chats in zip(records, chats_of_record, strict=True):
        try:
            read.dialogues(chats)
        except UserError as error:
            raise UserError(f"record {record.id!r}: {error}") from error


def _cut(document: Document, n_tokens: int | None) -> Document:
    ids, targets, segments = document
    return ids[:n_tokens], targets[:n_tokens], segments[:n_tokens]


def _require_few_skipped(skipped: list[str], n_records: int, max_text_tokens: int, skip_at_most: float) -> None:
    n_allowed = int(skip_at_most * n_records)
    if len(skipped) > n_allowed:
        raise UserError(
            f"record {skipped[-1]!r} has no answer within its first {max_text_tokens} tokens, so nothing would be "
            f"learned from it, and {n_allowed} of {n_records} records may be left out. Raise data.max_text_tokens, or "
            "set data.skip_at_most to the share that may be left out."
        )


def load_tokenizer(folder: Path) -> Any:
    """Load the tokenizer of a folder by its tokenizer.json.

    AutoTokenizer would go by the model beside it: next to a Qwen2 it makes a Qwen2Tokenizer, whatever the file says,
    which splits the miniature's words and drops the pieces.
    """
    from transformers import PreTrainedTokenizerFast

    with refused_if_damaged(folder, "a tokenizer"):
        if (folder / "tokenizer_config.json").is_dir():  # which transformers would ignore
            raise UserError(f"{folder / 'tokenizer_config.json'} is a folder; expected a file: restore it.")
        return PreTrainedTokenizerFast.from_pretrained(folder)


def tokenize_dataset(dataset: Path, tokenizer: Path, out: Path, *, settings: TokenSettings) -> None:
    """Tokenize the dataset in a folder with the tokenizer in another, and write the table to `out`."""
    table = tokenize(
        Dataset(dataset),
        load_tokenizer(tokenizer),
        independent=settings.independent,
        max_text_tokens=settings.max_text_tokens,
        skip_at_most=settings.skip_at_most,
    )
    print(f"{len(table)} records, {len(table.ids) / len(table):.1f} tokens each, {(table.targets >= 0).sum()} labels")
    with whole_file(out) as partial, partial.open("wb") as file:
        table.save(file)


def _require_image_token(record: Record, n_image_tokens: int) -> None:
    if n_image_tokens != len(record.images):
        has = {0: "no image", 1: "an image"}.get(len(record.images), f"{len(record.images)} images")
        raise UserError(
            f"record {record.id!r} has {has}, but its text {n_image_tokens} tokens {IMAGE_PLACEHOLDER}; the tokenizer "
            "must know that token, and the chat template keep it."
        )


def _chats(record: Record, *, independent: bool) -> list[Chat]:
    """Return the record's chats: one for each question, or one dialogue."""
    pairs = list(zip(record.questions, record.answers, strict=True))
    if independent:
        return [(("user", record.prompt(question)), ("assistant", answer)) for question, answer in pairs]
    # A dialogue shows its image once: with the first question, unless it has another place.
    shown = [record.prompt(pairs[0][0]), *(question for question, _ in pairs[1:])]
    turns = zip(shown, record.answers, strict=True)
    return [tuple(said for question, answer in turns for said in (("user", question), ("assistant", answer)))]


Document = tuple[list[int], list[int], list[int]]  # ids, targets, segments


def _targets_of(turn: TokenizedChat) -> list[int]:
    """Return targets_T of a chat: the next token where that is part of an answer."""
    ids = turn.ids
    targets = [IGNORE_INDEX] * len(ids)
    for first, end in turn.answers:
        targets[first - 1 : end - 1] = ids[first:end]
    return targets


def _independent(turns: Sequence[TokenizedChat]) -> Document:
    """Make one segment for each turn, behind the longest prefix that all prompts share."""
    # The prompt's last token predicts the answer, so it is never of the prefix.
    n_prefix = _n_common([turn.ids[: turn.answers[0][0] - 1] for turn in turns])
    ids = turns[0].ids[:n_prefix]
    targets, segments = [IGNORE_INDEX] * n_prefix, [PREFIX] * n_prefix
    for number, turn in enumerate(turns, start=1):
        # The last token of a turn predicts nothing, so it is no input. The end of an answer is learned from one turn of
        # each record: with all turns it would be a quarter of the miniature's tokens and half of its loss.
        own = slice(n_prefix, len(turn.ids) - (1 if number == len(turns) else 2))
        ids = ids + turn.ids[own]
        targets += _targets_of(turn)[own]
        segments += [number] * (len(ids) - len(segments))
    return ids, targets, segments


def _n_common(lists: Sequence[list[int]]) -> int:
    """Return how many first items all lists share: as many as the least and the greatest list do."""
    least, greatest = min(lists), max(lists)
    return next((i for i, (a, b) in enumerate(zip(least, greatest, strict=False)) if a != b), len(least))


def _dialogue(turns: Sequence[TokenizedChat]) -> Document:
    """Make one segment of all turns of the chat; its last token predicts nothing, so it is no input."""
    (turn,) = turns
    return turn.ids[:-1], _targets_of(turn)[:-1], [1] * (len(turn.ids) - 1)
