"""What the cells say of rho and of errors when neither the law nor the noise that a size's cells share is known.

Cells of one size share a language model, so part of their error is common to them, and a few sizes hardly tell how
large that part is: intervals are too narrow where it is estimated as zero, and bound nothing where three sizes must
estimate it alone. So the ratio of the noise between sizes to that within a size is integrated over, weighted by the
restricted likelihood and a prior; and so is the law, weighted by AICc, as choosing one from the same cells adds to the
uncertainty. At each law and ratio the law is linearised at its fit, whose estimates have Student's t, with the
covariance that least squares has under that noise. (Weighing the cells anew at each ratio would be a little tighter
where the law is true. Where its shape is a little wrong, that moves the law to where no cell lies: size by size it then
fits well, and what is off is taken for noise between sizes.) With one law and no shared noise the interval of rho is
Fieller's. `benchmarks/law_coverage.py` measures how often the intervals hold the truth.

Sources: Gelman 2006, Bayesian Analysis 1(3), for the prior of a deviation between few groups; Röver 2020, Journal of
Statistical Software 93(6), for the integration over a grid of it; Buckland, Burnham and Augustin 1997, Biometrics
53(2), for intervals that include the choice of a model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import gammaln, stdtr, stdtrit

from vlmlaw.laws.cells import Array
from vlmlaw.laws.ratio import Interval, interval_between
from vlmlaw.laws.roots import root_between

if TYPE_CHECKING:
    from vlmlaw.laws.result import LawFit

METHOD = "shared noise and choice of law"
METHOD_ONE_LAW = "shared noise"
# The grid of ratios: standard deviation between sizes over that within a size.
RATIOS = np.array([0.0, 0.1, 0.2, 0.3, 0.45, 0.65, 0.9, 1.25, 1.75, 2.5, 3.5, 5.0, 7.0, 10.0, 20.0])
PRIOR_SCALE = 2.5  # median of the half-Cauchy prior of the ratio; law_coverage.py chose it
MOST_OF_SPREAD = 1.5  # sizes are taken to deviate by no more than this times the standard deviation of all errors
NEGLIGIBLE = 1e-4  # a law and ratio of less weight is left out
SCAN = np.linspace(0.0, np.pi, 121)  # turns from the estimate at which an end is looked for
STEEP = 4.0  # times the slope in the middle from which the mean slope over the range tells of a step elsewhere
STEP = 1e-4  # of ln N and ln V, for the slopes of a law
MAX_STEPS, PRECISION = 60, 1e-7  # of the probability at a quantile of a mixture


@dataclass(frozen=True, eq=False)
class Linearised:
    """A law at every ratio (J): covariance (J, K, K) of its fit, and logarithms of likelihoods (J,).

    sigma: (J,) the standard deviation within a size of a row of mean weight. Parameters on a bound do not move.
    """

    fit: LawFit
    covariance: Array
    sigma: Array
    restricted: Array
    likelihood: Array

    @cached_property
    def prior(self) -> Array:
        """The prior of each ratio (J,), 0 where sizes would deviate by much more than all errors together do.

        Otherwise, with few sizes and a law of the wrong shape, the errors' whole range would pass for noise between
        sizes, and the interval would say nothing.
        """
        cells = self.fit.cells
        mean = cells.weight @ cells.error / cells.weight.sum()
        spread = np.sqrt(cells.weight @ (cells.error - mean) ** 2 / cells.weight.sum())
        possible = (RATIOS * self.sigma <= MOST_OF_SPREAD * spread) | (RATIOS == 0)
        return prior() * possible / (prior() @ possible)

    @cached_property
    def _slopes(self) -> tuple[Array, Array]:
        """Fall of the error with ln N and with ln V in the middle of the grid (2,), and its gradient (2, K).

        Along an axis on which the law falls in a step beside the middle, so that its slope there is nearly 0 whatever
        the step is worth, the mean slope over the range stands in its place.
        """
        cells = self.fit.cells
        ranges = np.array([[x.min(), x.max()] for x in (cells.ln_n, cells.ln_v)])
        middle = np.array([cells.ln_n.mean(), cells.ln_v.mean()])
        local, whole = self._falls(middle[:, None] + [-STEP, STEP]), self._falls(ranges)
        in_a_step = np.abs(local[:, 0]) * STEEP < np.abs(whole[:, 0])
        falls = np.where(in_a_step[:, None], whole, local)
        return falls[:, 0], falls[:, 1:]

    def _falls(self, ends: Array) -> Array:
        """Mean slopes (2, 1 + K) of minus the error, and their gradients, between two ends (2, 2) of ln N and of ln V.

        The other axis is held in the middle of the grid.
        """
        middle = np.array([self.fit.cells.ln_n.mean(), self.fit.cells.ln_v.mean()])
        ln_n, ln_v = np.array(
            [[ends[0, 1], middle[1]], [ends[0, 0], middle[1]], [middle[0], ends[1, 1]], [middle[0], ends[1, 0]]]
        ).T
        error, gradient = self.fit.law.evaluate(self.fit.theta[:, None, None], ln_n, ln_v)
        both = np.vstack([error, gradient[:, 0]])
        return (both[:, 1::2] - both[:, ::2]).T / np.diff(ends)

    @property
    def gains(self) -> Array:
        """A pair (2,) whose ratio is rho: exponents, or slopes in the middle where a law has no single rho."""
        return np.array(self.fit.law.gains(self.fit.theta)) if self.fit.has_rho else self._slopes[0]

    @property
    def gains_covariance(self) -> Array:
        """Their covariance (J, 2, 2)."""
        if self.fit.has_rho:
            where = [self.fit.law.position(name) for name in self.fit.require_rho()]
            return self.covariance[:, where][:, :, where]
        gradient = self._slopes[1]
        return gradient @ self.covariance @ gradient.T


def linearise(fit: LawFit) -> Linearised:
    """The covariance of a fit and the likelihood of its residuals at every ratio, from sums over each size.

    Sources: Liang and Zeger 1986, Biometrika 73(1), for the covariance of least squares under noise that is shared;
    Harville 1977, Journal of the American Statistical Association 72(358), for the restricted likelihood.
    """
    cells, n_parameters = fit.cells, fit.n_parameters
    free = [k for k, p in enumerate(fit.law.parameters) if p.name not in fit.at_bound]
    weight = cells.weight if fit.robust_weight is None else cells.weight * fit.robust_weight
    gradient = fit.law.evaluate(fit.theta[:, None, None], cells.ln_n, cells.ln_v)[1][free, 0].T
    unit = np.maximum(np.sqrt(weight @ gradient**2), 1e-12)
    gradient = gradient / unit
    in_size = (np.searchsorted(cells.sizes, cells.n) == np.arange(cells.sizes.size)[:, None]) * weight
    gradients, residuals, weights = in_size @ gradient, in_size @ fit.residuals, in_size.sum(axis=1)
    square = RATIOS[:, None] ** 2
    shrinkage = square / (1 + square * weights)  # (J, sizes); Woodbury's identity for a random intercept
    ridge = 1e-10 * np.eye(len(free))
    gram = (gradient.T * weight) @ gradient + ridge
    under_noise = gram - np.einsum("js,sk,sl->jkl", shrinkage, gradients, gradients)
    inverse = np.linalg.inv(gram)
    shared = inverse @ gradients.T @ gradients @ inverse
    rss = weight @ fit.residuals**2 - shrinkage @ residuals**2
    rss = np.maximum(rss, 1e-18 * (weight @ cells.error**2))  # exact data leave nothing but rounding
    spread = np.log1p(square * weights).sum(axis=1)
    variance = rss / fit.degrees_of_freedom
    covariance = np.zeros((len(RATIOS), n_parameters, n_parameters))
    of_free = variance[:, None, None] * (inverse + square[:, :, None] * shared) / np.outer(unit, unit)
    covariance[:, np.array(free)[:, None], free] = of_free
    return Linearised(
        fit=fit,
        covariance=covariance,
        sigma=np.sqrt(variance),
        restricted=-0.5 * (fit.degrees_of_freedom * np.log(rss) + spread + np.linalg.slogdet(under_noise)[1]),
        likelihood=-0.5 * (len(cells) * np.log(rss / len(cells)) + spread),
    )


def prior() -> Array:
    """The half-Cauchy prior's share of each ratio (J,); the least ratio above 0 stands for those from half of it on."""
    edges = np.concatenate([[0.0, RATIOS[1] / 2], np.sqrt(RATIOS[2:] * RATIOS[1:-1]), [np.inf]])
    return np.diff(np.arctan(edges / PRIOR_SCALE)) / (np.pi / 2)


