"""Which cells to measure next: those that narrow what is asked most for what they cost, and when to stop.

What a further cell would tell depends on where it lies, not on what it will show, so gains are computed before
anything is measured: the fall in the variance of a contrast of the gains of ln N and ln V, in a linear model of the
index with noise that the cells of a size share. How large that noise is comes from the cells measured so far
(`laws/posterior.py`), from the prior where there are too few. Cells are taken one after the other by gain over cost.

Source: Fedorov 1972, Theory of Optimal Experiments, for designs of least variance of a contrast; exchange of gain
against cost as in greedy knapsacks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from vlmlaw.errors import UserError
from vlmlaw.laws.best_cell import BestCell, Deployment, best_cell, undominated
from vlmlaw.laws.cells import Array, Cells
from vlmlaw.laws.intervals import rho_interval
from vlmlaw.laws.posterior import RATIOS, prior
from vlmlaw.laws.ratio import Interval
from vlmlaw.laws.result import LawFit
from vlmlaw.laws.selection import compare_laws
from vlmlaw.laws.verdict import claimed_side

GOALS = ("side", "rho", "best")
CANDIDATES = ("logit", "probit", "log_linear", "power_d0")  # laws with one rho; a few cells tell no others apart
MIN_CELLS = 5
# Standard deviations that are expected of the intercept and of the gains of ln N and ln V, in units of a cell's noise.
EXPECTED = np.array([1e3, 30.0, 30.0])
SAME = 1e-6  # relative distance of sizes and token counts that are the same cell


@dataclass(frozen=True, eq=False)
class Plan:
    """The cells to measure next, in order: N, V, cost, total (cost so far) and width (of the interval, to today's).

    The index of `cells` is the place of each among the candidates, counted from 0.
    rho: from the cells measured so far, None where they are too few. settled: whether they already show what is asked.
    best: with "best", the cell to deploy, from the cells measured so far.
    """

    cells: pd.DataFrame
    rho: Interval | None
    settled: bool
    best: BestCell | None = None

    @property
    def cost(self) -> float:
        return float(self.cells["cost"].sum())


def next_cells(
    measured: Cells | None,
    candidates: pd.DataFrame,
    *,
    budget: float,
    until: str = "side",
    width: float | None = None,
    deploy: Deployment | None = None,
    deployable: pd.DataFrame | None = None,
    level: float = 0.95,
    n_cells: int | None = None,
) -> Plan:
    """Choose which of `candidates` (columns N in billions, V, cost) to measure next within a budget.

    measured: the cells so far, or None. until: "side" to learn which side of 1 rho lies on, "rho" to narrow rho and V*,
    "best" to learn which of the candidates, or of `deployable`, is the best to deploy within the budget of `deploy`.
    width: with "rho", the ratio of the interval's ends that is narrow enough. n_cells: choose no further where there
    are so many. Candidates that were measured are left out; the plan is empty once the question is settled.
    Where cells share trainings, a column `trainings` holds for each a mapping of their names to their costs: a training
    is paid once, and all cells that it serves come with the first.
    Raises UserError for a budget that buys no cell, costs that are not above 0, or "best" without `deploy`.

    >>> grid = pd.DataFrame([(n, v) for n in (0.5, 1.8, 7) for v in (1, 16, 144)], columns=["N", "V"])
    >>> plan = next_cells(None, grid.assign(cost=grid["N"] * (250 + grid["V"])), budget=2500)
    >>> plan.cells[["N", "V"]].values.tolist()[:2]
    [[0.5, 144.0], [0.5, 1.0]]
    """
    left, paid = _unmeasured(candidates, measured)
    if until not in GOALS:
        raise UserError(f"until is {until!r}; expected one of {', '.join(GOALS)}")
    if (until == "best") != (deploy is not None):
        raise UserError(f"until is {until!r} with {deploy}; expected best with the FLOPs of an answer, others without")
    fit = fit_so_far(measured)
    rho = None if fit is None else rho_interval(fit, level=level)
    affordable = None if deploy is None else deploy.affordable(candidates if deployable is None else deployable)
    best = None
    if fit is not None and affordable is not None and deploy is not None:
        best = best_cell(fit, affordable, tolerance=deploy.tolerance)
    settled = _is_settled(until, rho, best, width=width, level=level)
    if settled or left.empty:
        return Plan(left.iloc[:0].assign(total=[], width=[]), rho, settled, best)
    least = min(offer.cost for offer in _offers(left, paid))
    if least > budget:
        raise UserError(f"the budget of {budget:g} buys no cell; the cheapest that is not measured costs {least:g}")
    contrast = _contrast(fit, until) if affordable is None else _between(best, affordable)
    weights = prior() if fit is None else fit.posterior.weights.sum(axis=0)
    state = _Information.of(measured, weights / weights.sum())
    cells = _in_order(left, paid, state, contrast, budget=budget, n_cells=n_cells)
    return Plan(cells, rho, settled, best)


def _in_order(
    left: pd.DataFrame,
    paid: frozenset[str],
    state: _Information,
    contrast: Array,
    *,
    budget: float,
    n_cells: int | None,
) -> pd.DataFrame:
    """The cells that a budget buys, those first that narrow the contrast most for their cost.

    Columns N, V, cost, total (spent so far) and width (of the contrast's interval, as a share of today's).
    """
    today = state.variance(contrast)
    rows: list[tuple[float, ...]] = []
    places: list[int] = []
    total = 0.0
    while n_cells is None or len(rows) < n_cells:
        offers = [one for one in _offers(left, paid) if one.cost <= (budget - total) * (1 + 1e-12)]
        if not offers:
            break
        offer = _best_of(offers, left, state, contrast)
        cells = left.loc[offer.rows]
        state = state.with_all(cells["N"], cells["V"])
        total += offer.cost
        narrowed = np.sqrt(state.variance(contrast) / today)
        costs = [offer.cost, *[0.0] * (len(cells) - 1)]
        rows += [(n, v, c, total, narrowed) for n, v, c in zip(cells["N"], cells["V"], costs, strict=True)]
        places += offer.rows
        left, paid = left.drop(index=offer.rows), paid | offer.trainings
    return pd.DataFrame(rows, columns=["N", "V", "cost", "total", "width"], index=places)


def cost_of_all(candidates: pd.DataFrame) -> float:
    """What all candidates cost; a training that several share is counted once."""
    if "trainings" not in candidates:
        return float(candidates["cost"].sum())
    return float(
        sum({name: cost for trainings in candidates["trainings"] for name, cost in trainings.items()}.values())
    )


@dataclass(frozen=True)
class _Offer:
    """What can be bought: trainings not paid yet, their cost, and the rows of the candidates that they give."""

    trainings: frozenset[str]
    cost: float
    rows: list[int]


def _offers(left: pd.DataFrame, paid: frozenset[str]) -> list[_Offer]:
    unpaid = [frozenset(trainings) - paid for trainings in left["trainings"]]
    costs = {name: cost for trainings in left["trainings"] for name, cost in trainings.items()}
    shared = sum(map(len, unpaid)) > len(frozenset().union(*unpaid)) or not all(unpaid)
    found = []
    for place, new in enumerate(dict.fromkeys(unpaid)):
        given = [i for i, of in enumerate(unpaid) if of <= new] if shared else [place]
        # The cell that was asked for comes first, then those that come with it.
        rows = sorted(given, key=lambda i, new=new: unpaid[i] != new)  # type: ignore[misc]
        found.append(_Offer(new, sum(costs[name] for name in new), [left.index[i] for i in rows]))
    return found


def _best_of(offers: list[_Offer], left: pd.DataFrame, state: _Information, contrast: Array) -> _Offer:
    """The offer with the largest fall in the contrast's variance for its cost; one that costs nothing first."""
    after = [
        state.with_all(cells["N"], cells["V"]).by_ratio(contrast)
        for cells in (left.loc[offer.rows] for offer in offers)
    ]
    gain = state.weights @ np.log(state.by_ratio(contrast)[:, None] / np.stack(after, axis=1))
    costs = np.array([offer.cost for offer in offers])
    return offers[int(np.argmax(np.where(costs > 0, gain / np.where(costs > 0, costs, 1), np.inf)))]


def _is_settled(until: str, rho: Interval | None, best: BestCell | None, *, width: float | None, level: float) -> bool:
    if rho is None:
        return False
    if until == "best":
        return best is not None and best.doubt <= 0.5 - level / 2
    return claimed_side(rho) != "unsettled" if until == "side" else _is_narrow(rho, width)


def _is_narrow(rho: Interval, width: float | None) -> bool:
    return width is not None and rho.lower > 0 and rho.upper <= width * rho.lower


def enough(
    measured: Cells,
    candidates: pd.DataFrame,
    *,
    until: str = "side",
    deploy: Deployment | None = None,
    level: float = 0.95,
) -> tuple[int, float] | None:
    """How many of the measured cells, taken in this order, show what is asked, and their share of the cost of all.

    candidates: N, V and cost of the measured cells. None if all of them do not show it.

    >>> from vlmlaw.laws import read_measurements
    >>> cells = read_measurements("li2024_reasoning").cells()
    >>> grid = pd.DataFrame({"N": cells.n, "V": cells.v, "cost": cells.n * (250 + cells.v)})
    >>> n_cells, share = enough(cells, grid)
    >>> n_cells, round(float(share), 2)
    (5, 0.1)
    """
    taken = np.zeros(len(measured), dtype=bool)
    spent = 0.0
    while True:
        so_far = measured.take(taken) if taken.any() else None
        plan = next_cells(so_far, candidates, budget=np.inf, until=until, deploy=deploy, n_cells=1, level=level)
        if plan.settled:
            n_taken = len(np.unique(np.stack([measured.n, measured.v])[:, taken], axis=1).T)
            return n_taken, spent / cost_of_all(candidates)
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


def _unmeasured(candidates: pd.DataFrame, measured: Cells | None) -> tuple[pd.DataFrame, frozenset[str]]:
    """The candidates that are left, and the trainings that are paid."""
    for name in ("N", "V", "cost"):
        if name not in candidates or not (np.isfinite(candidates[name]) & (candidates[name] > 0)).all():
            raise UserError(f"candidates need a column {name} of numbers above 0; found {list(candidates)}")
    candidates = candidates.reset_index(drop=True)
    if "trainings" not in candidates:
        candidates["trainings"] = [{str(row): float(cost)} for row, cost in enumerate(candidates["cost"])]
    if measured is None:
        return candidates, frozenset()
    n, v = candidates["N"].to_numpy()[:, None], candidates["V"].to_numpy()[:, None]
    there = ((np.abs(np.log(n) - measured.ln_n) < SAME) & (np.abs(np.log(v) - measured.ln_v) < SAME)).any(axis=1)
    return candidates[~there], frozenset().union(*candidates["trainings"][there])


def _contrast(fit: LawFit | None, until: str) -> Array:
    """The combination (3,) of intercept and gains whose variance is to fall."""
    if until == "side" or fit is None:
        return np.array([0.0, 1.0, -1.0])  # rho > 1 where it is above 0
    a, b = fit.gains
    return np.array([0.0, b, -a]) / np.hypot(a, b)  # across the direction of the gains: the angle of rho


def _between(best: BestCell | None, affordable: Array) -> Array:
    """The contrast (3,) of the best cell and its rival, or, before there is a law, of the ends of what may be best."""
    ends = undominated(affordable)[[0, -1]]
    if best is not None and best.rival is not None:
        ends = np.array([(best.n, best.v), best.rival])
    apart = np.append(0.0, np.diff(np.log(ends), axis=0))
    return apart if apart.any() else np.array([0.0, 1.0, -1.0])  # one cell is the largest in both N and V


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

    def with_all(self, n: Iterable[float], v: Iterable[float]) -> _Information:
        """With these cells added."""
        state = self
        for size, tokens in zip(n, v, strict=True):
            state = state.add(float(size), float(tokens))
        return state
