"""Which cell to take: the front of error against a cost, the cheapest that is good enough, what fits a limit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from vlmlaw.errors import UserError
from vlmlaw.evaluation.measuring.cells import Model
from vlmlaw.evaluation.measuring.paired import Interval, Paired
from vlmlaw.evaluation.measuring.prices import Price

NEVER = "never"  # in place of a budget, of a question that a model gets right at none
COSTS = {  # what the user calls it: column of the table of cells, and what it is
    "ms": ("total_ms", "ms for a reply, median"),
    "first-ms": ("first_token_ms", "ms to the first token, median"),
    "tokens": ("tokens", "tokens read and written"),
    "flops": ("flops", "FLOPs of the language model, 2N(Q + V + G)"),
    "money": ("money", "money for a thousand questions"),
}


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What the user wants: the cost that counts, how much worse is still good, how sure, and within which limit."""

    cost: str = "ms"
    worse_by: float = 0.02
    level: float = 0.95
    limit_ms: float | None = None
    prices: Mapping[str, Price] = field(default_factory=dict)  # by the model's name


@dataclass(frozen=True)
class Decision:
    """Which cells to take, by name. `good_enough` is the cheapest that is not worse, None where none can be said to be.

    `bound`: by how much each cell is worse than the best one at most, at the level, all at once.
    """

    wishes: Wishes
    unit: str
    cost: Mapping[str, float]
    front: tuple[str, ...]
    best: str
    good_enough: str | None
    confidence: Mapping[str, float]
    bound: Mapping[str, float]
    fitting: tuple[str, ...]
    best_fitting: str | None
    beside_best: Interval | None  # of the best cell that fits, less the best of all


def decide(paired: Paired, table: pd.DataFrame, wishes: Wishes) -> Decision:
    """The decision. Raises UserError for a cost that was not measured."""
    cost = cost_of(table, wishes)
    error = dict(zip(paired.cells, paired.errors_K.tolist(), strict=True))
    # Of equally good cells the cheaper one.
    order = sorted(paired.cells, key=lambda cell: (cost[cell], error[cell]))
    best = min(order, key=lambda cell: error[cell])
    confidence = dict(zip(paired.cells, paired.confidence_not_worse(wishes.worse_by).tolist(), strict=True))
    good = [cell for cell in order if confidence[cell] >= wishes.level]
    p95 = dict(zip(table.cell, table.total_ms_p95, strict=True))
    fitting = tuple(c for c in order if wishes.limit_ms is not None and p95[c] <= wishes.limit_ms)
    best_fitting = min(fitting, key=lambda cell: error[cell], default=None)
    beside = paired.difference(best_fitting, best, level=wishes.level) if best_fitting not in (None, best) else None
    return Decision(
        wishes=wishes,
        unit=COSTS[wishes.cost][1],
        cost=cost,
        front=pareto(order, cost, error),
        best=best,
        good_enough=good[0] if good else None,
        confidence=confidence,
        bound=dict(zip(paired.cells, paired.worse_by_at_most(level=wishes.level).tolist(), strict=True)),
        fitting=fitting,
        best_fitting=best_fitting,
        beside_best=beside,
    )


def check_costs(wishes: Wishes, models: Sequence[Model]) -> None:
    """Raise UserError for prices of other models, and for a cost that cannot be known of one of these."""
    names = [model.name for model in models]
    if unknown := sorted(set(wishes.prices) - set(names)):
        raise UserError(f"a price is given of {unknown[0]!r}, which is none of the models: {', '.join(names)}.")
    if wishes.cost == "money" and (lacking := [name for name in names if name not in wishes.prices]):
        raise UserError(
            f"the cost money needs a price of {lacking[0]}; give --price {lacking[0]}=IN/OUT for a million tokens, or "
            f"--price {lacking[0]}=X/h for an hour of its machine (`decision.prices` in an experiment file)."
        )
    if wishes.cost == "flops" and (lacking := [model.name for model in models if model.n_params is None]):
        raise UserError(
            f"the cost flops needs the parameters of {lacking[0]}, which its name does not tell; give --params "
            f"{lacking[0]}=7B (`params` in an experiment file), or choose another cost."
        )


def pareto(order: list[str], cost: Mapping[str, float], error: Mapping[str, float]) -> tuple[str, ...]:
    """Cells than which none is both cheaper and better, from the cheapest on."""
    front: list[str] = []
    for cell in sorted(order, key=lambda cell: (cost[cell], error[cell])):
        if not front or error[cell] < error[front[-1]]:
            front.append(cell)
    return tuple(front)


