"""Laws that are sums of products of powers of N and V: the paper's form, the additive form, and relatives.

Their fits start from an exhaustive search (`exponent_grid.py`) and follow the exponents alone (`projection.py`).
"""

from typing import ClassVar

import numpy as np

from vlmlaw.laws.cells import Array, Cells
from vlmlaw.laws.families.exponent_grid import separable_starts
from vlmlaw.laws.families.law import Law, Parameter, register
from vlmlaw.laws.families.projection import search_exponents
from vlmlaw.laws.solver import Solution

LI2024 = "Li et al. 2024, arXiv 2411.03312"
EXPONENT_BOUND = 5.0  # beyond it a law is a step at one size; a fit that ends here says so


class SeparableLaw(Law):
    """error = sum over terms of multiplier * N^(-p alpha) * V^(-q beta), with `terms` a list of (p, q) of 0 or 1.

    The parameters are the multipliers in the order of `terms`, with the exponents after the first `n_leading`.
    Linear multipliers are projected out of the exhaustive search over the two exponents.
    """

    terms: ClassVar[tuple[tuple[int, int], ...]]
    separable = True

    def evaluate(self, theta: Array, ln_n: Array, ln_v: Array) -> tuple[Array, Array]:
        alpha, beta = theta[self.position("alpha")], theta[self.position("beta")]
        in_n, in_v = np.exp(-alpha * ln_n), np.exp(-beta * ln_v)
        error = by_alpha = by_beta = np.zeros(1)
        gradient = [np.zeros(1)] * len(theta)
        for where, (in_alpha, in_beta) in zip(self.multipliers(), self.terms, strict=True):
            product = (in_n if in_alpha else 1.0) * (in_v if in_beta else np.ones_like(in_n))
            logarithmic = self.parameters[where].logarithmic
            term = (np.exp(theta[where]) if logarithmic else theta[where]) * product
            gradient[where] = term if logarithmic else product
            error = error + term
            by_alpha = by_alpha - in_alpha * ln_n * term
            by_beta = by_beta - in_beta * ln_v * term
        gradient[self.position("alpha")], gradient[self.position("beta")] = by_alpha, by_beta
        return error, np.stack(np.broadcast_arrays(*gradient))

    def multipliers(self) -> list[int]:
        """The indices in theta of the multipliers of `terms`."""
        return [i for i, p in enumerate(self.parameters) if p.name not in ("alpha", "beta")]

    def bounds(self, cells: Cells) -> tuple[Array, Array]:
        lower, upper = super().bounds(cells)
        for i, parameter in enumerate(self.parameters):
            # The irreducible error cannot exceed the least measured error.
            if parameter.name == "D" and parameter.lower == 0:
                upper[i] = max(0.0, cells.error.min())
        return lower, upper

    def starts(self, cells: Cells) -> Array:
        return separable_starts(self, cells)

    def minimise(
        self, cells: Cells, start: Array, *, weight: Array, bounds: tuple[Array, Array], race: bool
    ) -> Solution:
        return search_exponents(self, cells, start=start, weight=weight, bounds=bounds, race=race)


_A = Parameter("A", "error above D at N = 1 B and V = 1", lower=0, logarithmic=True)
_ALPHA = Parameter("alpha", "exponent of N", lower=-EXPONENT_BOUND, upper=EXPONENT_BOUND)
_BETA = Parameter("beta", "exponent of V", lower=-EXPONENT_BOUND, upper=EXPONENT_BOUND)
_D = Parameter("D", "irreducible error", lower=0)


@register
class Power(SeparableLaw):
    """The paper's law with 0 <= D <= least measured error; A is the paper's A * B, since only the product matters."""

    name = "power"
    formula = "error = A N^-alpha V^-beta + D, 0 <= D <= least error"
    source = LI2024
    parameters = (_A, _ALPHA, _BETA, _D)
    terms = ((1, 1), (0, 0))
    exponents = ("alpha", "beta")


@register
class PowerD0(SeparableLaw):
    """The paper's law without irreducible error: ln error = ln A - alpha ln N - beta ln V."""

    name = "power_d0"
    formula = "error = A N^-alpha V^-beta"
    source = f"{LI2024}, with D = 0"
    parameters = (_A, _ALPHA, _BETA)
    terms = ((1, 1),)
    exponents = ("alpha", "beta")


@register
class PowerFree(SeparableLaw):
    """The paper's law with A and D unbounded; its optimum is often unphysical (D > 1, A < 0), as the verdict says."""

    name = "power_free"
    formula = "error = A N^-alpha V^-beta + D, A and D of any sign"
    source = f"{LI2024}, with D free"
    parameters = (
        Parameter("A", "error above D at N = 1 B and V = 1"),
        _ALPHA,
        _BETA,
        Parameter("D", "error in the limit", lower=-10, upper=10),
    )
    terms = ((1, 1), (0, 0))
    exponents = ("alpha", "beta")

    def gains(self, theta: Array) -> Array:
        """The exponents, with their signs reversed for A below 0, where negative exponents make the error fall."""
        return super().gains(theta) * np.where(theta[self.position("A")] < 0, -1.0, 1.0)


@register
class Additive(SeparableLaw):
    """N and V reduce separate parts of the error, as parameters and data do for language models."""

    name = "additive"
    formula = "error = A N^-alpha + B V^-beta + D"
    source = "Hoffmann et al. 2022, arXiv 2203.15556, with V in the place of data"
    parameters = (
        Parameter("A", "error that N cuts, at N = 1 B", lower=0, logarithmic=True),
        _ALPHA,
        Parameter("B", "error that V cuts, at V = 1", lower=0, logarithmic=True),
        _BETA,
        _D,
    )
    terms = ((1, 0), (0, 1), (0, 0))


@register
class AdditiveInteraction(SeparableLaw):
    """The additive law with a further part of the error that either N or V reduces."""

    name = "additive_interaction"
    formula = "error = A N^-alpha + B V^-beta + C N^-alpha V^-beta + D"
    source = "additive law with interaction"
    parameters = (
        Parameter("A", "error that N cuts, at N = 1 B", lower=0, logarithmic=True),
        _ALPHA,
        Parameter("B", "error that V cuts, at V = 1", lower=0, logarithmic=True),
        _BETA,
        Parameter("C", "error that either cuts, at N = 1 B and V = 1", lower=0, logarithmic=True),
        _D,
    )
    terms = ((1, 0), (0, 1), (1, 1), (0, 0))


@register
class PowerInteraction(Law):
    """The paper's law without D, with an exponent of V that changes with N."""

    name = "power_interaction"
    formula = "error = A N^-alpha V^-(beta + g ln N)"
    source = f"{LI2024}, with D = 0 and an interaction"
    parameters = (_A, _ALPHA, _BETA, Parameter("g", "gain of beta for an e-fold of N", lower=-5, upper=5))

    def evaluate(self, theta: Array, ln_n: Array, ln_v: Array) -> tuple[Array, Array]:
        ln_a, alpha, beta, g = theta
        error = np.exp(ln_a - alpha * ln_n - (beta + g * ln_n) * ln_v)
        return error, np.stack([error, -ln_n * error, -ln_v * error, -ln_n * ln_v * error])

    def starts(self, cells: Cells) -> Array:
        law: SeparableLaw = PowerD0()
        without = separable_starts(law, cells)
        return np.hstack([without, np.zeros((len(without), 1))])