@dataclass(frozen=True, eq=False)
class Posterior:
    """Laws linearised at every ratio of noise, with their weights (laws, J), which sum to one.

    >>> from vlmlaw.laws import fit_law, read_measurements
    >>> fit = fit_law(read_measurements("li2024_reasoning"), "logit")
    >>> Posterior.of([fit]).weights.shape == (1, RATIOS.size)
    True
    """

    laws: Sequence[Linearised]
    weights: Array

    @classmethod
    def of(cls, fits: Sequence[LawFit]) -> Posterior:
        """Weigh the fits of several laws to the same cells."""
        laws = [linearise(fit) for fit in fits]
        criterion = np.array([_criterion(law) for law in laws])
        if not np.isfinite(criterion).any():  # too few cells for the AICc of any law
            criterion = np.zeros(len(laws))
        by_law = np.exp(criterion - criterion.max())
        by_ratio = np.array([law.prior * np.exp(law.restricted - law.restricted.max()) for law in laws])
        weights = by_law[:, None] * by_ratio / by_ratio.sum(axis=1, keepdims=True)
        return cls(laws, weights / weights.sum())

    def rho_interval(self, estimate: tuple[float, float], *, level: float = 0.95) -> Interval:
        """The interval of rho around the ratio of an estimated pair of exponents.

        Laws without a single rho count with that in the middle of the grid. Where the estimate, which takes all cells
        as independent and one law as true, lies outside the interval, the median stands in its place.
        """
        gains = np.repeat([law.gains for law in self.laws], RATIOS.size, axis=0)
        covariance = np.concatenate([law.gains_covariance for law in self.laws])
        freedom = np.concatenate([np.full(RATIOS.size, law.fit.degrees_of_freedom) for law in self.laws])
        weight = self.weights.ravel()
        kept = weight > NEGLIGIBLE * weight.sum()
        gains, covariance, freedom, weight = gains[kept], covariance[kept], freedom[kept], weight[kept]
        centre = float(np.arctan2(*estimate))

        def beyond(turns: ArrayLike, side: int) -> Array:
            """Probability that the angle lies beyond a turn to one side (-1 or 1) of the estimate."""
            angle = centre + side * np.atleast_1d(np.asarray(turns, dtype=float))[:, None]
            sine, cosine = np.sin(angle), np.cos(angle)
            variance = (
                covariance[:, 0, 0] * cosine**2
                - 2 * covariance[:, 0, 1] * sine * cosine
                + covariance[:, 1, 1] * sine**2
            )
            distance = (gains[:, 0] * cosine - gains[:, 1] * sine) / np.sqrt(np.maximum(variance, 1e-300))
            return stdtr(freedom, side * distance) @ weight / weight.sum()

        tail = 0.5 - level / 2
        outside = [side for side in (-1, 1) if beyond(0.0, side)[0] <= tail]
        if len(outside) == 1:  # most lies on the other side
            median = -outside[0] * _first_turn(beyond, -outside[0], 0.5)
            centre += 0.0 if np.isnan(median) else median
        ends = [centre + side * _first_turn(beyond, side, tail) for side in (-1, 1)]
        method = METHOD if len(self.laws) > 1 else METHOD_ONE_LAW
        return interval_between(centre, *ends, level=level, method=method)

    def predict_interval(
        self, n: ArrayLike, v: ArrayLike, *, level: float, new_measurement: bool
    ) -> tuple[Array, Array, Array]:
        """Scale, lower and upper end (C,) of the error at N (billions) and V, of a size that was not measured.

        new_measurement: with the noise of a new size and cell, or else of the law alone.
        """
        ln_n, ln_v = (np.log(x).ravel() for x in np.broadcast_arrays(n, v))
        places, variances = [], []
        for law in self.laws:
            error, gradient = law.fit.law.evaluate(law.fit.theta[:, None, None], ln_n, ln_v)
            noise = law.sigma**2 * (1 + RATIOS**2) if new_measurement else np.zeros(RATIOS.size)
            places.append(np.broadcast_to(error[0], (RATIOS.size, ln_n.size)))
            spread = np.einsum("kc,jkl,lc->jc", gradient[:, 0], law.covariance, gradient[:, 0])
            variances.append(np.maximum(spread, 0.0) + noise[:, None])
        weight = self.weights.ravel()
        kept = weight > NEGLIGIBLE
        place, scale = np.concatenate(places)[kept], np.sqrt(np.concatenate(variances)[kept])
        freedom = np.repeat([law.fit.degrees_of_freedom for law in self.laws], RATIOS.size)[kept, None]
        weight = weight[kept] / weight[kept].sum()
        overall = np.sqrt(weight @ (scale**2 + (place - weight @ place) ** 2))
        lower, upper = (_mixture_quantile(q, place, scale, freedom, weight) for q in (0.5 - level / 2, 0.5 + level / 2))
        return overall, lower, upper


