"""Select records of a token table, and hold some out of a training for validation.

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

HELD_OUT_SEED = 0  # so that every cell holds out the same records, whatever its own seed


def subset(table: TokenTable, records: np.ndarray) -> TokenTable:
    """Return a table of these records, in this order."""
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
    """Split off `n_records` random records: (the rest, these). Raises UserError if no record would be left."""
    if n_records >= len(table):
        raise UserError(
            f"{source} has {len(table)} records, and validation.records would hold out {n_records}; hold out fewer."
        )
    drawn = np.random.default_rng(HELD_OUT_SEED).permutation(len(table))[:n_records]
    kept = np.setdiff1d(np.arange(len(table)), drawn)
    return subset(table, kept), subset(table, np.sort(drawn))


def starts_of(lengths: np.ndarray) -> np.ndarray:
    """Start offset of each entry, given their lengths, and the end of the last."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _entries(starts: np.ndarray, records: np.ndarray) -> np.ndarray:
    """Indices of all entries of these records, record by record."""
    lengths = np.diff(starts)[records]
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return np.repeat(starts[:-1][records], lengths) + within
