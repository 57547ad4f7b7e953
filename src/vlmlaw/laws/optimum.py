"""The optimum of a law under a cost: V*(Q), the frontier over real cells, and flat regions.

If N and V act through alpha ln N + beta ln V alone and the cost is 2N(Q + V), then at a fixed budget the error is least
at V* = Q / (rho - 1) for rho > 1, independent of the budget, the link, A and D: with ln N = ln budget - ln(Q + V) the
index is stationary where beta / V = alpha / (Q + V). The smallest V is best for Q = 0, the largest for rho <= 1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from vlmlaw.errors import UserError
from vlmlaw.laws.bootstrap import Draws, step_quantile
from vlmlaw.laws.cells import Array, Cells
from vlmlaw.laws.costs import BILLION, Cost, CostModel
from vlmlaw.laws.intervals import rho_interval
from vlmlaw.laws.ratio import v_star_of_interval
from vlmlaw.laws.result import LawFit, as_list
from vlmlaw.laws.roots import least_between, root_between


class Predictor(Protocol):
    """What the frontier asks of a fit, or of a blend of several."""

    @property
    def cells(self) -> Cells: ...
    def predict(self, n: ArrayLike, v: ArrayLike) -> Array: ...
    def predict_interval(
        self, n: ArrayLike, v: ArrayLike, *, level: float = 0.95, new_measurement: bool = True
    ) -> pd.DataFrame: ...


def v_star(
    fit: LawFit,
    question_tokens: float | Sequence[float] = 50.0,
    *,
    generated_tokens: float = 0.0,
    question_pass: bool = False,
    pass_tokens: float | None = None,
    level: float = 0.95,
    tolerance: float = 0.005,
    tokens: tuple[float, float] | None = None,
) -> pd.DataFrame:
    """The best number of visual tokens V* for each Q, with its interval and the flat region around it.

    Columns: question_tokens, v_star, lower, upper, corner, flat_lower, flat_upper, unclipped, unclipped_lower,
    unclipped_upper. v_star and its interval are clipped to the range `tokens` (by default that of the measured V);
    corner is "smallest" or "largest" if v_star was clipped.
    The flat region contains every V whose error exceeds the least one by at most `tolerance`, relative. For a law
    without a single rho, V* depends on the budget: it is given for that of a cell in the middle of the grid, without
    an interval (nan).

    >>> from vlmlaw.laws import fit_law, read_measurements
    >>> fit = fit_law(read_measurements("li2024_reasoning"), "power")
    >>> v_star(fit, [10, 25, 50, 100, 200])["v_star"].round(2).tolist()
    [2.7, 6.76, 13.52, 27.05, 54.09]
    """
    least, most = tokens or (float(fit.cells.v.min()), float(fit.cells.v.max()))
    rho = rho_interval(fit, level=level) if fit.has_rho else None
    rows = []
    for q in as_list(question_tokens):
        cost = Cost(q, generated_tokens, question_pass=question_pass, pass_tokens=pass_tokens)
        if rho is not None:
            best = v_star_of_interval(rho, cost.other_tokens)
            points = [best.estimate, best.lower, best.upper]
        else:
            points = [numeric_v_star(fit, cost, tokens=(least, most)), np.nan, np.nan]
        corner = "smallest" if points[0] <= least else "largest" if points[0] >= most else ""
        flat = flat_region(fit, cost, tolerance=tolerance, tokens=(least, most))
        rows.append((q, *np.clip(points, least, most), corner, *flat, *points))
    names = ["question_tokens", "v_star", "lower", "upper", "corner", "flat_lower", "flat_upper"]
    return pd.DataFrame(rows, columns=[*names, "unclipped", "unclipped_lower", "unclipped_upper"])


def middling_budget(fit: LawFit, cost: Cost) -> float:
    """FLOPs of the LLM at the geometric mean of the measured cells: the default where a budget is needed."""
    n, v = (float(np.exp(x.mean())) for x in (fit.cells.ln_n, fit.cells.ln_v))
    return 2 * BILLION * n * (cost.other_tokens + v)


def numeric_v_star(
    fit: LawFit, cost: Cost, *, budget: float | None = None, tokens: tuple[float, float] = (1.0, 576.0)
) -> float:
    """The V of least error along the iso-cost line of the LLM, found numerically with a continuous N."""
    flops = middling_budget(fit, cost) if budget is None else budget
    ends = np.log(tokens[0]), np.log(tokens[1])
    coarse = np.linspace(*ends, 257)  # a law may have several valleys
    i = int(np.argmin(_along_iso_cost(fit, cost, flops, coarse)))
    bracket = coarse[max(i - 1, 0)], coarse[min(i + 1, 256)]
    return float(np.exp(least_between(lambda ln_v: _along_iso_cost(fit, cost, flops, ln_v), *bracket)))


def _along_iso_cost(fit: LawFit, cost: Cost, flops: float, ln_v: Array) -> Array:
    v = np.exp(ln_v)
    return fit.predict(flops / (2 * BILLION * (cost.other_tokens + v)), v)


def as_good(error: float, tolerance: float) -> float:
    """The greatest error that counts as equally good; also for errors of 0 and below, which a law may predict."""
    return error + tolerance * abs(error) + 1e-12


def flat_region(
    fit: LawFit,
    cost: Cost,
    *,
    budget: float | None = None,
    tolerance: float = 0.005,
    tokens: tuple[float, float] = (1.0, 576.0),
) -> tuple[float, float]:
    """The smallest and the largest whole V whose error on the iso-cost line is within `tolerance` of the least one.

    The tolerance is relative. If no whole V qualifies, both are the whole V of least error.

    >>> from vlmlaw.laws import fit_law, read_measurements
    >>> fit = fit_law(read_measurements("li2024_reasoning"), "power")
    >>> flat_region(fit, Cost(question_tokens=50))
    (5.0, 31.0)
    """
    flops = middling_budget(fit, cost) if budget is None else budget
    best = numeric_v_star(fit, cost, budget=flops, tokens=tokens)
    limit = as_good(float(_along_iso_cost(fit, cost, flops, np.log([best]))[0]), tolerance)

    def excess(ln_v: float) -> float:
        return float(_along_iso_cost(fit, cost, flops, np.array([ln_v]))[0]) - limit

    middle, ends = np.log(best), []
    for end, rounded in ((np.log(tokens[0]), np.ceil), (np.log(tokens[1]), np.floor)):
        crossing = end if excess(end) <= 0 else root_between(excess, *sorted((end, middle)), xtol=1e-12)
        ends.append(float(rounded(np.exp(crossing) * (1 - 1e-9 if rounded is np.ceil else 1 + 1e-9))))
    if ends[0] > ends[1]:
        whole = np.array([np.floor(best), np.ceil(best)])
        ends = [float(whole[np.argmin(_along_iso_cost(fit, cost, flops, np.log(whole)))])] * 2
    return ends[0], ends[1]


# --------------------------------------------------------------------------- the frontier over real cells


def candidate_cells(
    fit: Predictor, *, sizes: Sequence[float] = (), tokens: Sequence[float] = (), cost: CostModel
) -> pd.DataFrame:
    """Every cell to choose from: N, V, cost and error; by default each measured size with each measured V.

    Raises UserError if the cost of every cell is unknown.
    """
    n, v = np.meshgrid(
        np.asarray(sizes if len(sizes) else fit.cells.sizes, dtype=float),
        np.asarray(tokens if len(tokens) else fit.cells.token_counts, dtype=float),
        indexing="ij",
    )
    table = pd.DataFrame({"N": n.ravel(), "V": v.ravel(), "cost": cost.of(n, v).ravel()}).dropna()
    if table.empty:
        raise UserError(f"cost {cost.name!r} is known in none of the cells; use sizes and tokens that were measured")
    return table.assign(error=fit.predict(table["N"], table["V"]))


@dataclass(frozen=True)
class Predicted:
    """What a fit predicts of cells, whatever they cost: the band of its mean (C,), and bootstrap draws (B, C).

    place: the index of each (N, V).
    """

    place: Mapping[tuple[float, float], int]
    lower: Array
    upper: Array
    drawn: Array | None

    @classmethod
    def of(cls, fit: Predictor, n: Array, v: Array, *, level: float, draws: Draws | None) -> "Predicted":
        """Predict these cells."""
        band = fit.predict_interval(n, v, level=level, new_measurement=False)
        place = {cell: i for i, cell in enumerate(zip(n.tolist(), v.tolist(), strict=True))}
        drawn = None if draws is None else draws.predict(n, v)
        return cls(place, band["lower"].to_numpy(), band["upper"].to_numpy(), drawn)


def frontier(
    fit: Predictor,
    *,
    sizes: Sequence[float] = (),
    tokens: Sequence[float] = (),
    cost: CostModel | None = None,
    budgets: Sequence[float] = (),
    tolerance: float = 0.005,
    level: float = 0.95,
    draws: Draws | None = None,
    predicted: "Predicted | None" = None,
) -> pd.DataFrame:
    """The affordable cell of least predicted error for each budget; budgets default to a grid over the cells' costs.

    Columns: budget, N, V, cost, error, lower, upper (of the law's mean), flat (every V that some affordable size brings
    within `tolerance` of the least error), flat_lower, flat_upper, capped (whether the largest size is chosen, so that
    a larger budget buys tokens). predicted: of these cells, where several frontiers share it. With bootstrap `draws` of
    the fit also v_lower, v_upper, n_lower, n_upper: the range of the choice in the central `level` of the draws. A
    budget below the cheapest cell has nan for its cell.

    >>> from vlmlaw.laws import fit_law, read_measurements
    >>> fit = fit_law(read_measurements("li2024_reasoning"), "power")
    >>> frontier(fit, budgets=[1e11, 1e12])[["N", "V", "capped"]].values.tolist()
    [[0.5, 36.0, False], [7.0, 16.0, True]]
    """
    cost = Cost(question_tokens=50.0) if cost is None else cost
    cells = candidate_cells(fit, sizes=sizes, tokens=tokens, cost=cost)
    given = as_list(budgets) if len(budgets) else default_budgets(cells["cost"].to_numpy())
    ranked = cells.sort_values(["error", "cost"])
    n, v, price, error = (ranked[name].to_numpy() for name in ("N", "V", "cost", "error"))
    rows: list[tuple[Any, ...]] = []
    for budget in given:
        affordable = np.flatnonzero(price <= budget * (1 + 1e-12))
        if not affordable.size:
            rows.append((budget, np.nan, np.nan, np.nan, np.nan, [], np.nan, np.nan, False))
            continue
        best = affordable[0]
        flat = np.unique(v[affordable[error[affordable] <= as_good(error[best], tolerance)]]).tolist()
        rows.append((budget, n[best], v[best], price[best], error[best], flat, flat[0], flat[-1], n[best] == n.max()))
    names = ["budget", "N", "V", "cost", "error", "flat", "flat_lower", "flat_upper", "capped"]
    table = pd.DataFrame(rows, columns=names)
    predicted = Predicted.of(fit, n, v, level=level, draws=draws) if predicted is None else predicted
    bought = table["N"].notna()
    chosen = [predicted.place[cell] for cell in zip(table.loc[bought, "N"], table.loc[bought, "V"], strict=True)]
    for place, ends in enumerate((predicted.lower, predicted.upper), start=5):
        table.insert(place, ("lower", "upper")[place - 5], pd.Series(ends[chosen], index=table.index[bought]))
    if draws is not None:
        assert predicted.drawn is not None
        drawn = predicted.drawn[:, [predicted.place[cell] for cell in zip(n, v, strict=True)]]
        spread = [_choice_interval(draws, drawn, n, v, affordable=price <= x * (1 + 1e-12), level=level) for x in given]
        table = table.join(pd.DataFrame(spread, columns=["v_lower", "v_upper", "n_lower", "n_upper"]))
    return table


def _choice_interval(
    draws: Draws, drawn: Array, n: Array, v: Array, *, affordable: Array, level: float
) -> tuple[float, ...]:
    """The range of the chosen V and N in the central `level` of the draws; `drawn` is the error (B, cells)."""
    if not affordable.any():
        return (np.nan,) * 4
    chosen = np.argmin(drawn[:, affordable], axis=1)
    share = np.bincount(chosen, draws.probability, minlength=int(affordable.sum()))  # of the draws that choose a cell
    tails = (0.5 - level / 2, 0.5 + level / 2)
    return tuple(step_quantile(x[affordable], share, q) for x in (v, n) for q in tails)


def default_budgets(costs: Array, *, n: int = 25) -> list[float]:
    """Budgets from the cheapest cell to the most expensive one, evenly spaced in their logarithm."""
    return [float(x) for x in np.geomspace(costs.min(), costs.max(), n)]
