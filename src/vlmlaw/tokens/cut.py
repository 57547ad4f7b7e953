"""Truncate dialogues where visual and text tokens together reach a limit, as LLaVA does in training.

R records, T tokens.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vlmlaw.errors import UserError
from vlmlaw.tokens.subset import starts_of
from vlmlaw.tokens.token_table import PREFIX

if TYPE_CHECKING:
    from vlmlaw.tokens.token_table import TokenTable


def cut_off(table: TokenTable, max_tokens: int, *, each: int, source: Path) -> TokenTable:
    """Keep the first `max_tokens` tokens of every record; an image takes `each` tokens and is kept whole or dropped.

    Images after the cut are not shown, and records with no label before it are left out. Raises UserError if no record
    is left, or if several questions share one image (the miniature's tables), which are not dialogues.
    """
    if (table.segments != PREFIX + 1).any():
        raise UserError(f"{source} has questions that share an image; max_tokens cuts dialogues only. Leave it out.")
    n_records, is_image_T = len(table), table.ids == table.image_token_id
    record_T = np.repeat(np.arange(n_records), np.diff(table.starts))
    ends_T = np.cumsum(np.where(is_image_T, each, 1))
    before_R = np.concatenate([[0], ends_T])[table.starts[:-1]]
    kept_T = ends_T - before_R[record_T] <= max_tokens
    labels_R = np.bincount(record_T[kept_T & (table.targets >= 0)], minlength=n_records)
    kept_R = labels_R > 0
    if not kept_R.any():
        raise UserError(
            f"no record of {source} has a label within {max_tokens} tokens, {each} for an image; allow more."
        )
    kept_T &= kept_R[record_T]
    n_tokens_R = np.bincount(record_T[kept_T], minlength=n_records)[kept_R]
    n_images_R = np.bincount(record_T[kept_T & is_image_T], minlength=n_records)
    images = _first(table.image_starts, n_images_R)
    asked = _first(table.question_rows, n_images_R)  # a dialogue has one entry per image
    in_asked = [slice(*table.question_starts[entry : entry + 2]) for entry in asked]
    return replace(
        table,
        ids=table.ids[kept_T],
        targets=table.targets[kept_T],
        segments=table.segments[kept_T],
        starts=starts_of(n_tokens_R),
        shown_images=table.shown_images[images],
        image_starts=starts_of(n_images_R[kept_R]),
        question_ids=np.concatenate([table.question_ids[:0], *(table.question_ids[own] for own in in_asked)]),
        question_starts=starts_of(np.diff(table.question_starts)[asked]),
        question_rows=starts_of(np.minimum(np.diff(table.question_rows), n_images_R)[kept_R]),
    )


def _first(starts: np.ndarray, n_first_R: np.ndarray) -> np.ndarray:
    """Indices of the first `n_first_R` entries of each record, or of all that it has if they are fewer."""
    n_first_R = np.minimum(n_first_R, np.diff(starts))
    within = np.arange(n_first_R.sum()) - np.repeat(np.cumsum(n_first_R) - n_first_R, n_first_R)
    return np.repeat(starts[:-1], n_first_R) + within
