"""Laws with a link around one index of ln N and ln V: generalised linear models with Gaussian noise on the error."""

from abc import abstractmethod
from typing import ClassVar

import numpy as np
from scipy import special

from vlmlaw.laws.cells import Array, Cells
from vlmlaw.laws.families.law import N_STARTS, Law, Parameter, register

N_SEARCHED_CELLS = 512  # the search for starts uses at most this many cells, the fit all of them


class IndexLaw(Law):
    """score = inverse link of the index c0 + a ln N + b ln V; N and V act through the index alone, so rho = a / b."""

    parameters = (
        Parameter("c0", "the score's link at N = 1 B and V = 1"),
        Parameter("a", "gain of the link for an e-fold of N"),
        Parameter("b", "gain of the link for an e-fold of V"),
    )
    exponents = ("a", "b")

    @abstractmethod
    def score(self, eta: Array) -> tuple[Array, Array]:
        """Score = 1 - error at index eta, and its derivative."""

    @abstractmethod
    def link(self, score: Array) -> Array:
        """Index of a score strictly between 0 and 1."""

    def evaluate(self, theta: Array, ln_n: Array, ln_v: Array) -> tuple[Array, Array]:
        c0, a, b = theta
        eta = a * ln_n
        eta += b * ln_v
        eta += c0
        score, slope = self.score(eta)
        gradient = np.empty((3, *eta.shape))  # filled in place: this is most of a bootstrap's time
        np.negative(slope, out=gradient[0])
        np.multiply(gradient[0], ln_n, out=gradient[1])
        np.multiply(gradient[0], ln_v, out=gradient[2])
        return 1 - score, gradient

    def starts(self, cells: Cells) -> Array:
        return index_starts(self, cells)


@register
class Logit(IndexLaw):
    """Odds of a right answer are a power law: logit(score) = c0 + a ln N + b ln V."""

    name = "logit"
    formula = "logit(1 - error) = c0 + a ln N + b ln V"
    source = "logistic regression on the logarithms; Berkson 1944"

    def score(self, eta: Array) -> tuple[Array, Array]:
        score = special.expit(eta)
        return score, score * (1 - score)

    def link(self, score: Array) -> Array:
        return special.logit(score)


@register
class Probit(IndexLaw):
    """The score is the probability that a normal variable is below the index; lighter tails than logit."""

    name = "probit"
    formula = "probit(1 - error) = c0 + a ln N + b ln V"
    source = "Bliss 1934"

    def score(self, eta: Array) -> tuple[Array, Array]:
        return special.ndtr(eta), np.exp(-0.5 * eta**2) / np.sqrt(2 * np.pi)

    def link(self, score: Array) -> Array:
        return special.ndtri(score)


@register
class Cloglog(IndexLaw):
    """Complementary log-log of the score; error = exp(-e^c0 N^a V^b), a stretched exponential in N and V."""

    name = "cloglog"
    formula = "ln(-ln(error)) = c0 + a ln N + b ln V"
    source = "Fisher 1922; McCullagh and Nelder 1989, 4.3"

    def score(self, eta: Array) -> tuple[Array, Array]:
        rate = np.exp(np.minimum(eta, 700.0))
        return -np.expm1(-rate), rate * np.exp(-rate)

    def link(self, score: Array) -> Array:
        return np.log(-np.log1p(-score))


@register
class Loglog(IndexLaw):
    """Log-log of the score, the mirror image of cloglog: score = exp(-e^-c0 N^-a V^-b)."""

    name = "loglog"
    formula = "-ln(-ln(1 - error)) = c0 + a ln N + b ln V"
    source = "McCullagh and Nelder 1989, 4.3"

    def score(self, eta: Array) -> tuple[Array, Array]:
        rate = np.exp(np.minimum(-eta, 700.0))
        return np.exp(-rate), rate * np.exp(-rate)

    def link(self, score: Array) -> Array:
        return -np.log(-np.log(score))


@register
class LogLinear(IndexLaw):
    """The error falls by a constant for each doubling: the limit of the paper's form as D goes to minus infinity."""

    name = "log_linear"
    formula = "1 - error = c0 + a ln N + b ln V"
    source = "ordinary linear regression on the logarithms"

    def score(self, eta: Array) -> tuple[Array, Array]:
        return eta, np.ones_like(eta)

    def link(self, score: Array) -> Array:
        return score


