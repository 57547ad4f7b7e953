"""Coverage of the intervals of rho by simulation: how often a nominal 95 % interval holds the true ratio.

Grids like the published one (4 sizes x 7 token counts) are drawn from the law fitted to it, with noise as large as its
residuals, either independent or half of it shared by all cells of a size; each interval is computed as a user gets it.

    python benchmarks/law_coverage.py [--simulations 4000]
"""

import argparse
from collections.abc import Callable

import numpy as np

from vlmlaw.errors import UserError
from vlmlaw.laws import read_measurements
from vlmlaw.laws.bootstrap import residual_bootstrap, size_bootstrap
from vlmlaw.laws.cells import Cells
from vlmlaw.laws.fit import fit_cells
from vlmlaw.laws.intervals import Interval, rho_interval
from vlmlaw.laws.mixed import size_effects
from vlmlaw.laws.render import render_table
from vlmlaw.laws.result import LawFit

# method -> how, and how many of the simulations it is run on (the slow ones on fewer)
METHODS: dict[str, tuple[Callable[[LawFit], Interval], int]] = {
    "profile (default)": (rho_interval, 1),
    "fieller": (lambda fit: rho_interval(fit, method="fieller"), 1),
    "delta": (lambda fit: rho_interval(fit, method="delta"), 1),
    "residual bootstrap": (lambda fit: residual_bootstrap(fit, n_draws=1000).rho_interval(), 4),
    "whole-size bootstrap": (lambda fit: size_bootstrap(fit).rho_interval(), 1),
    "mixed effects by size": (lambda fit: size_effects(fit).rho, 8),
}


def simulate(truth: LawFit, rng: np.random.Generator, *, shared: float) -> Cells:
    """Cells of the true law; `shared` is the part of the noise's variance that the cells of a size have in common."""
    cells = truth.cells
    own = rng.normal(0, truth.sigma * np.sqrt(1 - shared), len(cells))
    common = rng.normal(0, truth.sigma * np.sqrt(shared), cells.sizes.size)
    return Cells.of(cells.n, cells.v, truth.fitted + own + common[np.searchsorted(cells.sizes, cells.n)])


def coverage(truth: LawFit, *, shared: float, n_simulations: int) -> dict[str, tuple[int, int, float]]:
    """Of each method: intervals that hold the true rho, intervals made, and their median width."""
    rng = np.random.default_rng(20241105)
    held: dict[str, list[bool]] = {name: [] for name in METHODS}
    width: dict[str, list[float]] = {name: [] for name in METHODS}
    for i in range(n_simulations):
        fit = fit_cells(simulate(truth, rng, shared=shared), truth.law)
        for name, (method, every) in METHODS.items():
            if i % every:
                continue
            try:
                interval = method(fit)
            except UserError:
                continue
            held[name].append(interval.lower <= truth.rho <= interval.upper)
            width[name].append(interval.upper - interval.lower)
    return {name: (sum(hits), len(hits), float(np.median(width[name]))) for name, hits in held.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--simulations", type=int, default=4000)
    n_simulations = parser.parse_args().simulations
    cells = read_measurements("li2024_reasoning").cells()
    for law in ("logit", "power_d0"):
        for shared in (0.0, 0.5):
            found = coverage(fit_cells(cells, law), shared=shared, n_simulations=n_simulations)
            rows = [
                [name, f"{hits / n:.2%}", f"{np.sqrt(0.95 * 0.05 / n):.2%}", f"{width:.2f}", str(n)]
                for name, (hits, n, width) in found.items()
            ]
            print(f"\n{law}, {'independent noise' if not shared else 'half of the noise shared within a size'}")
            print(render_table(["interval", "coverage", "± (1 se)", "median width", "simulations"], rows), flush=True)


if __name__ == "__main__":
    main()