def _criterion(law: Linearised) -> float:
    """Minus half the AICc of a law, of its likelihood integrated over the ratio; -inf with too few cells."""
    n, k = len(law.fit.cells), law.fit.n_parameters + 2  # the two standard deviations
    if n - k - 1 <= 0:
        return -np.inf
    best = law.likelihood.max()
    return float(best + np.log(law.prior @ np.exp(law.likelihood - best)) - k - k * (k + 1) / (n - k - 1))


def _first_turn(beyond: Callable[[ArrayLike, int], Array], side: int, tail: float) -> float:
    """The least turn from the estimate beyond which no more than `tail` is left; nan if there is none."""
    reached = np.flatnonzero(beyond(SCAN, side) <= tail)
    if not reached.size:
        return float("nan")
    first = int(reached[0])
    if first == 0:
        return 0.0
    return root_between(lambda turn: float(beyond(turn, side)[0]) - tail, SCAN[first - 1], SCAN[first], xtol=1e-9)


def _mixture_quantile(q: float, place: Array, scale: Array, freedom: Array, weight: Array) -> Array:
    """The q quantile (C,) of mixtures of Student's t at `place` (M, C) with `scale` (M, C), by Newton's method.

    The quantile lies between those of the parts; a step that would leave the ends found so far halves them instead.
    """
    scale = np.maximum(scale, 1e-300)
    ends = place + scale * stdtrit(freedom, q)
    low, high = ends.min(axis=0), ends.max(axis=0)
    at = weight @ ends
    height = weight[:, None] * np.exp(gammaln((freedom + 1) / 2) - gammaln(freedom / 2)) / np.sqrt(freedom * np.pi)
    for _ in range(MAX_STEPS):
        distance = (at - place) / scale
        excess = weight @ stdtr(freedom, distance) - q
        if np.abs(excess).max() < PRECISION:
            break
        low, high = np.where(excess < 0, at, low), np.where(excess < 0, high, at)
        density = (height / scale * (1 + distance**2 / freedom) ** (-(freedom + 1) / 2)).sum(axis=0)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            step = at - excess / density
        at = np.where((step > low) & (step < high), step, (low + high) / 2)
    return at
