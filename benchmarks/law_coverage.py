"""How often the intervals of a table, as a user gets them, hold the truth that the table was drawn from.

Tables are drawn from laws of random kind, rho, span and noise, with 3 to 8 sizes and 4 to 8 token counts. The noise
that cells of one size share has 0, 1 or 3 times the standard deviation of a cell's own. The law is chosen by default,
without knowing the true one. `unseen size` is the error measured at a size 1.5 to 4 times the largest. A claim is a
sentence that says which of size and tokens matters more, or that one of them does no good. `rho, N and V interact` is
of tables in which a token is worth more to a larger LLM; its truth is the local rho in the middle of the grid.

    python benchmarks/law_coverage.py [--tables 600] [--seed 0]
"""

import argparse
from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from vlmlaw.errors import UserError
from vlmlaw.laws.bootstrap import size_bootstrap
from vlmlaw.laws.cells import Array, Cells
from vlmlaw.laws.families import LAWS
from vlmlaw.laws.families.links import IndexLaw
from vlmlaw.laws.intervals import rho_interval
from vlmlaw.laws.mixed import size_effects
from vlmlaw.laws.ratio import Interval, v_star_of_interval, v_star_of_rho
from vlmlaw.laws.render import render_table
from vlmlaw.laws.result import LawFit
from vlmlaw.laws.selection import compare_laws
from vlmlaw.laws.verdict import claimed_side

SHARED = (0.0, 1.0, 3.0)
TRUE_LAWS = ("logit", "probit", "cloglog", "log_linear", "power", "power_d0")
TOKENS = (1, 4, 9, 16, 36, 64, 144, 256, 576)
QUESTION_TOKENS = 50.0
MIXED_EVERY = 4  # statsmodels' mixed model is slow: run it on every fourth table


@dataclass(frozen=True)
class Drawn:
    """A table with its truth: rho, and the error of a size that is not in it, by the law and as measured."""

    cells: Cells
    rho: float
    new_n: Array
    new_v: Array
    new_law: Array
    new_measured: Array


def draw_table(rng: np.random.Generator, *, shared: float) -> Drawn:
    """A table of a random law; `shared` is the standard deviation between sizes over that of a cell."""
    n_sizes = int(rng.integers(3, 9))
    span = np.exp(rng.uniform(np.log(6), np.log(100)))
    sizes = 0.5 * span ** ((np.arange(n_sizes) + rng.uniform(-0.3, 0.3, n_sizes)) / (n_sizes - 1))
    tokens = np.sort(rng.choice(TOKENS, size=int(rng.integers(4, 9)), replace=False)).astype(float)
    rho = float(np.exp(rng.uniform(np.log(0.2), np.log(8))))
    n, v = (x.ravel() for x in np.meshgrid(sizes, tokens, indexing="ij"))
    drop = rng.uniform(0.08, 0.25)
    law = _random_law(rng, drop=drop, index=rho * np.log(n) + np.log(v))
    sigma = drop * np.exp(rng.uniform(np.log(0.02), np.log(0.12)))
    new_n = np.full(tokens.size, sizes.max() * np.exp(rng.uniform(np.log(1.5), np.log(4))))
    new_law = law(rho * np.log(new_n) + np.log(tokens))
    of_size = rng.normal(0, sigma * shared, n_sizes + 1)
    error = law(rho * np.log(n) + np.log(v)) + of_size[np.searchsorted(sizes, n)] + rng.normal(0, sigma, n.size)
    measured = new_law + of_size[-1] + rng.normal(0, sigma, tokens.size)
    return Drawn(Cells.of(n, v, error), rho, new_n, tokens, new_law, measured)


def draw_interaction(rng: np.random.Generator, *, shared: float) -> Drawn:
    """A table of five sizes and five token counts in which the slopes of logit(1 - error) depend on one another."""
    sizes, tokens = (
        0.5 * np.geomspace(1, np.exp(rng.uniform(np.log(6), np.log(30))), 5),
        np.array([1.0, 4, 16, 36, 144]),
    )
    n, v = (x.ravel() for x in np.meshgrid(sizes, tokens, indexing="ij"))
    in_n, in_v = np.log(n) - np.log(n).mean(), np.log(v) - np.log(v).mean()
    a, b, both = rng.uniform(0.2, 0.6), rng.uniform(0.08, 0.25), rng.uniform(0.05, 0.12)
    error = 1 / (1 + np.exp(rng.uniform(-0.3, 0.6) + a * in_n + b * in_v + both * in_n * in_v))
    sigma = rng.uniform(0.003, 0.012)
    of_size = rng.normal(0, sigma * shared, sizes.size)[np.searchsorted(sizes, n)]
    return Drawn(Cells.of(n, v, error + of_size + rng.normal(0, sigma, n.size)), a / b, n, v, error, error)


