"""Questions that tell released models and visual tokens apart, as the page of a measurement shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from vlmlaw.evaluation.measuring.explained import Compared, Seen, Shown
from vlmlaw.report import phrasing
from vlmlaw.report.explained import MOST_BYTES, Explained, View, grid_lines
from vlmlaw.report.tables import Table

MOST_CELLS = 300  # of a grid that is drawn; under more lines the picture could not be seen
REASONS = {
    "larger": "The larger model alone answers these",
    "tokens": "More visual tokens alone answer these",
    "neither": "None of these cells answers these",
}


@dataclass(frozen=True)
class Group:
    """The questions of the models of a family, or of one model, by reason; `how` says who was compared at which V."""

    title: str
    how: str
    reasons: Sequence[tuple[str, Sequence[Explained]]]
    shares: Table


def explained_groups(found: Sequence[Compared]) -> tuple[list[Group], list[str]]:
    """The groups, and the pictures that their views name by number: those that fit on the page."""
    numbers = {uri: number for number, uri in enumerate(_within(found))}
    return [_group(one, numbers) for one in found], [*numbers]


def _within(found: Sequence[Compared]) -> list[str]:
    """The pictures of the first question of each reason before those of the second of any, up to MOST_BYTES."""
    kept: dict[str, None] = {}
    for turn in zip_longest(*(shown for one in found for shown in one.questions.values())):
        for question in filter(None, turn):
            new = [seen.picture for seen in question.seen if seen.picture and seen.picture not in kept]
            if sum(map(len, [*kept, *new])) <= MOST_BYTES:
                kept |= dict.fromkeys(new)
    return [*kept]


def _group(one: Compared, numbers: Mapping[str, int]) -> Group:
    several = len(one.models) > 1
    reasons = [
        (text, [_explained(q, numbers) for q in one.questions[name] if _fits(q, numbers)])
        for name, text in REASONS.items()
        if name != "larger" or several
    ]
    return Group(" and ".join(one.models), _how(one), reasons, _shares(one, several=several))


def _fits(question: Shown, numbers: Mapping[str, int]) -> bool:
    return all(not seen.picture or seen.picture in numbers for seen in question.seen)


def _how(one: Compared) -> str:
    """Who was compared at which V, and what counts as what."""
    asked = f"asked at V = {phrasing.listed([*one.budgets])}" + (
        " (V = 0 is the question without its image)" if "0" in one.budgets else ""
    )
    if len(one.models) == 1:
        return (
            f"{one.models[0]}, {asked}. A question counts for more tokens where it is right at the most and wrong at "
            "the fewest."
        )
    return (
        f"{one.models[0]} is the smaller model and {one.models[1]} the larger one, both {asked}. A question counts for "
        "the larger model where it is right at every one of these V and the smaller one at none; for more tokens where "
        "both are right at the most and wrong at the fewest."
    )


def _shares(one: Compared, *, several: bool) -> Table:
    names = ["larger", "tokens", "neither", "all"] if several else ["tokens", "neither", "all"]
    words = {"larger": "larger model alone", "tokens": "more tokens alone", "neither": "none of them"}
    header = ["questions on one image", *(words.get(name, "all of them") for name in names)]
    row = [phrasing.whole(one.n_questions), *(phrasing.percent(one.shares[name]) for name in names)]
    return Table(header, [row], caption="Shares of the questions by which cells answer them; the rest is mixed")


def _explained(shown: Shown, numbers: Mapping[str, int]) -> Explained:
    views = [_view(seen, numbers) for seen in shown.seen]
    return Explained(question=shown.question, answer=shown.answer, kind=shown.kind, views=views)


def _view(seen: Seen, numbers: Mapping[str, int]) -> View:
    """What is drawn over the image: the cells of its grid, a token each, where they are known and few enough."""
    text, lines = "without the image", ""
    if seen.picture:
        text = f"{seen.width} × {seen.height} px"
    if seen.rows:
        text += f", {seen.columns} × {seen.rows} cells, a token each"
    if 0 < seen.rows * seen.columns <= MOST_CELLS:
        lines = grid_lines(seen.width, seen.height, seen.rows, seen.columns)
    return View(
        v=seen.n_visual_tokens,
        picture=numbers[seen.picture] if seen.picture else None,
        width=seen.width,
        height=seen.height,
        lines=lines,
        dimmed="",
        points=(),
        text=text,
        answers=list(seen.right.items()),
    )