@register
class AccuracyPower(IndexLaw):
    """Score, not error, is a power law: 1 - error = e^c0 N^a V^b; the paper's form with D = 1 and a negative A."""

    name = "accuracy_power"
    formula = "ln(1 - error) = c0 + a ln N + b ln V"
    source = "the paper's form turned over"

    def score(self, eta: Array) -> tuple[Array, Array]:
        score = np.exp(np.minimum(eta, 700.0))
        return score, score

    def link(self, score: Array) -> Array:
        return np.log(score)


class InteractionLaw(Law):
    """A link law with an index term g ln N ln V: the value of a token depends on the size, so no single rho exists."""

    base: ClassVar[IndexLaw]
    parameters = (*IndexLaw.parameters, Parameter("g", "gain of b for an e-fold of N"))

    def evaluate(self, theta: Array, ln_n: Array, ln_v: Array) -> tuple[Array, Array]:
        c0, a, b, g = theta
        score, slope = self.base.score(c0 + a * ln_n + b * ln_v + g * ln_n * ln_v)
        return 1 - score, np.stack([-slope, -slope * ln_n, -slope * ln_v, -slope * ln_n * ln_v])

    def starts(self, cells: Cells) -> Array:
        without = index_starts(self.base, cells)
        return np.hstack([without, np.zeros((len(without), 1))])


@register
class LogitInteraction(InteractionLaw):
    """The logit law with interaction."""

    name = "logit_interaction"
    formula = "logit(1 - error) = c0 + a ln N + b ln V + g ln N ln V"
    source = "logistic regression with interaction"
    base = Logit()


@register
class LogitPeak(Law):
    """The logit law with a bend in V: the best number of tokens may lie inside the range, behind which more do harm."""

    name = "logit_peak"
    formula = "logit(1 - error) = c0 + a ln N + b ln V - q (ln V)^2"
    source = "logistic regression with a square"
    parameters = (*IndexLaw.parameters, Parameter("q", "loss of b for two e-folds of V"))

    def evaluate(self, theta: Array, ln_n: Array, ln_v: Array) -> tuple[Array, Array]:
        c0, a, b, q = theta
        score = special.expit(c0 + a * ln_n + (b - q * ln_v) * ln_v)
        slope = score * (1 - score)
        return 1 - score, np.stack([-slope, -slope * ln_n, -slope * ln_v, slope * ln_v**2])

    def starts(self, cells: Cells) -> Array:
        without = index_starts(Logit(), cells)
        return np.hstack([without, np.zeros((len(without), 1))])


def index_starts(law: "IndexLaw", cells: Cells) -> Array:
    """Best starts (B, 3) of a link law, from its regression on the scale of the link and from a grid of slopes."""
    cells = _spread(cells)
    score = np.clip(1 - cells.error, 1e-4, 1 - 1e-4)
    eta = law.link(score)
    design = np.stack([np.ones(len(cells)), cells.ln_n, cells.ln_v], axis=1)
    root = np.sqrt(cells.weight)
    regression = np.linalg.lstsq(design * root[:, None], eta * root, rcond=None)[0]
    reach = max(np.ptp(eta), 1e-6)
    steps = np.array([-1.0, -0.3, 0.0, 0.3, 1.0, 3.0]) * reach
    a, b = np.meshgrid(steps / np.ptp(cells.ln_n), steps / np.ptp(cells.ln_v), indexing="ij")
    slopes = np.stack([a.ravel(), b.ravel()], axis=1)
    offset = np.average(eta - slopes @ design[:, 1:].T, axis=1, weights=cells.weight)
    candidates = np.vstack([regression, np.column_stack([offset, slopes])])
    fitted, _ = law.evaluate(candidates.T[:, :, None], cells.ln_n, cells.ln_v)
    sse = ((cells.error - fitted) ** 2) @ cells.weight
    # Always try the regression: if the data follow the law, it is close to the optimum.
    best = [0, *(i for i in np.argsort(sse, kind="stable") if i != 0)]
    return candidates[best[:N_STARTS]]


def _spread(cells: Cells) -> Cells:
    """At most N_SEARCHED_CELLS cells spread evenly over the sorted table, so that row order does not matter."""
    if len(cells) <= N_SEARCHED_CELLS:
        return cells
    order = np.lexsort([cells.error, cells.v, cells.n])
    return cells.take(order[np.linspace(0, len(order) - 1, N_SEARCHED_CELLS).astype(int)])
