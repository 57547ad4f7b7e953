"""What a law says of one family: how error falls with size and visual tokens, and whether more tokens come to hurt.

A model that was trained at one resolution can be worse far above it, so the law has a peak: the score's logit is
linear in ln N and a parabola in ln V, fitted to cells of one family only. Sizes of a released family differ in data and
recipe as well: its slope in N is of this catalogue, not what a larger model of the same kind would gain. Intervals come
from drawing images anew with all their questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy.special import expit, logit

from vlmlaw.evaluation.measuring.cells import Cell

DRAWS = 400
FAR = 1e6  # ln V of a peak that is none
LEAST_TOKENS, LEAST_SIZES = 4, 2  # for three coefficients of V, and a slope in N
SAME_V = 1.1  # counted tokens within this ratio are one column of what is filled in


@dataclass(frozen=True)
class FamilyLaw:
    """A family's law: logit(score) = c + a ln N + b ln V + d (ln V)^2, with what follows and its 95 % interval.

    peak: the V of least error, where the parabola has one within what was measured; else None.
    """

    family: str
    cells: tuple[str, ...]
    n: tuple[float, ...]  # parameters and mean visual tokens of each
    v: tuple[float, ...]
    coefficients: tuple[float, float, float, float]
    gain_of_size: tuple[float, float]  # interval of a
    peak: float | None
    peak_interval: tuple[float, float] | None
    rms: float  # of measured less fitted error
    models: tuple[str, ...] = ()  # of each cell its model, and the measured error
    errors: tuple[float, ...] = ()
    draws: np.ndarray = field(default_factory=lambda: np.empty((0, 4)), repr=False, compare=False)
    misfit: float = 0.0  # standard deviation of cells about the law, in logits

    @property
    def n_cells(self) -> int:
        return len(self.cells)

    @property
    def sizes(self) -> tuple[float, ...]:
        return tuple(sorted(set(self.n)))

    def slope(self, v: float) -> float:
        """Change of the score's logit with ln V at a V: above 0 more tokens help."""
        _, _, b, d = self.coefficients
        return float(b + 2 * d * np.log(v))

    def refitted(self, lost: np.ndarray) -> np.ndarray:
        """The fitted error of each of its cells (K,), by other replies to them: what was lost, (questions, K)."""
        design = _design(np.array(self.n), np.array(self.v))
        return 1 - expit(design @ _coefficients(design, lost))

    def interval(self, n: float, v: float, *, level: float) -> tuple[float, float]:
        """Between which errors a cell that was not measured lies: images drawn anew, and cells' distance to the law."""
        x = np.log(v)
        mean = self.draws @ np.array([1, np.log(n / 1e9), x, x * x])
        free = max(self.n_cells - len(self.coefficients), 1)
        away = self.misfit * np.random.default_rng(1).standard_t(free, len(mean))
        low, high = np.quantile(mean + away, [(1 + level) / 2, (1 - level) / 2])
        return float(1 - expit(low)), float(1 - expit(high))

    def columns(self) -> list[float]:
        """V as measured, those that are nearly the same as one, and their middles (of ln V) between."""
        groups: list[list[float]] = []
        for v in sorted(self.v):
            if groups and v <= SAME_V * groups[-1][0]:
                groups[-1].append(v)
            else:
                groups.append([v])
        measured = [float(np.mean(group)) for group in groups]
        return sorted([*measured, *np.sqrt(np.array(measured[:-1]) * np.array(measured[1:])).tolist()])

    def measured(self, model: str, v: float) -> float | None:
        """The measured error of a model at a column's V; None where that was not measured."""
        near = [
            (abs(np.log(own / v)), error)
            for name, own, error in zip(self.models, self.v, self.errors, strict=True)
            if name == model
        ]
        away, error = min(near)
        return error if away < np.log(SAME_V) / 2 + 1e-9 else None

    def error(self, n: float, v: float) -> float:
        """The fitted error of a model of n parameters at V tokens."""
        c, a, b, d = self.coefficients
        x = np.log(v)
        return float(1 - expit(c + a * np.log(n / 1e9) + b * x + d * x * x))


