"""Multipliers within bounds and the search over exponents agree with scipy, also where a multiplier ends on a bound."""

import numpy as np
import pytest
from scipy.optimize import least_squares, lsq_linear

from vlmlaw.laws.cells import Cells
from vlmlaw.laws.families import LAWS
from vlmlaw.laws.families.projection import bounded_multipliers
from vlmlaw.laws.fit import fit_cells


@pytest.mark.parametrize("n_terms", [1, 2, 3, 4])
def test_multipliers_within_bounds_are_those_of_lsq_linear(n_terms):
    rng = np.random.default_rng(n_terms)
    designs = rng.normal(size=(60, 12, n_terms)) + 0.5
    targets = rng.normal(size=(60, 12))
    lower, upper = np.full(n_terms, -0.1), np.where(np.arange(n_terms) == 0, 0.2, np.inf)
    gram, moment = designs.transpose(0, 2, 1) @ designs, np.einsum("gct,gc->gt", designs, targets)
    found, side = bounded_multipliers(gram, moment, lower, upper)
    again, same = bounded_multipliers(gram, moment, lower, upper, rng.choice([-1.0, 0.0], size=side.shape))
    expected = [lsq_linear(a, b, bounds=(lower, upper), tol=1e-12).x for a, b in zip(designs, targets, strict=True)]
    assert found == pytest.approx(np.array(expected), abs=1e-6)
    assert again == pytest.approx(found, abs=1e-9)  # wherever the search begins
    assert np.array_equal(side != 0, (found <= lower) | (found >= upper))
    assert np.array_equal(same, side)


def kinked(seed: int) -> Cells:
    """Cells whose best irreducible error is 0, or whose best law lacks one of its terms."""
    rng = np.random.default_rng(seed)
    n, v = (x.ravel() for x in np.meshgrid([0.5, 1.8, 4, 7, 14], [1.0, 16, 36, 144, 576], indexing="ij"))
    error = [0.6 * n**-0.07 * v**-0.02, 0.3 * n**-0.1 + 0.25 * v**-0.08, 0.5 + 0.02 * np.log(v) - 0.03 * np.log(n)]
    return Cells.of(n, v, error[seed % 3] + rng.normal(0, [0.003, 0.01][seed % 2], n.size))


@pytest.mark.parametrize("name", ["power", "additive", "additive_interaction"])
@pytest.mark.parametrize("seed", range(3))
def test_no_start_of_scipy_ends_below_the_search(name, seed):
    law, cells, rng = LAWS[name], kinked(seed), np.random.default_rng(seed)
    lower, upper = law.bounds(cells)
    ours = fit_cells(cells, name)
    least = np.inf
    for _ in range(8):
        public = [
            rng.uniform(-1, 1) if p.name in ("alpha", "beta") else rng.uniform(0, cells.error.min())
            for p in law.parameters
        ]
        found = least_squares(
            lambda theta: law.evaluate(theta[:, None, None], cells.ln_n, cells.ln_v)[0][0] - cells.error,
            np.clip(law.to_working(np.array(public)), lower + 1e-9, upper - 1e-9),
            jac=lambda theta: law.evaluate(theta[:, None, None], cells.ln_n, cells.ln_v)[1][:, 0].T,
            bounds=(lower, upper),
            max_nfev=100,
        )
        least = min(least, 2 * found.cost)
    assert ours.converged
    assert ours.sse <= least * (1 + 1e-6)
