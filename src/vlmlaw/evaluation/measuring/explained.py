"""Questions that tell models and visual tokens apart: right in the larger model alone, with more tokens alone, in none.

Within a family its smallest and its largest model are compared, each at the fewest and the most visual tokens and one
number between them. A question is shown with its image as the cell's model was sent it, so that what is lost at a
small V can be seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from PIL import Image

from vlmlaw.evaluation.backends.families import FAMILIES, PatchGrid, family_in
from vlmlaw.evaluation.backends.interface import Reply, budget_text
from vlmlaw.evaluation.measuring.cells import Cell, Model
from vlmlaw.evaluation.measuring.judge import MARKERS
from vlmlaw.evaluation.metrics import Question
from vlmlaw.evaluation.reasons import REASONS, reasons_of, varied
from vlmlaw.evaluation.thumbnail import picture_uri

EACH = 2  # questions of a reason
RIGHT = 0.5  # of what a question can lose, below which a reply counts as right


@dataclass(frozen=True)
class Seen:
    """The image of a question at a budget, and which models were right there.

    picture: a data URI, "" at V = 0. height, width: pixels as the model was sent it. rows, columns: of the grid whose
    cells are a token each; 0 where the family's rule does not say, or says another number than was counted.
    """

    budget: str
    n_visual_tokens: float
    picture: str
    height: int
    width: int
    rows: int
    columns: int
    right: Mapping[str, bool]


@dataclass(frozen=True)
class Shown:
    """A question that explains, and what it was at each budget, the fewest tokens first."""

    question: str
    answer: str
    kind: str
    seen: Sequence[Seen]


@dataclass(frozen=True)
class Compared:
    """Models of a family, the smaller first (or one alone), compared question by question at these budgets.

    shares: of all questions on one image, by what they show; questions: some of each of REASONS.
    """

    models: tuple[str, ...]
    budgets: tuple[str, ...]
    n_questions: int
    shares: Mapping[str, float]
    questions: Mapping[str, Sequence[Shown]]


def compared(
    judged: pd.DataFrame,
    cells: Sequence[Cell],
    questions: Sequence[Question],
    replies: Mapping[str, Mapping[str, Reply]],
    *,
    read_image: Callable[[str], np.ndarray],
) -> list[Compared]:
    """Compare the models of each family, or one alone, where they were asked at two budgets of visual tokens or more.

    judged: rows of whole cells, as `judged_rows` makes them; replies: by cell and question.
    """
    on_one_image = {q.id: q for q in questions if len(q.images) == 1}
    rows = judged[judged.question.isin([*on_one_image])]
    there = [cell for cell in cells if cell.name in set(rows.cell)]
    source, found = _Source(rows, on_one_image, replies, read_image), []
    for models in _pairs([cell.model for cell in there]):
        budgets = _budgets(rows, models)
        if len(budgets) > 1:
            own = {(cell.model, budget_text(cell.budget)): cell for cell in there}
            found.append(_compared(source, [own[model, budget] for model in models for budget in budgets], budgets))
    return found


@dataclass(frozen=True, eq=False)
class _Source:
    """What a measurement has of its questions: judged rows, the questions by id, replies by cell and id, images."""

    rows: pd.DataFrame
    questions: Mapping[str, Question]
    replies: Mapping[str, Mapping[str, Reply]]
    read_image: Callable[[str], np.ndarray]


def _pairs(models: Sequence[Model]) -> list[tuple[Model, ...]]:
    """The smallest and the largest model of each family; a model without a known size or another one by itself."""
    by_law: dict[str, list[Model]] = {}
    for model in dict.fromkeys(models):
        alone = not model.family or model.n_params is None
        by_law.setdefault(f"={model.name}" if alone else model.law, []).append(model)
    ordered = [sorted(own, key=lambda model: model.n_params or 0) for own in by_law.values()]
    return [(own[0],) if own[0].n_params == own[-1].n_params else (own[0], own[-1]) for own in ordered]


def _budgets(rows: pd.DataFrame, models: Sequence[Model]) -> list[str]:
    """The fewest and the most tokens that all of these models were asked at, and one between; 0 where there is one."""
    own = rows[rows.model.isin([model.name for model in models])]
    common = [b for b, of in own.groupby("budget", sort=False) if of.model.nunique() == len(models)]
    v = own.groupby("budget").n_visual_tokens.mean().fillna(math.inf)  # an uncounted one is the model's own
    ordered = sorted((str(b) for b in common if b != "0"), key=lambda b: float(v[b]))
    if len(ordered) == 1 and "0" in common:
        return ["0", *ordered]
    return ordered if len(ordered) < 4 else [ordered[0], ordered[len(ordered) // 2], ordered[-1]]


def _compared(source: _Source, cells: Sequence[Cell], budgets: Sequence[str]) -> Compared:
    """The comparison of these cells: those of the smaller model by budget, then those of the larger one."""
    models = list(dict.fromkeys(cell.model for cell in cells))
    right = source.rows.pivot(index="question", columns="cell", values="lost")[[cell.name for cell in cells]].lt(RIGHT)
    is_large = [cell.model == models[-1] and len(models) > 1 for cell in cells]
    place = [budgets.index(budget_text(cell.budget)) for cell in cells]
    reasons = reasons_of(right.to_numpy(), is_large=is_large, v=place)
    shown = {}
    for reason in REASONS:
        own = [source.questions[name] for name in right.index[reasons == reason]]
        chosen = varied(own, EACH, kind=lambda question: question.kind, picture=lambda question: question.image)
        shown[reason] = [_shown(source, question, cells, budgets, right.loc[question.id]) for question in chosen]
    shares = {name: float((reasons == name).mean()) for name in (*REASONS, "all")}
    return Compared(tuple(model.name for model in models), tuple(budgets), len(right), shares, shown)


def _shown(
    source: _Source, question: Question, cells: Sequence[Cell], budgets: Sequence[str], right: pd.Series
) -> Shown:
    seen = []
    for budget in budgets:
        own = [cell for cell in cells if budget_text(cell.budget) == budget]
        seen.append(_seen(source, question, own[-1], {cell.model.name: bool(right[cell.name]) for cell in own}))
    return Shown("; ".join([question.text, *question.options]), question.answers[0], question.kind, seen)


def _seen(source: _Source, question: Question, cell: Cell, right: Mapping[str, bool]) -> Seen:
    """The image as the model of this cell was sent it."""
    budget = budget_text(cell.budget)
    if cell.budget == 0 or question.image is None:
        return Seen(budget, 0.0, "", 0, 0, 0, 0, right)
    rows = source.rows
    (v,) = rows[(rows.cell == cell.name) & (rows.question == question.id)].n_visual_tokens
    image = Image.fromarray(source.read_image(question.image))
    sizes = source.replies[cell.name][question.id].sizes
    (height, width), grid = _grid(cell, sizes[0] if sizes else (image.height, image.width), float(v))
    if (width, height) != image.size:
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    return Seen(budget, float(v), picture_uri(np.asarray(image)), height, width, *grid, right)


def _grid(cell: Cell, size: tuple[int, int], v: float) -> tuple[tuple[int, int], tuple[int, int]]:
    """Height and width that the family's rule makes of an image as sent, and its grid, where that is what was counted.

    A model that is loaded here gets the image as it is, and its processor makes it smaller by the same rule.
    """
    family = FAMILIES.get(cell.model.family) or FAMILIES.get(family_in(cell.model.family))
    if not isinstance(family, PatchGrid) or cell.model.is_compressed:
        return size, (0, 0)
    try:
        height, width = family.resized(*size, cell.budget)
    except ValueError:  # an image too long and narrow for the rule
        return size, (0, 0)
    grid = family.grid(height, width)
    if not abs(math.prod(grid) - v) <= MARKERS:
        return size, (0, 0)
    return (height, width), grid