def family_laws(judged: pd.DataFrame, cells: Sequence[Cell]) -> tuple[list[FamilyLaw], list[str]]:
    """The law of each family and compressor that has enough cells, and for the others why there is none."""
    of, found, refused = {cell.name: cell for cell in cells}, [], []
    shown = judged[judged.budget != "0"]
    for family, rows in shown.groupby(shown.cell.map(lambda name: of[name].model.law), sort=False):
        names = [name for name in dict.fromkeys(rows.cell) if of[name].model.n_params is not None]
        v = rows[rows.height > 0].groupby("cell").n_visual_tokens.mean()
        names = [name for name in names if v.get(name, 0) > 0]
        sizes = sorted({of[name].model.n_params or 0.0 for name in names})
        who = f"the family {family}" if family and family != "fixed" else "models of unknown family"
        if not family or family == "fixed":
            refused.append(f"{who} have no law: sizes of different families do not lie on one")
        elif len(sizes) < LEAST_SIZES or len({round(v[name]) for name in names}) < LEAST_TOKENS:
            refused.append(
                f"{who} has no law: it takes {LEAST_SIZES} sizes whose parameters are known (--params) and "
                f"{LEAST_TOKENS} different V"
            )
        else:
            n = np.array([of[name].model.n_params for name in names], dtype=float)
            models = tuple(of[name].model.name for name in names)
            found.append(_fit(str(family), rows, names, n, v[names].to_numpy(), models=models))
    return found, refused


def _fit(
    family: str, rows: pd.DataFrame, names: list[str], n: np.ndarray, v: np.ndarray, *, models: tuple[str, ...]
) -> FamilyLaw:
    wide = rows.pivot(index="question", columns="cell", values="lost")[names]
    cluster = rows.drop_duplicates("question").set_index("question").cluster.loc[wide.index]
    groups = [np.flatnonzero(codes) for codes in (pd.get_dummies(cluster).to_numpy().T)]
    x, design = np.log(v), _design(n, v)
    lost = wide.to_numpy()
    whole = _coefficients(design, lost)
    rng = np.random.default_rng(0)
    drawn = [lost[np.concatenate([groups[i] for i in rng.integers(0, len(groups), len(groups))])] for _ in range(DRAWS)]
    draws = np.array([_coefficients(design, own) for own in drawn])
    low, high = np.quantile(draws[:, 1], [0.025, 0.975])
    peaks = np.where(draws[:, 3] < 0, -draws[:, 2] / (2 * np.minimum(draws[:, 3], -1e-12)), FAR)
    top = -whole[2] / (2 * whole[3]) if whole[3] < 0 else FAR
    inside = x.min() < top < x.max() and (peaks < x.max()).mean() > 0.95
    interval = np.exp(np.clip(np.quantile(peaks, [0.025, 0.975]), x.min(), x.max()))
    fitted = 1 - expit(design @ whole)
    return FamilyLaw(
        family=family,
        cells=tuple(names),
        n=tuple(n.tolist()),
        v=tuple(v.tolist()),
        coefficients=(float(whole[0]), float(whole[1]), float(whole[2]), float(whole[3])),
        gain_of_size=(float(low), float(high)),
        peak=float(np.exp(top)) if inside else None,
        peak_interval=(float(interval[0]), float(interval[1])) if inside else None,
        rms=float(np.sqrt(np.mean((lost.mean(axis=0) - fitted) ** 2))),
        models=models,
        errors=tuple(lost.mean(axis=0).tolist()),
        draws=draws,
        misfit=_misfit(design, lost, drawn),
    )


def _design(n: np.ndarray, v: np.ndarray) -> np.ndarray:
    x = np.log(v)
    return np.stack([np.ones(len(n)), np.log(n / 1e9), x, x * x], axis=1)


def _score(lost: np.ndarray) -> np.ndarray:
    """The share of right replies, as Haldane and Anscombe have it: its logit is finite at 0 and 1."""
    n = len(lost)
    return (n - lost.sum(axis=0) + 0.5) / (n + 1)


def _misfit(design: np.ndarray, lost: np.ndarray, drawn: Sequence[np.ndarray]) -> float:
    """Standard deviation of the cells about the law, in logits, beyond what drawing images anew moves them."""

    def apart(replies: np.ndarray) -> np.ndarray:
        found: np.ndarray = logit(_score(replies)) - design @ _coefficients(design, replies)
        return found

    own = apart(lost)
    noise = np.mean([((apart(replies) - own) ** 2).sum() for replies in drawn])
    free = max(len(own) - design.shape[1], 1)
    return float(np.sqrt(max((own**2).sum() - noise, 0.0) / free))


def _coefficients(design: np.ndarray, lost: np.ndarray) -> np.ndarray:
    """Least squares on the logit, each cell weighted by its binomial information there."""
    score = _score(lost)
    root = np.sqrt(score * (1 - score))[:, None]
    return np.linalg.lstsq(design * root, logit(score) * root[:, 0], rcond=None)[0]