def judge_interaction(drawn: Drawn) -> dict[str, float]:
    """1 if the interval of rho holds the local rho in the middle of the grid."""
    index = compare_laws(drawn.cells).best.index_fit
    assert index is not None
    return {"rho, N and V interact": _holds(rho_interval(index), drawn.rho)}


def _random_law(rng: np.random.Generator, *, drop: float, index: Array):  # type: ignore[no-untyped-def]
    """The error as a function of the index, which falls by about `drop` over the range of `index`."""
    law = LAWS[str(rng.choice(TRUE_LAWS))]
    level, floor, middle, width = rng.uniform(0.3, 0.65), rng.uniform(0, 0.6), index.mean(), np.ptp(index)
    if isinstance(law, IndexLaw):
        eta = float(law.link(np.array(1 - level)))
        slope = float(law.score(np.array(eta))[1])
        return lambda x: 1 - law.score(eta + (x - middle) / width * drop / slope)[0]
    d = floor * level if law.name == "power" else 0.0
    return lambda x: d + (level - d) * np.exp(-drop / (level - d) * (x - middle) / width)


def judge(drawn: Drawn, *, with_mixed: bool) -> dict[str, float]:
    """For each interval of one table: 1 if it holds the truth, or the share of cells for which it does."""
    best = compare_laws(drawn.cells).best
    index = best.index_fit
    assert index is not None
    rho, star = rho_interval(index), v_star_of_rho(drawn.rho, QUESTION_TOKENS)
    unclipped = v_star_of_interval(rho, QUESTION_TOKENS)
    least, most = drawn.cells.v.min(), drawn.cells.v.max()
    ends = np.clip([unclipped.lower, unclipped.upper], least, most)
    side = claimed_side(rho)
    found = {
        "rho": _holds(rho, drawn.rho),
        "V*(50), clipped": float(ends[0] <= np.clip(star, least, most) <= ends[1]),
        "unseen size, measured": _share(best, drawn, drawn.new_measured, new=True),
        "unseen size, law": _share(best, drawn, drawn.new_law, new=False),
        "rho by profile (law as given)": _holds(rho_interval(index, method="profile"), drawn.rho),
        "claims": float(side != "unsettled"),
        "false claims": float(side not in ("unsettled", "size" if drawn.rho > 1 else "tokens")),
    }
    if drawn.rho > 1:  # otherwise V* is infinite, and its interval need not end
        found["V*(50) where rho > 1, unclipped"] = _holds(unclipped, star)
    for name, method in {"rho by whole-size bootstrap": size_bootstrap, "rho by mixed effects": size_effects}.items():
        if name.endswith("effects") and not with_mixed:
            continue
        try:
            result = method(index)
            found[name] = _holds(result.rho if hasattr(result, "rho") else result.rho_interval(), drawn.rho)
        except UserError:
            continue
    return found


def _holds(interval: Interval, truth: float) -> float:
    return float(interval.lower <= truth <= interval.upper)


def _share(fit: LawFit, drawn: Drawn, truth: Array, *, new: bool) -> float:
    band = fit.predict_interval(drawn.new_n, drawn.new_v, new_measurement=new)
    return float(((band["lower"] <= truth) & (truth <= band["upper"])).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=600, help="tables in each column")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    columns: dict[tuple[float, str], list[tuple[float, int]]] = defaultdict(list)
    for k, shared in enumerate(SHARED):
        rng = np.random.default_rng([args.seed, k])
        for i in range(args.tables):
            drawn = draw_table(rng, shared=shared)
            for name, value in judge(drawn, with_mixed=i % MIXED_EVERY == 0).items():
                columns[shared, name].append((value, drawn.cells.sizes.size))
        rng = np.random.default_rng([args.seed, k, 1])
        for _ in range(args.tables):
            drawn = draw_interaction(rng, shared=shared)
            for name, value in judge_interaction(drawn).items():
                columns[shared, name].append((value, drawn.cells.sizes.size))
    names = list(dict.fromkeys(name for _, name in columns))
    groups = {"3 to 8 sizes": range(3, 9), "3": [3], "4 to 5": [4, 5], "6 to 8": [6, 7, 8]}
    for title, sizes in groups.items():
        rows = [[name, *(_percent(columns[shared, name], sizes) for shared in SHARED)] for name in names]
        print(f"\n{title}: share of tables at shared noise of {', '.join(f'{x:g}' for x in SHARED)} times a cell's")
        print(render_table(["95 % interval of", *(f"{x:g}" for x in SHARED)], rows), flush=True)


def _percent(values: list[tuple[float, int]], sizes: range | list[int]) -> str:
    some = [value for value, n_sizes in values if n_sizes in sizes]
    return f"{np.mean(some):.1%}" if some else ""


if __name__ == "__main__":
    main()
