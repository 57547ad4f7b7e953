"""Which cells to measure next: those that narrow what is asked most for what they cost, and when to stop.

What a further cell would tell depends on where it lies, not on what it will show, so gains are computed before
anything is measured: the fall in the variance of a contrast of the gains of ln N and ln V, in a linear model of the
index with noise that the cells of a size share. How large that noise is comes from the cells measured so far
(`laws/posterior.py`), from the prior where there are too few. Cells are taken one after the other by gain over cost.

Source: Fedorov 1972, Theory of Optimal Experiments, for designs of least variance of a contrast; exchange of gain
against cost as in greedy knapsacks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from vlmlaw.errors import UserError
from vlmlaw.laws.cells import Array, Cells
from vlmlaw.laws.intervals import rho_interval
from vlmlaw.laws.posterior import RATIOS, prior
from vlmlaw.laws.ratio import Interval
from vlmlaw.laws.result import LawFit
from vlmlaw.laws.selection import compare_laws
from vlmlaw.laws.verdict import claimed_side

GOALS = ("side", "rho")
CANDIDATES = ("logit", "probit", "log_linear", "power_d0")  # laws with one rho; a few cells tell no others apart
MIN_CELLS = 5
# Standard deviations that are expected of the intercept and of the gains of ln N and ln V, in units of a cell's noise.
EXPECTED = np.array([1e3, 30.0, 30.0])
SAME = 1e-6  # relative distance of sizes and token counts that are the same cell


@dataclass(frozen=True, eq=False)
class Plan:
    """The cells to measure next, in order: N, V, cost, total (cost so far) and width (of the interval, to today's).

    rho: from the cells measured so far, None where they are too few. settled: whether they already show what is asked.
    """

    cells: pd.DataFrame
    rho: Interval | None
    settled: bool

    @property
    def cost(self) -> float:
        return float(self.cells["cost"].sum())


def next_cells(
    measured: Cells | None,
    candidates: pd.DataFrame,
    *,
    budget: float,
    until: str = "side",
    level: float = 0.95,
    n_cells: int | None = None,
) -> Plan:
    """Choose which of `candidates` (columns N in billions, V, cost) to measure next within a budget.

    measured: the cells so far, or None. until: "side" to learn which side of 1 rho lies on, "rho" to narrow rho and V*.
    n_cells: at most so many. Candidates that were measured are left out; the plan is empty once the question is
    settled.
    Raises UserError for a budget that buys no cell, or costs that are not above 0.

    >>> grid = pd.DataFrame([(n, v) for n in (0.5, 1.8, 7) for v in (1, 16, 144)], columns=["N", "V"])
    >>> plan = next_cells(None, grid.assign(cost=grid["N"] * (250 + grid["V"])), budget=2500)
    >>> plan.cells[["N", "V"]].values.tolist()[:2]
    [[0.5, 144.0], [1.8, 16.0]]
    """
    candidates = _unmeasured(candidates, measured)
    if until not in GOALS:
        raise UserError(f"until is {until!r}; expected one of {', '.join(GOALS)}")
    fit = fit_so_far(measured)
    rho = None if fit is None else rho_interval(fit, level=level)
    settled = until == "side" and rho is not None and claimed_side(rho) != "unsettled"
    if settled or candidates.empty:
        return Plan(candidates.iloc[:0].assign(total=[], width=[]), rho, settled)
    if candidates["cost"].min() > budget:
        least = candidates["cost"].min()
        raise UserError(f"the budget of {budget:g} buys no cell; the cheapest that is not measured costs {least:g}")
    contrast = _contrast(fit, until)
    weights = prior() if fit is None else fit.posterior.weights.sum(axis=0)
    state = _Information.of(measured, weights / weights.sum())
    today = state.variance(contrast)
    rows: list[tuple[float, ...]] = []
    left, total = candidates.copy(), 0.0
    while n_cells is None or len(rows) < n_cells:
        left = left[left["cost"] <= (budget - total) * (1 + 1e-12)]
        if left.empty:
            break
        after = state.variances_with(left["N"].to_numpy(), left["V"].to_numpy(), contrast)
        gain = weights @ np.log(state.by_ratio(contrast)[:, None] / after) / left["cost"].to_numpy()
        best = left.iloc[int(np.argmax(gain))]
        state = state.add(float(best["N"]), float(best["V"]))
        total += float(best["cost"])
        rows.append((*best[["N", "V", "cost"]], total, np.sqrt(state.variance(contrast) / today)))
        left = left.drop(index=best.name)
    return Plan(pd.DataFrame(rows, columns=["N", "V", "cost", "total", "width"]), rho, settled)


def enough(measured: Cells, candidates: pd.DataFrame, *, level: float = 0.95) -> tuple[int, float] | None:
    """How many of the measured cells, taken in this order, show the side of 1, and their share of the cost of all.

    candidates: N, V and cost of the measured cells. None if all of them do not show it.

    >>> from vlmlaw.laws import read_measurements
    >>> cells = read_measurements("li2024_reasoning").cells()
    >>> grid = pd.DataFrame({"N": cells.n, "V": cells.v, "cost": cells.n * (250 + cells.v)})
    >>> n_cells, share = enough(cells, grid)
    >>> n_cells, round(float(share), 2)
    (5, 0.06)
    """
    taken = np.zeros(len(measured), dtype=bool)
    spent = 0.0
    while True:
        so_far = measured.take(taken) if taken.any() else None
        plan = next_cells(so_far, candidates, budget=np.inf, n_cells=1, level=level)
        if plan.settled:
            return len(np.unique(np.stack([measured.n, measured.v])[:, taken], axis=1).T), spent / candidates[
                "cost"
            ].sum()
        if plan.cells.empty:
            return None
        n, v, cost = plan.cells[["N", "V", "cost"]].iloc[0]
        taken |= (np.abs(np.log(measured.n / n)) < SAME) & (np.abs(np.log(measured.v / v)) < SAME)
        spent += float(cost)


def fit_so_far(measured: Cells | None) -> LawFit | None:
    """The law of the cells measured so far, or None where they are too few for one."""
    if measured is None or len(measured) < MIN_CELLS or min(measured.sizes.size, measured.token_counts.size) < 2:
        return None
    try:
        return compare_laws(measured, CANDIDATES).best.index_fit
    except UserError:
        return None


def _unmeasured(candidates: pd.DataFrame, measured: Cells | None) -> pd.DataFrame:
    for name in ("N", "V", "cost"):
        if name not in candidates or not (np.isfinite(candidates[name]) & (candidates[name] > 0)).all():
            raise UserError(f"candidates need a column {name} of numbers above 0; found {list(candidates)}")
    candidates = candidates.reset_index(drop=True)
    if measured is None:
        return candidates
    n, v = candidates["N"].to_numpy()[:, None], candidates["V"].to_numpy()[:, None]
    there = (np.abs(np.log(n) - measured.ln_n) < SAME) & (np.abs(np.log(v) - measured.ln_v) < SAME)
    return candidates[~there.any(axis=1)]


def _contrast(fit: LawFit | None, until: str) -> Array:
    """The combination (3,) of intercept and gains whose variance is to fall."""
    if until == "side" or fit is None:
        return np.array([0.0, 1.0, -1.0])  # rho > 1 where it is above 0
    a, b = fit.gains
    return np.array([0.0, b, -a]) / np.hypot(a, b)  # across the direction of the gains: the angle of rho


@dataclass(frozen=True, eq=False)
class _Information:
    """Sums of a design over each size, from which its information follows at every ratio of shared noise."""

    weights: Array
    sizes: Sequence[float]
    counts: Array  # (S,)
    sums: Array  # (S, 3)
    products: Array  # (3, 3), over all cells

    @classmethod
    def of(cls, measured: Cells | None, weights: Array) -> _Information:
        state = cls(weights, (), np.zeros(0), np.zeros((0, 3)), np.zeros((3, 3)))
        for n, v in [] if measured is None else zip(measured.n, measured.v, strict=True):
            state = state.add(float(n), float(v))
        return state

    def add(self, n: float, v: float) -> _Information:
        row = np.array([1.0, np.log(n), np.log(v)])
        sizes, counts, sums = self.sizes, self.counts, self.sums
        if n not in sizes:
            sizes = (*sizes, n)
            counts, sums = np.append(counts, 0.0), np.vstack([sums, np.zeros(3)])
        at = np.arange(len(sizes)) == sizes.index(n)
        return _Information(
            self.weights, sizes, counts + at, sums + at[:, None] * row, self.products + np.outer(row, row)
        )

    def by_ratio(self, contrast: Array) -> Array:
        """The variance of a contrast at every ratio (J,)."""
        square = RATIOS[:, None] ** 2
        shrinkage = square / (1 + square * self.counts)
        information = self.products + np.diag(EXPECTED**-2.0)
        information = information - np.einsum("js,sk,sl->jkl", shrinkage, self.sums, self.sums)
        return np.einsum("k,jkl,l->j", contrast, np.linalg.inv(information), contrast)

    def variance(self, contrast: Array) -> float:
        """The variance of a contrast, averaged in the logarithm over the ratios."""
        return float(np.exp(self.weights @ np.log(self.by_ratio(contrast))))

    def variances_with(self, n: Array, v: Array, contrast: Array) -> Array:
        """The variance (J, candidates) of a contrast with each candidate added."""
        return np.stack([self.add(float(a), float(b)).by_ratio(contrast) for a, b in zip(n, v, strict=True)], axis=1)
