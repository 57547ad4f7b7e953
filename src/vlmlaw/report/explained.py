"""Questions that explain the law, as the page shows them: who answered them, and what each V saw of the picture."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmlaw.errors import UserError
from vlmlaw.report import phrasing
from vlmlaw.report.tables import Table

MOST_BYTES = 450_000  # of the pictures' data URIs on a page, which is to stay below 3 MB
PICTURE = re.compile(r"data:image/(png|jpeg);base64,[A-Za-z0-9+/]+=*")
REASONS = {
    "larger": "The larger LLM alone answers these",
    "tokens": "More visual tokens alone answer these",
    "neither": "None of these cells answers these",
}
HOW = {
    "patches": "the patches that were kept",
    "points": "centres of what each token holds",
    "inside": "the LLM reads all patches and drops some between its layers",
    "none": "each token may read the whole picture",
}


@dataclass(frozen=True)
class View:
    """A picture as the cells of one V saw it: what is drawn over it, and who answered right.

    picture: by number, None where none was seen. width, height: of the picture in the units of what is drawn over it.
    """

    v: float
    picture: int | None
    width: int
    height: int
    lines: str  # paths of an SVG
    dimmed: str
    points: Sequence[tuple[float, float]]
    text: str
    answers: Sequence[tuple[str, bool]]  # LLM, and whether it was right


@dataclass(frozen=True)
class Explained:
    """A question with its views."""

    question: str
    answer: str
    kind: str
    views: Sequence[View]


@dataclass(frozen=True)
class Explanation:
    """The questions of every suite and reason; `pictures` by number, as data URIs."""

    sizes: tuple[str, str]
    compressor: str
    token_counts: Sequence[int]
    pictures: Sequence[str]
    suites: Mapping[str, Sequence[tuple[str, Sequence[Explained]]]]
    shares: Table


def read_explanation(path: Path) -> Explanation:
    """Read what `vlmlaw explain` wrote. Raises UserError for a file that holds anything else."""
    try:
        made = json.loads(path.read_text(encoding="utf-8"))
        cells = [(str(c["measured"]["size"]), int(c["measured"]["n_visual_tokens"])) for c in made["cells"]]
        compressor = str(made["cells"][0]["measured"]["compressor"])
        pictures = {str(name): _picture(uri) for name, uri in made["pictures"].items()}
        kept = _within(made["suites"], pictures)
        numbers = {name: number for number, name in enumerate(kept)}
        suites = {
            str(suite): [
                (
                    REASONS[reason],
                    [_explained(q, cells, numbers) for q in own["questions"][reason] if q["picture"] in kept],
                )
                for reason in REASONS
            ]
            for suite, own in made["suites"].items()
        }
        shares = _shares(made["suites"])
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise UserError(
            f"{path} holds no explained questions ({error!r}); expected what `vlmlaw explain` wrote, or leave it out."
        ) from error
    sizes = list(dict.fromkeys(size for size, _ in cells))
    token_counts = sorted({v for _, v in cells})
    return Explanation((sizes[0], sizes[-1]), compressor, token_counts, [pictures[n] for n in kept], suites, shares)


def _picture(uri: Any) -> str:
    if not (isinstance(uri, str) and PICTURE.fullmatch(uri)):
        raise ValueError(f"a picture is {str(uri)[:40]!r} where a data URI of a PNG or JPEG was expected")
    return uri


def _within(suites: Mapping[str, Any], pictures: Mapping[str, str]) -> dict[str, None]:
    """The pictures that fit on the page: the first of each suite and reason before the second of any."""
    lists = [own["questions"][reason] for own in suites.values() for reason in REASONS]
    kept: dict[str, None] = {}
    size = 0
    for place in range(max(map(len, lists), default=0)):
        for name in (own[place]["picture"] for own in lists if place < len(own)):
            if name not in kept and size + len(pictures[name]) <= MOST_BYTES:
                kept[name] = None
                size += len(pictures[name])
    return kept


def _shares(suites: Mapping[str, Any]) -> Table:
    header = ["suite", "questions", "larger LLM alone", "more tokens alone", "none of them", "all of them"]
    rows = [
        [
            str(suite),
            phrasing.whole(int(own["n_questions"])),
            *(phrasing.percent(float(own["shares"][name])) for name in (*REASONS, "all")),
        ]
        for suite, own in suites.items()
    ]
    return Table(header, rows, caption="Shares of the questions by who answers them right; the rest is mixed")


def _explained(made: Mapping[str, Any], cells: Sequence[tuple[str, int]], numbers: Mapping[str, int]) -> Explained:
    right = dict(zip(cells, map(bool, made["right"]), strict=True))
    picture = numbers[made["picture"]]
    views = [_view(int(v), seen, right, picture=picture) for v, seen in made["seen"].items()]
    return Explained(
        question=str(made["question"]),
        answer=str(made["answer"]),
        kind=str(made["kind"]),
        views=sorted(views, key=lambda view: view.v),
    )


def _view(v: int, seen: Mapping[str, Any], right: Mapping[tuple[str, int], bool], *, picture: int) -> View:
    """What is drawn over the picture: the grid of cells, all but the kept patches dimmed, or points.

    >>> seen = {"side": 2, "how": "patches", "places": [[0, 1]]}
    >>> _view(1, seen, {("7b", 1): True}, picture=0).dimmed
    'M0 0H2V2H0Z M1 0h1v1h-1z'
    """
    side, how = int(seen["side"]), str(seen["how"])
    places = [(float(row), float(column)) for row, column in seen["places"]]
    lines, dimmed, points, text = "", "", [], HOW.get(how, "")
    if how == "cells":
        n = round(len(places) ** 0.5)
        lines = grid_lines(side, side, n, n)
        text = f"{n} × {n} cells, a token each" if n > 1 else "the whole picture in one token"
    elif how == "patches":
        dimmed = f"M0 0H{side}V{side}H0Z " + " ".join(f"M{c:g} {r:g}h1v1h-1z" for r, c in places)
    elif how == "points":
        points = [(column + 0.5, row + 0.5) for row, column in places]
    elif how not in HOW:
        raise ValueError(f"tokens are seen as {how!r}; expected cells or one of {', '.join(HOW)}")
    answers = [(size, is_right) for (size, of), is_right in right.items() if of == v]
    return View(v, picture, side, side, lines, dimmed, points, text, answers)


def grid_lines(width: float, height: float, n_rows: int, n_columns: int) -> str:
    """The path of a grid of so many rows and columns over a picture.

    >>> grid_lines(4, 2, 1, 2)
    'M0 0H4 M0 2H4 M0 0V2 M2 0V2 M4 0V2'
    """
    rows = [f"M0 {height * place / n_rows:.4g}H{width:.4g}" for place in range(n_rows + 1)]
    return " ".join([*rows, *(f"M{width * place / n_columns:.4g} 0V{height:.4g}" for place in range(n_columns + 1))])
