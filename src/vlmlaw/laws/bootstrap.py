"""Bootstrap of residuals and of whole sizes: each draw is refitted, all draws as one batched least-squares problem.

Cells of one size share a language model, so their errors are correlated and the cells are not independent draws;
resampling whole sizes takes this into account. With few sizes every resample is enumerated with its probability
instead of being drawn.
Sources: Davison and Hinkley, Bootstrap Methods and Their Application (1997), 3.8 (clusters) and 6.2.3 (residuals).
"""

from dataclasses import dataclass
from itertools import combinations_with_replacement
from math import comb, factorial, prod

import numpy as np
from numpy.typing import ArrayLike

from vlmlaw.errors import UserError
from vlmlaw.laws.cells import Array
from vlmlaw.laws.options import MIN_DRAWS
from vlmlaw.laws.ratio import Interval, rho_of_angle
from vlmlaw.laws.result import LawFit
from vlmlaw.laws.solver import solve

CHUNK = 500  # draws solved at once: their residuals fit a core's cache


@dataclass(frozen=True, eq=False)
class Draws:
    """Refitted parameters.

    theta: (B, K) in working coordinates. probability: (B,) of each draw. lost: the share of draws without a fit.
    """

    fit: LawFit
    theta: Array
    probability: Array
    lost: float
    method: str

    def rho_interval(self, *, level: float = 0.95) -> Interval:
        """Percentile interval of rho, computed on the angle of (alpha, beta), which is well behaved for beta near 0."""
        centre = np.arctan2(*self.fit.gains)
        angle = np.arctan2(*self.fit.law.gains(self.theta.T))
        angle = centre + (angle - centre + np.pi) % (2 * np.pi) - np.pi
        ends = [weighted_quantile(angle, self.probability, q) for q in (0.5 - level / 2, 0.5 + level / 2)]
        return Interval(rho_of_angle(centre), rho_of_angle(ends[0]), rho_of_angle(ends[1]), level, self.method)

    def predict(self, n: ArrayLike, v: ArrayLike) -> Array:
        """Predicted error (B, cells) of cells at N (billions) and V, for each draw."""
        ln_n, ln_v = np.log(np.atleast_1d(n)), np.log(np.atleast_1d(v))
        return self.fit.law.evaluate(self.theta.T[:, :, None], ln_n, ln_v)[0]


def residual_bootstrap(fit: LawFit, *, n_draws: int = 2000, seed: int = 0) -> Draws:
    """Refit the law to its predictions plus resampled residuals, which are scaled up for the fitted parameters.

    Raises UserError for too few draws, or if no draw converges.

    >>> from vlmlaw.laws import fit_law, read_measurements
    >>> fit = fit_law(read_measurements("li2024_reasoning"), "logit")
    >>> print(residual_bootstrap(fit, n_draws=200).rho_interval())
    4.72 [4.34, 5.14]
    """
    cells = fit.cells
    rng = np.random.default_rng(seed)
    scaled = fit.residuals * np.sqrt(cells.weight)
    scaled = (scaled - scaled.mean()) * np.sqrt(len(cells) / fit.degrees_of_freedom)
    weight = cells.weight if fit.robust_weight is None else cells.weight * fit.robust_weight
    lower, upper = fit.law.bounds(cells)
    thetas, converged = [], []
    for first in range(0, _enough(n_draws), CHUNK):
        rows = rng.integers(0, len(cells), size=(min(CHUNK, n_draws - first), len(cells)))
        found = solve(
            lambda theta: fit.law.evaluate(theta, cells.ln_n, cells.ln_v),
            fit.fitted + scaled[rows] / np.sqrt(cells.weight),
            start=np.tile(fit.theta, (len(rows), 1)),
            weight=weight,
            lower=lower,
            upper=upper,
            # From the fit a link law's steps shrink a hundredfold each: what is left after this one is far below noise.
            tolerance=1e-6 if fit.law.separable else 1e-4,
        )
        thetas.append(found.theta)
        converged.append(found.converged)
    theta, kept = np.vstack(thetas), np.concatenate(converged)
    return _draws(fit, theta, np.ones(len(theta)), kept, "residual bootstrap")


