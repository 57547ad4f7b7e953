"""Questions of the test split that explain the law: right only in larger models, only with more tokens, in none.

A few cells at the corners of the grid answer the same questions again; those that tell size and tokens apart are kept
with their pictures, and with what each number of visual tokens stands for in them.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vlmlaw.compressors import Compressor
from vlmlaw.data.shards import Dataset
from vlmlaw.evaluation.settings import ON_A_CPU
from vlmlaw.evaluation.test_split import judge
from vlmlaw.runtime.whole_files import whole_file
from vlmlaw.tokens.subset import subset
from vlmlaw.tokens.token_table import TokenTable
from vlmlaw.vlm.images import open_images
from vlmlaw.vlm.load import load_cell

if TYPE_CHECKING:
    from torch import Tensor

    from vlmlaw.evaluation.settings import ExplainedCell, ExplainPlan

MOST_PIXELS = 224  # a side of a picture on the page
LOSSLESS_PIXELS = 128  # up to which it is kept as it is
REASONS = {
    "larger": "answered by the larger LLM alone",
    "tokens": "answered with more visual tokens alone",
    "neither": "answered by none of these cells",
}


def explain(cells: Path, dataset: Path, tokens: Path, images: Path, out: Path, *, plan: ExplainPlan) -> None:
    """Judge the cells of the plan, models in the folder `cells`, and write the questions that explain to `out` (JSON).

    Of the test split `plan.records` records are asked, spread over it, of every suite.
    """
    table, data = TokenTable.load(tokens), Dataset(dataset)
    asked = np.flatnonzero([record.image is not None for record in data.records])
    asked = asked[np.unique(np.linspace(0, len(asked) - 1, min(plan.records, len(asked))).round().astype(int))]
    right = pd.concat([_right(cells, cell, table, images, asked) for cell in plan.cells], axis=1)
    right.columns = range(len(plan.cells))
    reasons = _reasons(right, plan.cells)
    suites = pd.Series([data.records[record].suite for record, _ in right.index], index=right.index)
    chosen = {
        suite: {reason: _chosen(reasons[own.index][reasons == reason].index, data, plan.n) for reason in REASONS}
        for suite, own in suites.groupby(suites)
    }
    records = sorted({record for by_reason in chosen.values() for own in by_reason.values() for record, _ in own})
    seen = _seen(cells, plan.cells, table, images, records)
    made = {
        "cells": [asdict(cell) for cell in plan.cells],
        "pictures": {str(record): _picture(data.image(data.image_row(data.records[record]))) for record in records},
        "suites": {
            suite: {
                "n_questions": int((suites == suite).sum()),
                "errors": [float(x) for x in 1 - right[suites == suite].mean()],
                "shares": {name: float((reasons[suites == suite] == name).mean()) for name in (*REASONS, "all")},
                "questions": {
                    reason: [_question(data, key, right, seen) for key in own] for reason, own in by_reason.items()
                },
            }
            for suite, by_reason in chosen.items()
        },
    }
    with whole_file(out) as partial:
        partial.write_text(json.dumps(made), encoding="utf-8")


def _right(folder: Path, cell: ExplainedCell, table: TokenTable, images: Path, records: np.ndarray) -> pd.Series:
    """Whether the cell answers each question of these records right, by (record, question)."""
    vlm, words = load_cell(folder / cell.training / "model", cell=cell.measured)
    images_of = open_images(images, layers=vlm.config.feature_layers, image_px=vlm.config.vision_config.image_size)
    judged = judge(vlm, subset(table, records), images_of, batch_size=ON_A_CPU, pad_id=words.pad_token_id)
    index = pd.MultiIndex.from_arrays([records[judged.record.to_numpy(dtype=int)], judged.question])
    return pd.Series(judged.right.to_numpy(dtype=bool), index=index)


def _reasons(right: pd.DataFrame, cells: Sequence[ExplainedCell]) -> pd.Series:
    """What each question shows: larger, tokens, neither, all, or nothing ("")."""
    is_large = np.array([cell.is_largest for cell in cells])
    v = np.array([cell.measured.n_visual_tokens for cell in cells])
    few, many = v == v.min(), v == v.max()
    right_QC = right.to_numpy(dtype=bool)

    def wrong(of: np.ndarray) -> np.ndarray:
        return ~right_QC[:, of].any(axis=1)

    def good(of: np.ndarray) -> np.ndarray:
        return right_QC[:, of].all(axis=1)

    every = np.ones(len(cells), dtype=bool)
    conditions = [good(is_large) & wrong(~is_large), good(many) & wrong(few), wrong(every), good(every)]
    return pd.Series(np.select(conditions, [*REASONS, "all"], default=""), index=right.index)


def _chosen(places: Any, data: Dataset, n: int) -> list[tuple[int, int]]:
    """Up to `n` of these questions, of other kinds and other pictures where there are any."""
    left = [(int(record), int(question)) for record, question in places]
    found: list[tuple[int, int]] = []
    kinds: dict[str, int] = {}
    while left and len(found) < n:
        best = min(left, key=lambda key: (kinds.get(_kind(data, key), 0), key[0] in {record for record, _ in found}))
        left.remove(best)
        found.append(best)
        kinds[_kind(data, best)] = kinds.get(_kind(data, best), 0) + 1
    return found


def _kind(data: Dataset, key: tuple[int, int]) -> str:
    kinds = data.records[key[0]].kinds
    return kinds[key[1]] if kinds else ""


def _question(data: Dataset, key: tuple[int, int], right: pd.DataFrame, seen: Mapping[Any, Any]) -> dict[str, Any]:
    record = data.records[key[0]]
    return {
        "picture": str(key[0]),
        "question": record.questions[key[1]],
        "answer": record.answers[key[1]],
        "kind": _kind(data, key),
        "right": [bool(x) for x in right.loc[key]],
        "seen": {str(v): places[min(key[1], len(places) - 1)] for v, places in seen[key[0]].items()},
    }


# --------------------------------------------------------------------------- what the model saw


def _seen(
    folder: Path, cells: Sequence[ExplainedCell], table: TokenTable, images: Path, records: Sequence[int]
) -> dict[int, dict[int, list[dict[str, Any]]]]:
    """What the visual tokens stand for in each record's picture, by V, for each of its questions (or once for all)."""
    found: dict[int, dict[int, list[dict[str, Any]]]] = {record: {} for record in records}
    for cell in (cell for cell in cells if cell.is_largest and records):
        vlm, words = load_cell(folder / cell.training / "model", cell=cell.measured)
        images_of = open_images(images, layers=vlm.config.feature_layers, image_px=vlm.config.vision_config.image_size)
        for record in records:
            places: list[Any] = []
            if vlm.compressor.moves_with_content:
                with _positions_of(vlm.compressor) as places:
                    judge(vlm, subset(table, np.array([record])), images_of, batch_size=1, pad_id=words.pad_token_id)
            found[record][cell.measured.n_visual_tokens] = what_is_seen(vlm.compressor, places[0] if places else None)
    return found


@contextmanager
def _positions_of(compressor: Compressor) -> Iterator[list[Tensor | None]]:
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


def _picture(pixels_HWC: np.ndarray) -> str:
    """A picture as a data URI: as it is where it is small, else smaller and as a JPEG."""
    from PIL import Image

    image, buffer = Image.fromarray(pixels_HWC), io.BytesIO()
    kind = "png" if max(image.size) <= LOSSLESS_PIXELS else "jpeg"
    image.thumbnail((MOST_PIXELS, MOST_PIXELS))
    options: dict[str, Any] = {"optimize": True} if kind == "png" else {"quality": 80}
    image.save(buffer, format=kind.upper(), **options)
    return f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode()
