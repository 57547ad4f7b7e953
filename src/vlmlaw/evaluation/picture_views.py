"""What visual tokens stand for in a picture: cells of a grid, patches that were kept, centres of what was merged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from vlmlaw.compressors import Compressor

if TYPE_CHECKING:
    from torch import Tensor


@contextmanager
def positions_of(compressor: Compressor) -> Iterator[list[Tensor | None]]:
    """Context manager: the positions of the tokens that the compressor makes meanwhile, one entry a call."""
    found: list[Tensor | None] = []
    method = compressor.forward_with_positions

    def watched(*args: Any, **options: Any) -> tuple[Tensor, Tensor | None]:
        made = method(*args, **options)
        found.append(made[1])
        return made

    compressor.forward_with_positions = watched  # type: ignore[method-assign]
    try:
        yield found
    finally:
        del compressor.forward_with_positions


def what_is_seen(compressor: Compressor, positions_BV2: Tensor | None = None) -> list[dict[str, Any]]:
    """What the visual tokens stand for: `side` patches a side, `how` and places (row, column) in units of patches.

    how: cells (of a regular grid), patches (that were kept), points (centres of what was merged), inside (the LLM's
    layers choose), none (a token stands for no place). One entry for each row of `positions_BV2`, which a compressor
    whose choice depends on the image has made; else one.

    >>> from vlmlaw.compressors import build_compressor
    >>> what_is_seen(build_compressor("average", 4, 8, 4))
    [{'side': 4, 'how': 'cells', 'places': [[0.5, 0.5], [0.5, 2.5], [2.5, 0.5], [2.5, 2.5]]}]
    """
    side = compressor.grid_side
    if compressor.inside_llm:
        return [{"side": side, "how": "inside", "places": []}]
    if positions_BV2 is None:
        own = compressor.positions
        if own is None:
            return [{"side": side, "how": "none", "places": []}]
        how = "cells" if _is_regular(own.numpy(), side) else "points"
        return [{"side": side, "how": how, "places": _rounded(own)}]
    whole = bool((positions_BV2 == positions_BV2.round()).all())
    how = "patches" if whole else "points"
    return [{"side": side, "how": how, "places": _rounded(places)} for places in positions_BV2.cpu()]


def _is_regular(places_V2: np.ndarray, side: int) -> bool:
    """Whether the places are the centres of equal squares that cover the picture, row by row."""
    n = round(len(places_V2) ** 0.5)
    centres = (np.arange(n) + 0.5) * side / n - 0.5
    return n * n == len(places_V2) and np.allclose(places_V2, np.array([(r, c) for r in centres for c in centres]))


def _rounded(places_V2: Tensor) -> list[list[float]]:
    return [[round(float(x), 2) for x in place] for place in places_V2]
