"""Tables with one size, or one number of visual tokens: the error along the other axis, and where gains end.

Such a table has no rho. Four curves in the logarithm of the axis are compared by AICc: flat, a straight line, a plateau
(a line that ends where nothing more is gained) and a peak (a best place inside the range), and for reading a sigmoid.
All are on the logit scale but the sigmoid, which goes from one error to another.
Source: Burnham and Anderson 2002, 2.4, for the choice; Muggeo 2003, Statistics in Medicine 22(19), for broken lines.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.optimize import least_squares
from scipy.special import expit, logit

from vlmlaw.errors import UserError
from vlmlaw.laws.cells import Array, Cells, format_size
from vlmlaw.laws.statistics import student_t

MIN_PLACES = 3
QUESTIONS = 200.0  # of a benchmark whose size is not known
PARSIMONY = 2.0


@dataclass(frozen=True)
class Curve:
    """The error along one axis, with the curve that was chosen.

    axis: "N" or "V"; at: the one value of the other. best: the measured place of least predicted error; inside: whether
    the curve bends up again behind it, which the interval of the bend shows. flat_from: the first measured place from
    which on no gain is left that `questions` questions could show.
    """

    axis: str
    at: float
    law: str
    formula: str
    n_cells: int
    sigma: float
    best: float
    inside: bool
    flat_from: float
    questions: float
    delta: dict[str, float]
    cells: list[dict[str, float]]
    sentence: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


# name -> formula, parameters, error at x (the logarithm of the axis, from 0 to 1 over its range)
CURVES: dict[str, tuple[str, int, Callable[[Array, Array], Array]]] = {
    "flat": ("logit(1 - error) = c0", 1, lambda p, x: expit(-p[0] - 0 * x)),
    "line": ("logit(1 - error) = c0 + b x", 2, lambda p, x: expit(-p[0] - p[1] * x)),
    "plateau": ("logit(1 - error) = c0 + b min(x, x0)", 3, lambda p, x: expit(-p[0] - p[1] * np.minimum(x, p[2]))),
    "peak": ("logit(1 - error) = c0 + b x - q x^2", 3, lambda p, x: expit(-p[0] - p[1] * x + p[2] * x**2)),
    "sigmoid": (
        "error = low + (high - low) expit(-k (x - x0))",
        4,
        lambda p, x: p[0] + (p[1] - p[0]) * expit(-p[2] * (x - p[3])),
    ),
}


def along_one_axis(cells: Cells, *, questions: float = float("nan"), level: float = 0.95) -> Curve:
    """Describe the error of cells that all have one N, or all one V.

    questions: how many questions a cell was asked, which bounds what could be shown; 200 if it is not known. Raises
    UserError unless the cells lie along one axis at three places or more.

    >>> v = [1, 4, 9, 16, 36, 64, 144, 256, 576]
    >>> error = [0.61, 0.55, 0.521, 0.5, 0.471, 0.451, 0.45, 0.451, 0.45]
    >>> curve = along_one_axis(Cells.of([7] * 9, v, error), questions=5000)
    >>> curve.law, curve.flat_from
    ('plateau', 36.0)
    """
    axis, places, at = _axis(cells)
    x = np.log(places)
    low, width = x.min(), np.ptp(x)
    x = (x - low) / width
    n_questions = questions if np.isfinite(questions) and questions > 0 else QUESTIONS
    fits, scores = _scored(x, cells, questions=questions, level=level)
    if len(scores) > 1 and _has_slope(fits, len(cells), n_questions, level):
        scores["flat"] = np.inf
    least = min(scores.values())
    close = [name for name in scores if scores[name] - least <= PARSIMONY]
    chosen = min(close, key=lambda name: (CURVES[name][1], scores[name]))
    theta, sse = fits[chosen]
    formula, n_parameters, of = CURVES[chosen]
    distinct = np.unique(places)
    predicted = of(theta, (np.log(distinct) - low) / width)
    best = float(distinct[int(np.argmin(predicted))])
    shown = _detectable(float(predicted.min()), n_questions, level)
    enough = np.array([predicted[i:].max() - predicted.min() <= shown for i in range(len(distinct))])
    flat_from = float(distinct[int(np.argmax(enough))])
    inside = chosen == "peak" and distinct[0] < best < distinct[-1] and theta[2] > 0
    return Curve(
        axis=axis,
        at=at,
        law=chosen,
        formula=formula,
        n_cells=len(cells),
        sigma=float(np.sqrt(sse / max(len(cells) - n_parameters, 1))),
        best=best,
        inside=bool(inside),
        flat_from=flat_from,
        questions=n_questions,
        delta={name: float(score - least) for name, score in scores.items() if np.isfinite(score)},
        cells=[
            {axis: float(place), "error": float(error), "predicted": float(value)}
            for place, error, value in zip(places, cells.error, of(theta, x), strict=True)
        ],
        sentence=_sentence(axis, at, distinct, chosen, best=best, inside=bool(inside), flat=flat_from, asked=questions),
    )


def _scored(
    x: Array, cells: Cells, *, questions: float, level: float
) -> tuple[dict[str, tuple[Array, float]], dict[str, float]]:
    """The curves that so many cells can tell apart, fitted, and their scores: the lower, the better.

    Where it is known how many questions were asked, and their noise is as large as what the best curve leaves, curves
    are judged by it (AIC of known variance). Else the noise comes from the cells, whose number then counts (AICc); of
    three or four cells only a slope is asked.
    """
    n = len(cells)
    if np.isfinite(questions) and questions > 0:
        fits = {name: _fit(name, x, cells) for name, (_, k, _) in CURVES.items() if n > k}
        error = np.clip(cells.error, 0.01, 0.99)
        variance = float(np.mean(error * (1 - error))) / questions
        chi_square = {name: sse / variance for name, (_, sse) in fits.items()}
        if n > 4 and min(chi_square.values()) <= n + 2 * np.sqrt(2 * n):
            return fits, {name: value + 2 * CURVES[name][1] for name, value in chi_square.items()}
    scored = [name for name, (_, k, _) in CURVES.items() if n > k + 2]  # what AICc is defined for
    if "line" in scored:
        fits = {name: _fit(name, x, cells) for name in scored}
        return fits, {name: _aicc(sse, n, CURVES[name][1]) for name, (_, sse) in fits.items()}
    fits = {name: _fit(name, x, cells) for name in ("flat", "line")}
    shown = _has_slope(fits, n, questions if np.isfinite(questions) and questions > 0 else QUESTIONS, level)
    return fits, {"line": 0.0} if shown else {"flat": 0.0}


def _has_slope(fits: dict[str, tuple[Array, float]], n: int, questions: float, level: float) -> bool:
    """Whether a line shows a slope: beyond the noise about it, or beyond what so many questions leave open."""
    ends = CURVES["line"][2](fits["line"][0], np.array([0.0, 1.0]))
    steep = abs(ends[0] - ends[1]) > _detectable(float(ends.min()), questions, level)
    return bool(steep or _slope_is_shown(fits["flat"][1], fits["line"][1], n, level))


def _axis(cells: Cells) -> tuple[str, Array, float]:
    if cells.sizes.size == 1 and cells.token_counts.size >= MIN_PLACES:
        return "V", cells.v, float(cells.sizes[0])
    if cells.token_counts.size == 1 and cells.sizes.size >= MIN_PLACES:
        return "N", cells.n, float(cells.token_counts[0])
    raise UserError(
        f"{cells.sizes.size} sizes, {cells.token_counts.size} token counts: no curve along one axis; expected one "
        f"size with {MIN_PLACES} token counts or more, or one token count with {MIN_PLACES} sizes or more"
    )


def _fit(name: str, x: Array, cells: Cells) -> tuple[Array, float]:
    """Parameters and sum of squares of a curve: the best of local searches from several starts."""
    _, _, of = CURVES[name]
    error, root = cells.error, np.sqrt(cells.weight)
    eta = logit(np.clip(1 - error, 1e-4, 1 - 1e-4))
    slope, middle = np.polyfit(x, eta, 1)
    square = np.polyfit(x, eta, 2)
    starts = {
        "flat": [[eta.mean()]],
        "line": [[middle, slope]],
        "plateau": [[eta.min(), np.ptp(eta) / t, t] for t in (0.2, 0.4, 0.6, 0.8)],
        "peak": [[square[2], square[1], -square[0]]],
        "sigmoid": [[error.min(), error.max(), k, t] for k in (6.0, 20.0) for t in (0.3, 0.5, 0.7)],
    }[name]
    found = [least_squares(lambda p: root * (of(p, x) - error), start, method="trf", max_nfev=200) for start in starts]
    best = min(found, key=lambda result: result.cost)
    return best.x, float(2 * best.cost)


def _aicc(sse: float, n: int, k: int) -> float:
    k += 1
    return float(n * np.log(max(sse, 1e-300) / n) + 2 * k + 2 * k * (k + 1) / (n - k - 1)) if n - k - 1 > 0 else np.inf


def _slope_is_shown(flat: float, line: float, n: int, level: float) -> bool:
    """Whether a line's sum of squares is below that of a constant by more than noise makes it (F test)."""
    f = (flat - line) / max(line / (n - 2), 1e-300)
    return bool(f > student_t(level, n - 2) ** 2)


