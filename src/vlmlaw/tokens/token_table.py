"""Conversations to tokens, once for every cell.

One document is one record. Its questions may be independent: each then sees the record's prefix (the image, a
description) and itself, never another question, so that one prefix serves them all. A dialogue has one segment, in
which later turns see earlier ones. R records, S segments, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from vlmlaw.data.shards import IMAGE_PLACEHOLDER, Dataset, Record
from vlmlaw.errors import UserError
from vlmlaw.runtime.whole_files import whole_file
from vlmlaw.tokens.chat_template import Renderer

if TYPE_CHECKING:
    from vlmlaw.data.settings import TokenSettings

IGNORE_INDEX = -100
NO_TOKEN = -1
RECORDS_AT_ONCE = 8192
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


def tokenize(
    dataset: Dataset, tokenizer: Any, *, independent: bool, max_text_tokens: int = 0, skip_at_most: float = 0.0
) -> TokenTable:
    """Every record through the tokenizer's chat template, labels on answers only.

    A dialogue is cut off after max_text_tokens (0: never), its image being one. Raises UserError when there is no
    record, or naming the one in which an answer would have no label, or, of those that the cut leaves without any
    label, the first beyond the share skip_at_most, up to which they are left out.
    """
    if not dataset.records:
        raise UserError(f"{dataset.folder} holds no record; there is nothing to learn from.")
    image_token_id = tokenizer.get_vocab().get(IMAGE_PLACEHOLDER, NO_TOKEN)
    parts: list[tuple[np.ndarray, ...]] = []
    lengths, image_rows, skipped = [0], list[int](), list[str]()
    for record, document in _documents(dataset.records, tokenizer, image_token_id, independent=independent):
        ids, targets, segments = document if independent else _cut(document, max_text_tokens or None)
        if max(targets) < 0:
            skipped.append(record.id)
            _require_few_skipped(skipped, len(dataset.records), max_text_tokens, skip_at_most)
            continue
        arrays = np.array(ids, dtype=np.int32), np.array(targets, dtype=np.int32), np.array(segments, dtype=np.int16)
        parts.append(arrays)
        lengths.append(len(ids))
        image_rows.append(dataset.image_row(record) if record.image else -1)
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
        image_rows=np.array(image_rows, dtype=np.int64),
        image_token_id=image_token_id,
    )


def _documents(
    records: Sequence[Record], tokenizer: Any, image_token_id: int, *, independent: bool
) -> Iterator[tuple[Record, Document]]:
    """Each record and its document, some thousand at a time, so that memory stays small whatever their number."""
    for start in range(0, len(records), RECORDS_AT_ONCE):
        part = records[start : start + RECORDS_AT_ONCE]
        chats_of_record = [_chats(record, independent=independent) for record in part]
        # Many records ask the same; each chat is rendered and tokenized once.
        different = dict.fromkeys(chat for chats in chats_of_record for chat in chats)
        turns = dict(zip(different, _turns(different, tokenizer), strict=True))
        for record, chats in zip(part, chats_of_record, strict=True):
            own = [turns[chat] for chat in chats]
            document = (_independent if independent else _dialogue)(own)
            ids, targets, segments = document
            answered = {place for place, target in zip(segments, targets, strict=True) if target >= 0}
            if len(answered) < len(own) or any(not 0 < first < end for _, places in own for first, end in places):
                raise UserError(
                    f"record {record.id!r}: the chat template leaves an answer without a label to learn from."
                )
            _require_image_token(record, ids.count(image_token_id))
            yield record, document


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
    """The tokenizer of a folder, as its tokenizer.json has it.

    AutoTokenizer goes by the model beside it: next to a Qwen2 it makes a Qwen2Tokenizer, whatever the file says, which
    splits the miniature's words and drops the pieces.
    """
    from transformers import PreTrainedTokenizerFast

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
    if n_image_tokens != (1 if record.image else 0):
        raise UserError(
            f"record {record.id!r} has {'an image' if record.image else 'no image'}, but its text {n_image_tokens} "
            f"tokens {IMAGE_PLACEHOLDER}; the tokenizer must know that token, and the chat template keep it."
        )


Chat = tuple[str, ...]  # what user and assistant say in turn
Turn = tuple[list[int], list[tuple[int, int]]]  # a chat's tokens, and where in them each answer starts and ends


def _chats(record: Record, *, independent: bool) -> list[Chat]:
    """The record's chats: one for each question, or one dialogue."""
    pairs = list(zip(record.questions, record.answers, strict=True))
    if independent:
        return [(record.prompt(question), answer) for question, answer in pairs]
    # A dialogue shows its image once, with the first question.
    first, *later = pairs
    return [(record.prompt(first[0]), first[1], *(said for pair in later for said in pair))]


