"""Replays of `vlmlaw law next`: how often a tenth of a grid's cost tells the right side of 1, against other orders.

Grids are the published tables and made-up ones of 5 sizes by 7 token counts, whose truth is a law of random kind and
rho (outside of 0.7 to 1.4, where no small design could tell), with noise as in the published tables, of which up to as
much again is shared by the cells of a size. A cell costs N times (250 text tokens + V), as a training does. Each order
measures cells one after the other until its interval of rho excludes 1 or the budget is spent; its answer is the side
of its estimate. `smallest first` goes by cost, `corners` takes the extremes of the affordable grid and then its middle.

With `--until best` the answer is the cell to deploy within the FLOPs of an answer (50 text tokens) that a quarter, a
half or three quarters of the grid's cells keep to. It is right where no affordable cell has an error that is lower by
more than half a per cent: of the truth without noise, or of the law of the whole grid for published tables.

    python benchmarks/law_next.py [--replays 100] [--share 0.1] [--until best]
"""

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from vlmlaw.laws import read_measurements
from vlmlaw.laws.best_cell import TOLERANCE, Deployment, best_cell
from vlmlaw.laws.cells import Cells
from vlmlaw.laws.costs import Cost
from vlmlaw.laws.design import MIN_CELLS, fit_so_far, next_cells
from vlmlaw.laws.families import LAWS
from vlmlaw.laws.render import render_table
from vlmlaw.laws.result import LawFit
from vlmlaw.laws.selection import fit_or_choose

SIZES, TOKENS = (0.5, 1.8, 4.0, 7.0, 14.0), (1, 4, 16, 36, 64, 144, 576)
TEXT_TOKENS = 250
TRUE_LAWS = ("logit", "probit", "log_linear")

AFFORDABLE = (0.25, 0.5, 0.75)  # share of the grid's cells that may be deployed

Order = Callable[[Cells | None, pd.DataFrame, float, np.random.Generator, dict[str, Any]], int]


def ours(
    measured: Cells | None, left: pd.DataFrame, budget: float, rng: np.random.Generator, asked: dict[str, Any]
) -> int:
    cells = next_cells(measured, left, budget=budget, n_cells=1, **asked).cells
    if cells.empty:
        return -1
    return int(left.index[(left["N"] == cells["N"].iloc[0]) & (left["V"] == cells["V"].iloc[0])][0])


def at_random(
    measured: Cells | None, left: pd.DataFrame, budget: float, rng: np.random.Generator, asked: dict[str, Any]
) -> int:
    return int(rng.choice(left.index))


def smallest_first(
    measured: Cells | None, left: pd.DataFrame, budget: float, rng: np.random.Generator, asked: dict[str, Any]
) -> int:
    return int(left["cost"].idxmin())


def corners(
    measured: Cells | None, left: pd.DataFrame, budget: float, rng: np.random.Generator, asked: dict[str, Any]
) -> int:
    x, z = np.log(left["N"]), np.log(left["V"])
    away = [abs(x - x.mean()) + abs(z - z.mean())]
    if measured is not None:  # as far as possible from what is measured
        away.append(
            np.min([abs(x - a) + abs(z - b) for a, b in zip(measured.ln_n, measured.ln_v, strict=True)], axis=0)
        )
    return int(left.index[int(np.argmax(away[-1]))])


ORDERS: dict[str, Order] = {
    "law next": ours,
    "random": at_random,
    "smallest first": smallest_first,
    "corners": corners,
}


def made_up(rng: np.random.Generator) -> tuple[pd.DataFrame, float]:
    """A grid of a random truth: N, V, error, cost; and its rho."""
    n, v = (x.ravel() for x in np.meshgrid(SIZES, TOKENS, indexing="ij"))
    distance = rng.uniform(np.log(1.4), np.log(8))
    rho = float(np.exp(distance * rng.choice([-1, 1])))
    index = rho * np.log(n) + np.log(v)
    law, drop, level = LAWS[str(rng.choice(TRUE_LAWS))], rng.uniform(0.1, 0.3), rng.uniform(0.35, 0.6)
    eta = float(law.link(np.array(1 - level)))  # type: ignore[attr-defined]
    slope = float(law.score(np.array(eta))[1])  # type: ignore[attr-defined]
    score = law.score(eta + (index - index.mean()) / np.ptp(index) * drop / slope)[0]  # type: ignore[attr-defined]
    sigma = drop * rng.uniform(0.02, 0.05)
    shared = rng.normal(0, sigma * rng.uniform(0, 1), len(SIZES))[np.searchsorted(SIZES, n)]
    error = 1 - score + shared + rng.normal(0, sigma, n.size)
    grid = pd.DataFrame({"N": n, "V": v.astype(float), "error": error, "truth": 1 - score})
    return grid.assign(cost=n * (TEXT_TOKENS + v)), rho