def _detectable(error: float, questions: float, level: float) -> float:
    """The difference of two errors that so many questions each show at the level."""
    p = min(max(error, 0.01), 0.99)
    return student_t(level, np.inf) * float(np.sqrt(2 * p * (1 - p) / questions))


def _sentence(
    axis: str, at: float, places: Array, chosen: str, *, best: float, inside: bool, flat: float, asked: float
) -> str:
    where = f"At {format_size(at)}" if axis == "V" else f"At V = {at:g}"
    name = (lambda x: f"{x:g} token" + ("" if x == 1 else "s")) if axis == "V" else format_size
    other = "size" if axis == "V" else "number of visual tokens"
    text = f"{where}, the one {other} measured, "
    known = np.isfinite(asked) and asked > 0
    shown = f"{asked:g} questions" if known else f"{QUESTIONS:g} questions (the table does not say how many it had)"
    if chosen == "flat":
        text += f"the error does not change from {name(places[0])} to {name(places[-1])} by more than its noise."
    elif inside:
        text += f"the error is least inside the range, near {name(best)}, and rises again behind it."
    elif flat == places[0]:
        text += (
            f"the error changes from {name(places[0])} to {name(places[-1])}, as all cells together show, but by less "
            f"than two cells alone would show with {shown}."
        )
    elif flat < places[-1]:
        text += f"from {name(flat)} on nothing is gained that {shown} could show."
    else:
        last = "the most measured" if axis == "V" else "the largest measured"
        text += f"the error still falls at {name(places[-1])}, {last}: the best place may lie beyond."
    return text + " There is no rho: that takes several sizes and several token counts."