def _turns(chats: Iterable[Chat], tokenizer: Any) -> Iterator[Turn]:
    """The tokens of each chat. Raises UserError where a token holds the end of a prompt and the start of an answer."""
    render = Renderer(tokenizer)
    texts, spans_of_text = zip(*map(render, chats), strict=True)
    # One call of the (Rust) tokenizer for all: a call for each turn takes ten times as long.
    encodings = tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False).encodings
    for text, encoding, spans in zip(texts, encodings, spans_of_text, strict=True):
        places = [_tokens_within(encoding, span) for span in spans]
        for (first, end), (start, _) in zip(places, spans, strict=True):
            if first < end and encoding.offsets[first][0] < start:
                raise UserError(
                    f"the tokenizer's token {encoding.tokens[first]!r} holds the end of a prompt and the start of its "
                    f"answer in {text[:80]!r}; end the chat template's prompt with a token of its own."
                )
        yield encoding.ids, places


def _tokens_within(encoding: Any, span: tuple[int, int]) -> tuple[int, int]:
    """First token and end of those that hold the characters of a span; an empty range where there are none."""
    ends = []
    for places in (range(*span), reversed(range(*span))):
        tokens = (encoding.char_to_token(place) for place in places)  # None between tokens
        ends.append(next((token for token in tokens if token is not None), None))
    first, last = ends
    return (0, 0) if first is None or last is None else (first, last + 1)


Document = tuple[list[int], list[int], list[int]]  # ids, targets, segments


def _targets_of(turn: Turn) -> list[int]:
    """targets_T of a chat: its next token where that belongs to an answer."""
    ids, places = turn
    targets = [IGNORE_INDEX] * len(ids)
    for first, end in places:
        targets[first - 1 : end - 1] = ids[first:end]
    return targets


def _independent(turns: Sequence[Turn]) -> Document:
    """One segment for each turn, behind the longest prefix that all prompts share."""
    # The prompt's last token predicts the answer, so it is never of the prefix.
    n_prefix = _n_common([ids[: places[0][0] - 1] for ids, places in turns])
    ids = turns[0][0][:n_prefix]
    targets, segments = [IGNORE_INDEX] * n_prefix, [PREFIX] * n_prefix
    for number, turn in enumerate(turns, start=1):
        # The last token of a turn predicts nothing, so it is no input. That an answer ends is learned from one turn
        # of each record: in all of them it would be a quarter of the miniature's tokens and half of its loss.
        own = slice(n_prefix, len(turn[0]) - (1 if number == len(turns) else 2))
        ids = ids + turn[0][own]
        targets += _targets_of(turn)[own]
        segments += [number] * (len(ids) - len(segments))
    return ids, targets, segments


def _n_common(lists: Sequence[list[int]]) -> int:
    """How many first items all lists share: as many as the least and the greatest do."""
    least, greatest = min(lists), max(lists)
    return next((i for i, (a, b) in enumerate(zip(least, greatest, strict=False)) if a != b), len(least))


def _dialogue(turns: Sequence[Turn]) -> Document:
    """All turns of the one chat in one segment; its last token predicts nothing, so it is no input."""
    (turn,) = turns
    return turn[0][:-1], _targets_of(turn)[:-1], [1] * (len(turn[0]) - 1)