def published(name: str) -> pd.DataFrame:
    table = read_measurements(name).frame[["N", "V", "error"]].drop_duplicates(["N", "V"])
    truth = fit_or_choose(read_measurements(name)).predict(table["N"], table["V"])
    return table.assign(truth=truth, cost=table["N"] * (TEXT_TOKENS + table["V"])).reset_index(drop=True)


def replay(
    grid: pd.DataFrame, order: Order, *, budget: float, rng: np.random.Generator, asked: dict[str, Any]
) -> tuple[LawFit | None, bool, float, int]:
    """The last law, whether what is asked is settled, what was spent, and the number of cells."""
    taken: list[int] = []
    spent, settled, fit = 0.0, False, None
    while True:
        rest = grid.drop(index=taken)
        rest = rest[rest["cost"] <= budget - spent + 1e-9]
        so_far = grid.loc[taken]
        measured = Cells.of(so_far["N"], so_far["V"], so_far["error"]) if taken else None
        if len(taken) >= MIN_CELLS:
            fit = fit_so_far(measured) or fit
            settled = fit is not None and next_cells(measured, grid[["N", "V", "cost"]], budget=np.inf, **asked).settled
        if settled or rest.empty:
            break
        chosen = order(measured, rest[["N", "V", "cost"]], budget - spent, rng, asked)
        if chosen < 0:
            break
        taken.append(chosen)
        spent += float(grid.loc[chosen, "cost"])
    return fit, settled, spent, len(taken)


def side_is_right(fit: LawFit | None, rho: float) -> bool:
    return fit is not None and (fit.gains[0] > fit.gains[1]) == (rho > 1)


def excess_error(fit: LawFit | None, grid: pd.DataFrame, deploy: Deployment) -> float:
    """The true error of the cell that is chosen over that of the best affordable one, less 1; nan without a law."""
    if fit is None:
        return np.nan
    affordable = deploy.affordable(grid)
    chosen = best_cell(fit, affordable)
    truth = grid.set_index(["N", "V"])["truth"]
    return float(truth[chosen.n, chosen.v] / min(truth[n, v] for n, v in affordable) - 1)


def deployments(grid: pd.DataFrame) -> list[Deployment]:
    flops = Cost(question_tokens=50.0).of(grid["N"], grid["V"])
    return [Deployment(float(np.quantile(flops, share))) for share in AFFORDABLE]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replays", type=int, default=100)
    parser.add_argument("--share", type=float, default=0.1, help="budget as a share of the grid's cost")
    parser.add_argument("--until", choices=("side", "best"), default="side")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    grids = {
        "li2024_reasoning": [(published("li2024_reasoning"), 4.7)],
        "li2024_ocr": [(published("li2024_ocr"), 0.73)],
        "made up": [made_up(np.random.default_rng([args.seed, i])) for i in range(args.replays)],
    }
    rows = []
    for title, some in grids.items():
        for name, order in ORDERS.items():
            times = args.replays if name == "random" and len(some) == 1 else 1
            found = []
            for i, (grid, rho) in enumerate(some * times):
                of_best = [{"until": "best", "deploy": deploy} for deploy in deployments(grid)]
                for asked in of_best if args.until == "best" else [{}]:
                    rng, whole = np.random.default_rng([args.seed, i]), grid["cost"].sum()
                    fit, settled, spent, n = replay(grid, order, budget=args.share * whole, rng=rng, asked=asked)
                    excess = excess_error(fit, grid, asked["deploy"]) if asked else 0.0
                    right = excess <= TOLERANCE if asked else side_is_right(fit, rho)
                    found.append((right, settled, settled and not right, spent / whole, n, excess))
            right, settled, wrong, share, n, _ = np.mean(found, axis=0)
            excess = [row[-1] for row in found if not np.isnan(row[-1])]
            rows.append([title, name, str(len(found)), f"{right:.0%}", f"{settled:.0%}", f"{wrong:.1%}"])
            rows[-1] += [
                f"{share:.1%}",
                f"{n:.1f}",
                *([f"{np.mean(excess):.2%}" if excess else ""] if args.until == "best" else []),
            ]
    what = "right side" if args.until == "side" else "right cell"
    header = ["grid", "order", "replays", what, "shown at 95 %", "shown wrong", "cost, share of grid", "cells"]
    print(render_table([*header, *(["error above the best"] if args.until == "best" else [])], rows))


if __name__ == "__main__":
    main()
