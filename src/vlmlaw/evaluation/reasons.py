"""What a question shows when several cells answered it: that the larger LLM helps, that more tokens do, or neither."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

import numpy as np

REASONS = {
    "larger": "answered by the larger LLM alone",
    "tokens": "answered with more visual tokens alone",
    "neither": "answered by none of these cells",
}
Item = TypeVar("Item")


def reasons_of(right_QC: np.ndarray, *, is_large: Sequence[bool], v: Sequence[float]) -> np.ndarray:
    """What each question shows: one of REASONS, "all" where every cell is right, or nothing ("").

    right_QC: whether each cell was right. is_large, v: of each cell whether its LLM is the larger one, and its visual
    tokens. Cells of one LLM, or of one V, cannot show that the other would help.

    >>> right = np.array([[0, 0, 1, 1], [0, 1, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 1, 1]])
    >>> reasons_of(right, is_large=[False, False, True, True], v=[1, 64, 1, 64]).tolist()
    ['larger', 'tokens', 'neither', 'all', '']
    """
    right, large, tokens = right_QC.astype(bool), np.asarray(is_large, dtype=bool), np.asarray(v, dtype=float)
    few, many = tokens == tokens.min(), tokens == tokens.max()

    def wrong(of: np.ndarray) -> np.ndarray:
        return np.asarray(~right[:, of].any(axis=1))

    def good(of: np.ndarray) -> np.ndarray:
        return np.asarray(right[:, of].all(axis=1) & of.any())

    every = np.ones(len(large), dtype=bool)
    two_sizes = large.any() and not large.all()
    conditions = [good(large) & wrong(~large) & two_sizes, good(many) & wrong(few), wrong(every), good(every)]
    return np.select(conditions, [*REASONS, "all"], default="")


def varied(
    items: Sequence[Item], n: int, *, kind: Callable[[Item], Hashable], picture: Callable[[Item], Hashable]
) -> list[Item]:
    """Up to `n` of these questions, of other kinds and other pictures where there are any.

    >>> varied(["a1", "a1", "b1", "b2"], 2, kind=lambda x: x[0], picture=lambda x: x[1])
    ['a1', 'b2']
    """
    left, found = list(items), list[Item]()
    kinds, shown = dict[Hashable, int](), set[Hashable]()
    while left and len(found) < n:
        place = min(range(len(left)), key=lambda i: (kinds.get(kind(left[i]), 0), picture(left[i]) in shown))
        best = left.pop(place)
        found.append(best)
        kinds[kind(best)] = kinds.get(kind(best), 0) + 1
        shown.add(picture(best))
    return found