def cost_of(table: pd.DataFrame, wishes: Wishes) -> dict[str, float]:
    """The cost of each cell by name. Raises UserError where a cell has none."""
    if wishes.cost == "money":
        values = pd.Series(np.nan, index=table.index)
        for model, rows in table.groupby("model", sort=False):
            values[rows.index] = wishes.prices[str(model)].of_thousand(rows)
    else:
        if wishes.cost not in COSTS:
            raise UserError(f"no cost is called {wishes.cost!r}; there are {', '.join(COSTS)}.")
        values = table[COSTS[wishes.cost][0]]
    values = values.astype(float)
    if values.isna().any():
        cell = table.cell[values.isna()].iloc[0]
        uncounted = "the server does not count tokens"
        why = {"flops": "its parameters are not known; give --params", "tokens": uncounted, "money": uncounted}
        raise UserError(
            f"the cost {wishes.cost!r} of {cell} is not known: {why.get(wishes.cost, 'it was not measured')}. "
            "Choose another --cost."
        )
    return dict(zip(table.cell, values.tolist(), strict=True))


@dataclass(frozen=True)
class Blind:
    """What a model knows without the image, and what the image decides of the rest."""

    model: str
    right_without: float  # share of all questions
    gained: float  # of those wrong without, right in the model's best cell
    lost: float  # of those right without, wrong in it
    cell: str


def blind_facts(judged: pd.DataFrame) -> list[Blind]:
    """For each model that was asked without images and with: its best cell beside the blind one."""
    found = []
    for model, rows in judged.groupby("model", sort=False):
        wide = rows.pivot(index="question", columns="cell", values="lost")
        budget = rows.drop_duplicates("cell").set_index("cell").budget
        blind, shown = budget[budget == "0"].index, budget[budget != "0"].index
        if len(blind) and len(shown):
            best = wide[shown].mean().idxmin()
            before, after = wide[blind[0]], wide[best]
            wrong, right = before.sum(), (1 - before).sum()
            gained = (before * (1 - after)).sum() / wrong if wrong else np.nan
            lost = ((1 - before) * after).sum() / right if right else np.nan
            found.append(Blind(str(model), float(1 - before.mean()), float(gained), float(lost), str(best)))
    return found


@dataclass(frozen=True)
class Routed:
    """What a router that knew each question's cheapest right cell would give, beside the best single cell.

    No router is perfect, and one that knows which cell happens to be right profits from luck, so both are bounds.
    """

    error: float  # of the cheapest right cell for every question
    cost: float
    cost_at_best_error: float  # where only questions that the best cell gets right have to be right
    best_cost: float


def perfect_router(judged: pd.DataFrame, decision: Decision) -> Routed:
    """The bound of routing over all cells of the table."""
    lost = judged.pivot(index="question", columns="cell", values="lost")
    order = sorted(lost.columns, key=lambda cell: decision.cost[cell])
    least, cost = lost.min(axis=1), pd.Series(decision.cost)[order]
    first = lost[order].le(least, axis=0).to_numpy().argmax(axis=1)  # the cheapest of the best for each question
    at_best = lost[order].le(lost[decision.best], axis=0).to_numpy().argmax(axis=1)
    return Routed(
        float(least.mean()),
        float(cost.to_numpy()[first].mean()),
        float(cost.to_numpy()[at_best].mean()),
        float(decision.cost[decision.best]),
    )


def least_of_each(judged: pd.DataFrame) -> pd.DataFrame:
    """For each model and question the least budget at which it is right; `never` where it is at none."""
    parts = []
    for model, own in judged.groupby("model", sort=False):
        wide = own.pivot(index="question", columns="budget", values="lost")
        order = list(dict.fromkeys(own.budget))
        right = wide[order].to_numpy() < 0.5
        first = np.where(right.any(axis=1), right.argmax(axis=1), len(order))
        parts.append(pd.DataFrame({"model": model, "question": wide.index, "budget": np.array([*order, NEVER])[first]}))
    return pd.concat(parts, ignore_index=True)


def least_tokens(judged: pd.DataFrame) -> pd.DataFrame:
    """For each model the share of questions by the least budget at which they are right, and of those never right."""
    rows, least = [], least_of_each(judged)
    for model, own in judged.groupby("model", sort=False):
        shares = least[least.model == model].budget.value_counts(normalize=True)
        order = [*dict.fromkeys(own.budget), NEVER]
        rows += [{"model": model, "budget": name, "share": float(shares.get(name, 0.0))} for name in order]
    return pd.DataFrame(rows)
