"""Deployment decisions: the best cell within a budget, the regret of another choice, and the sensitivity to Q and G."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from vlmlaw.errors import UserError
from vlmlaw.laws.blend import Blend
from vlmlaw.laws.cells import format_size, format_value
from vlmlaw.laws.costs import Cost, CostModel
from vlmlaw.laws.optimum import candidate_cells, frontier
from vlmlaw.laws.result import LawFit, as_list


@dataclass(frozen=True)
class Recommendation:
    """The cell to deploy within a budget: its cost and predicted error, equally good V, alternatives and warnings.

    flat: every V that some affordable size brings within the tolerance of the least error. See `recommend`.
    """

    budget: float
    unit: str
    n: float
    v: float
    cost: float
    error: float
    error_lower: float
    error_upper: float
    flat: tuple[float, ...]
    alternatives: pd.DataFrame
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        data = asdict(self)
        return data | {"flat": list(self.flat), "alternatives": self.alternatives.to_dict("records")}


def recommend(
    fit: LawFit | Blend,
    *,
    flops: float,
    question_tokens: float = 50.0,
    sizes: Sequence[float] = (),
    tokens: Sequence[float] = (),
    cost: CostModel | None = None,
    tolerance: float = 0.005,
    level: float = 0.95,
) -> Recommendation:
    """Choose the cell of least predicted error that costs at most `flops` per answer (or that much of another `cost`).

    `alternatives` has, for each affordable V, the best size N with its cost, error and regret (the relative excess over
    the best error). Raises UserError for a budget that is not above 0 or that no cell meets.

    >>> from vlmlaw.laws import fit_law, read_measurements
    >>> fit = fit_law(read_measurements("li2024_reasoning"), "power")
    >>> chosen = recommend(fit, flops=1e12, question_tokens=50)
    >>> chosen.n, chosen.v, round(chosen.error, 3)
    (7.0, 16.0, 0.493)
    >>> chosen.warnings
    ('the largest size is taken: a larger model, not more tokens, is what the budget could use best',)
    """
    cost = Cost(question_tokens=question_tokens) if cost is None else cost
    if not (np.isfinite(flops) and flops > 0):
        raise UserError(f"the budget is {flops!r}; expected a number of {cost.unit or cost.name} above 0")
    cells = candidate_cells(fit, sizes=sizes, tokens=tokens, cost=cost)
    least = float(cells["cost"].min())
    if least > flops * (1 + 1e-12):
        digits = next((n for n in (3, 6) if f"{flops:.{n}g}" != f"{least:.{n}g}"), 17)
        raise UserError(
            f"no cell costs {flops:.{digits}g} {cost.unit or cost.name} or less; the cheapest costs {least:.{digits}g}"
        )
    chosen = frontier(
        fit, sizes=sizes, tokens=tokens, cost=cost, budgets=[flops], tolerance=tolerance, level=level
    ).iloc[0]
    affordable = cells[cells["cost"] <= flops * (1 + 1e-12)]
    best_by_v = affordable.sort_values(["error", "cost"]).groupby("V", sort=True).head(1).sort_values("V")
    alternatives = best_by_v.assign(regret=best_by_v["error"] / chosen["error"] - 1)[
        ["N", "V", "cost", "error", "regret"]
    ]
    return Recommendation(
        budget=flops,
        unit=cost.unit,
        n=float(chosen["N"]),
        v=float(chosen["V"]),
        cost=float(chosen["cost"]),
        error=float(chosen["error"]),
        error_lower=float(chosen["lower"]),
        error_upper=float(chosen["upper"]),
        flat=tuple(float(v) for v in chosen["flat"]),
        alternatives=alternatives.reset_index(drop=True),
        warnings=tuple(_warnings(fit, chosen, cells)),
    )


def recommend_among(
    fits: Mapping[str, LawFit | Blend],
    *,
    flops: float,
    cost: CostModel | Mapping[str, CostModel] | None = None,
    question_tokens: float = 50.0,
    sizes: Sequence[float] = (),
    tokens: Sequence[float] = (),
    tolerance: float = 0.005,
    level: float = 0.95,
) -> tuple[str, dict[str, Recommendation]]:
    """Choose among several compressors, or families, each with its own law: the best one's name, and what each offers.

    `fits` has the fit of each by its name; `cost` is one model for all, or one for each name. The least predicted error
    wins, of equal ones the cheaper. Names without an affordable cell are left out; raises UserError if none has one.

    >>> from vlmlaw.laws import fit_law, read_measurements
    >>> fits = {name: fit_law(read_measurements(name), "power") for name in ("li2024_reasoning", "li2024_ocr")}
    >>> best, found = recommend_among(fits, flops=1e12)
    >>> best, found[best].n, found[best].v
    ('li2024_reasoning', 7.0, 16.0)
    """
    found, why = {}, {}
    for name, fit in fits.items():
        price = cost[name] if isinstance(cost, Mapping) else cost
        try:
            found[name] = recommend(
                fit,
                flops=flops,
                question_tokens=question_tokens,
                sizes=sizes,
                tokens=tokens,
                cost=price,
                tolerance=tolerance,
                level=level,
            )
        except UserError as error:
            why[name] = error
    if not found:
        raise UserError(
            "; ".join(f"{name}: {error}" for name, error in why.items()) or "no law given; give one or more"
        )
    return min(found, key=lambda name: (found[name].error, found[name].cost)), found


def _warnings(fit: LawFit | Blend, chosen: pd.Series, cells: pd.DataFrame) -> list[str]:
    found = []
    least, most = fit.cells.error.min(), fit.cells.error.max()
    if not 0 <= chosen["error"] <= 1:
        found.append(f"the predicted error of {chosen['error']:.3g} is impossible: the law does not hold out there")
    elif not least <= chosen["error"] <= most:
        found.append(f"the predicted error lies outside the measured ones ({least:.3g} to {most:.3g})")
    impossible = int((~cells["error"].between(0, 1)).sum())
    if impossible:
        found.append(f"the law predicts an error below 0 or above 1 for {impossible} of the {len(cells)} cells")
    for letter, measured in (("N", fit.cells.sizes), ("V", fit.cells.token_counts)):
        if not measured[0] <= chosen[letter] <= measured[-1]:
            value, least, most = (format_value(letter, x) for x in (chosen[letter], measured[0], measured[-1]))
            found.append(f"{letter} = {value} lies outside what was measured ({least} to {most})")
    if chosen["capped"] and chosen["V"] > cells["V"].min():
        found.append("the largest size is taken: a larger model, not more tokens, is what the budget could use best")
    if chosen["cost"] == cells["cost"].max():
        found.append("the budget buys the dearest cell there is; the rest of it is not used")
    return found


def regret(
    fit: LawFit | Blend,
    n: float,
    v: float,
    *,
    sizes: Sequence[float] = (),
    tokens: Sequence[float] = (),
    cost: CostModel | None = None,
    budget: float | None = None,
) -> dict[str, float]:
    """Compare the choice (n, v) with the best affordable cell; the budget defaults to the cost of the choice.

    Returns n, v, cost, error, best_n, best_v, best_error, and the absolute and relative regret (0 for the best choice).
    Raises UserError if the cost of the choice is unknown or above the budget.

    >>> from vlmlaw.laws import fit_law, read_measurements
    >>> fit = fit_law(read_measurements("li2024_reasoning"), "power")
    >>> loss = regret(fit, n=0.5, v=576)
    >>> loss["best_n"], loss["best_v"], round(loss["relative"], 3)
    (4.0, 16.0, 0.098)
    """
    cost = Cost(question_tokens=50.0) if cost is None else cost
    price = float(cost.of(n, v))
    if not np.isfinite(price):
        raise UserError(f"cost {cost.name!r} is not known for N = {format_size(n)}, V = {v:g}; choose a measured cell")
    limit = price if budget is None else budget
    if price > limit:
        raise UserError(f"N = {format_size(n)}, V = {v:g} costs {price:.3g}, above the budget {limit:.3g}")
    sizes = sorted({*as_list(sizes if len(sizes) else fit.cells.sizes), float(n)})
    tokens = sorted({*as_list(tokens if len(tokens) else fit.cells.token_counts), float(v)})
    best = frontier(fit, sizes=sizes, tokens=tokens, cost=cost, budgets=[limit]).iloc[0]
    error = float(fit.predict(n, v))
    return {
        "n": float(n),
        "v": float(v),
        "cost": price,
        "error": error,
        "best_n": float(best["N"]),
        "best_v": float(best["V"]),
        "best_error": float(best["error"]),
        "absolute": error - float(best["error"]),
        "relative": error / float(best["error"]) - 1,
    }


def sensitivity(
    fit: LawFit,
    *,
    flops: float,
    question_tokens: Sequence[float] = (0, 10, 25, 50, 100, 200),
    generated_tokens: Sequence[float] = (0,),
    sizes: Sequence[float] = (),
    tokens: Sequence[float] = (),
    vision_flops: float = 0.0,
    question_pass: bool = False,
    pass_tokens: float | None = None,
) -> pd.DataFrame:
    """The best cell of a budget for each Q and G.

    Columns: question_tokens, generated_tokens, N, V, cost, error; nan where the budget is below the cheapest cell.

    >>> from vlmlaw.laws import fit_law, read_measurements
    >>> fit = fit_law(read_measurements("li2024_reasoning"), "power")
    >>> sensitivity(fit, flops=1e12, question_tokens=[0, 50, 100])[["N", "V"]].values.tolist()
    [[7.0, 64.0], [7.0, 16.0], [4.0, 16.0]]
    """
    rows = []
    for q, g in product(as_list(question_tokens), as_list(generated_tokens)):
        cost = Cost(q, g, vision_flops, question_pass, pass_tokens)
        best = frontier(fit, sizes=sizes, tokens=tokens, cost=cost, budgets=[flops]).iloc[0]
        rows.append((q, g, best["N"], best["V"], best["cost"], best["error"]))
    return pd.DataFrame(rows, columns=["question_tokens", "generated_tokens", "N", "V", "cost", "error"])
