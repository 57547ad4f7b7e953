"""Some records of a token table as a table of their own, and those that are held out of a training.

R records, T tokens.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vlmlaw.errors import UserError

if TYPE_CHECKING:
    from vlmlaw.tokens.token_table import TokenTable

HELD_OUT_SEED = 0  # for every cell the same records, whatever its own seed


def subset(table: TokenTable, records: np.ndarray) -> TokenTable:
    """The table of these records, in this order."""
    tokens = _entries(table.starts, records)
    images = _entries(table.image_starts, records)
    asked = _entries(table.question_rows, records)
    return replace(
        table,
        ids=table.ids[tokens],
        targets=table.targets[tokens],
        segments=table.segments[tokens],
        starts=starts_of(np.diff(table.starts)[records]),
        shown_images=table.shown_images[images],
        image_starts=starts_of(np.diff(table.image_starts)[records]),
        question_ids=table.question_ids[_entries(table.question_starts, asked)],
        question_starts=starts_of(np.diff(table.question_starts)[asked]),
        question_rows=starts_of(np.diff(table.question_rows)[records]),
    )


def held_out(table: TokenTable, n_records: int, *, source: Path) -> tuple[TokenTable, TokenTable]:
    """The table without `n_records` drawn ones, and the table of these. Raises UserError where none would be left."""
    if n_records >= len(table):
        raise UserError(
            f"{source} has {len(table)} records, and validation.records would hold out {n_records}; hold out fewer."
        )
    drawn = np.random.default_rng(HELD_OUT_SEED).permutation(len(table))[:n_records]
    kept = np.setdiff1d(np.arange(len(table)), drawn)
    return subset(table, kept), subset(table, np.sort(drawn))


def starts_of(lengths: np.ndarray) -> np.ndarray:
    """Where each of so long entries starts, and where the last ends."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _entries(starts: np.ndarray, records: np.ndarray) -> np.ndarray:
    """The indices of these records' entries, one record's after another's."""
    lengths = np.diff(starts)[records]
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return np.repeat(starts[:-1][records], lengths) + within