def size_bootstrap(fit: LawFit, *, n_draws: int = 2000, seed: int = 0) -> Draws:
    """Refit the law to whole sizes drawn with replacement, or to every multiset if there are at most `n_draws` of them.

    A resample that contains a single size supports no law; `Draws.lost` includes the probability of these. Raises
    UserError for fewer than three sizes, since with two the only usable resample is the sample itself.

    >>> from vlmlaw.laws import fit_law, read_measurements
    >>> fit = fit_law(read_measurements("li2024_reasoning"), "logit")
    >>> draws = size_bootstrap(fit)
    >>> print(draws.rho_interval(), draws.lost)  # 4 of the 256 ordered draws of four sizes hold a single size
    4.72 [3.85, 5.2] 0.015625
    """
    cells = fit.cells
    if cells.sizes.size < 3:
        raise UserError(f"{cells.sizes.size} sizes cannot be resampled as wholes; measure three or more")
    size_of_row = np.searchsorted(cells.sizes, cells.n)
    counts, probability = size_resamples(cells.sizes.size, n_draws=_enough(n_draws), seed=seed)
    carried = (counts > 0).sum(axis=1) >= 2
    lost = float(probability[~carried].sum())
    counts, probability = counts[carried], probability[carried]
    weight = cells.weight * counts[:, size_of_row]
    if fit.robust_weight is not None:
        weight = weight * fit.robust_weight
    lower, upper = fit.law.bounds(cells)
    found = solve(
        lambda theta: fit.law.evaluate(theta, cells.ln_n, cells.ln_v),
        cells.error,
        start=np.tile(fit.theta, (len(counts), 1)),
        weight=weight,
        lower=lower,
        upper=upper,
        tolerance=1e-6,
    )
    draws = _draws(fit, found.theta, probability, found.converged, "whole-size bootstrap")
    return Draws(draws.fit, draws.theta, draws.probability, lost + draws.lost * (1 - lost), draws.method)


def size_resamples(n_sizes: int, *, n_draws: int, seed: int) -> tuple[Array, Array]:
    """The number of times that each size is drawn (B, sizes), and the probability of each resample (B,)."""
    if comb(2 * n_sizes - 1, n_sizes) <= n_draws:
        picks = np.array(list(combinations_with_replacement(range(n_sizes), n_sizes)))
        counts = (picks[:, :, None] == np.arange(n_sizes)).sum(axis=1)
        orders = [factorial(n_sizes) / prod(factorial(int(c)) for c in row) for row in counts]
        return counts, np.array(orders) / n_sizes**n_sizes
    rng = np.random.default_rng(seed)
    return rng.multinomial(n_sizes, np.full(n_sizes, 1 / n_sizes), size=n_draws), np.full(n_draws, 1 / n_draws)


def weighted_quantile(values: Array, weights: Array, q: float) -> float:
    """The q quantile of a discrete distribution, interpolated between the middles of its steps."""
    order = np.argsort(values, kind="stable")
    middle = np.cumsum(weights[order]) - weights[order] / 2
    return float(np.interp(q, middle / weights.sum(), values[order]))


def step_quantile(values: Array, weights: Array, q: float) -> float:
    """The smallest of the values for which the values up to it hold at least a share q of the weight."""
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order]) / weights.sum() >= q - 1e-12
    return float(values[order][np.argmax(reached)])


def _enough(n_draws: int) -> int:
    if n_draws < MIN_DRAWS:
        raise UserError(f"{n_draws} bootstrap draws; the ends of an interval need at least {MIN_DRAWS}")
    return n_draws


def _draws(fit: LawFit, theta: Array, probability: Array, kept: Array, method: str) -> Draws:
    if not kept.any():
        raise UserError(f"no {method} draw of law {fit.law.name!r} converged; choose another law")
    lost = float(probability[~kept].sum() / probability.sum())
    probability = probability[kept] / probability[kept].sum()
    return Draws(fit=fit, theta=theta[kept], probability=probability, lost=lost, method=method)
