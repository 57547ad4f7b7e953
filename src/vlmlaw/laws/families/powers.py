"""Laws that are sums of products of powers of N and V: the paper's form, the additive form, and relatives.

Fits start from an exhaustive search: linear parameters projected out, exponents on a grid. Every sum over cells that
the projection needs is an entry of a matrix product (grid of alpha x cells) @ (cells x grid of beta), so the whole grid
costs a dozen small products however many cells.
"""

from itertools import combinations
from typing import ClassVar

import numpy as np

from vlmlaw.laws.cells import Array, Cells
from vlmlaw.laws.families.law import N_STARTS, Law, Parameter, register

# Exponent times the range of ln N or ln V: what the factor N^-alpha loses across the grid, from 1 % to e^5.
_POSITIVE = np.geomspace(0.01, 5.0, 10)
EXPONENT_GRID = np.concatenate([-_POSITIVE[::-1], _POSITIVE])

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

    def bend(self, theta: Array, ln_n: Array, ln_v: Array, residual: Array) -> Array:
        alpha, beta = (self.position(name) for name in ("alpha", "beta"))
        in_n, in_v = np.exp(-theta[alpha] * ln_n), np.exp(-theta[beta] * ln_v)
        bent = np.zeros((theta.shape[1], len(theta), len(theta)))
        for where, (p, q) in zip(self.multipliers(), self.terms, strict=True):
            scaled = (in_n if p else 1.0) * (in_v if q else 1.0) * residual  # (B, C)
            if self.parameters[where].logarithmic:
                scaled = scaled * np.exp(theta[where])
                bent[:, where, where] += scaled.sum(axis=1)
                term = scaled
            else:
                term = scaled * theta[where]
            # Each derivative by alpha brings a factor -p ln N, by beta -q ln V.
            in_alpha, in_beta = -p * ln_n, -q * ln_v
            for k, factor in ((alpha, in_alpha), (beta, in_beta)):
                mixed = scaled @ factor
                bent[:, where, k] += mixed
                bent[:, k, where] += mixed
                bent[:, k, k] += term @ factor**2
            both = term @ (in_alpha * in_beta)
            bent[:, alpha, beta] += both
            bent[:, beta, alpha] += both
        return bent

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

    def project(self, theta: Array, cells: Cells, weight: Array) -> Array:
        return project(self, theta, cells, weight)


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
        without = separable_starts(PowerD0(), cells)
        return np.hstack([without, np.zeros((len(without), 1))])


def separable_starts(law: "SeparableLaw", cells: Cells) -> Array:
    """Best starts (B, K) of a sum of products of powers: bounded linear fits at every pair of exponents of a grid."""
    # Powers of N / N0 and V / V0 keep the sums near one; the multipliers are scaled back at the end.
    ln_n0, ln_v0 = cells.ln_n.mean(), cells.ln_v.mean()
    x, z = cells.ln_n - ln_n0, cells.ln_v - ln_v0
    alpha, beta = EXPONENT_GRID / np.ptp(x), EXPONENT_GRID / np.ptp(z)
    in_n, in_v = np.exp(-np.outer(alpha, x)), np.exp(-np.outer(beta, z))
    powers_n = [np.ones_like(in_n), in_n, in_n**2]
    powers_v = [np.ones_like(in_v), in_v, in_v**2]

    def total(values: Array, p: int, q: int) -> Array:
        return ((powers_n[p] * values) @ powers_v[q].T).ravel()

    terms = law.terms
    gram = np.stack([[total(cells.weight, p + r, q + s) for r, s in terms] for p, q in terms]).transpose(2, 0, 1)
    moment = np.stack([total(cells.weight * cells.error, p, q) for p, q in terms], axis=1)
    sse, multipliers = _bounded_projection(law, gram, moment, float(cells.weight @ cells.error**2))
    best = _lowest_basins(sse.reshape(alpha.size, beta.size))
    grid = np.stack(np.meshgrid(alpha, beta, indexing="ij"), axis=-1).reshape(-1, 2)[best]
    public = np.empty((len(best), len(law.parameters)))
    for k, (where, (p, q)) in enumerate(zip(law.multipliers(), terms, strict=True)):
        public[:, where] = multipliers[best, k] * np.exp(p * grid[:, 0] * ln_n0 + q * grid[:, 1] * ln_v0)
        if law.parameters[where].logarithmic:
            public[:, where] = np.maximum(public[:, where], 1e-6)
    public[:, law.position("alpha")], public[:, law.position("beta")] = grid.T
    return law.to_working(public)


def project(law: "SeparableLaw", theta: Array, cells: Cells, weight: Array) -> Array:
    """theta (B, K) with the multipliers replaced by the best ones for its exponents (variable projection)."""
    alpha, beta = theta[:, [law.position("alpha")]], theta[:, [law.position("beta")]]
    in_n, in_v = np.exp(-alpha * cells.ln_n), np.exp(-beta * cells.ln_v)
    columns = np.stack([in_n**p * in_v**q for p, q in law.terms], axis=2)
    weighted = columns * weight[..., None]
    gram = columns.transpose(0, 2, 1) @ weighted
    moment = np.einsum("bct,c->bt", weighted, cells.error)
    usable = np.isfinite(gram).all(axis=(1, 2))
    gram[~usable] = np.eye(len(law.terms))
    public = law.to_public(theta)
    multipliers, settled = _same_set_projection(law, gram, moment, public[:, law.multipliers()])
    if not settled.all():
        sse, others = _bounded_projection(law, gram[~settled], moment[~settled], 0.0)
        multipliers[~settled] = others
        usable[~settled] &= np.isfinite(sse)
    # D above the least error is out of bounds: keep the step of the solver there.
    usable &= ~((multipliers[:, -1] > cells.error.min()) & (law.parameters[-1].lower == 0))
    public[:, law.multipliers()] = multipliers
    return np.where(usable[:, None], law.to_working(public), theta)


def _same_set_projection(law: "SeparableLaw", gram: Array, moment: Array, current: Array) -> tuple[Array, Array]:
    """Multipliers (B, terms) with the current zeros kept, and whether that is the best set of zeros (B,)."""
    bounded = np.array([law.parameters[where].lower == 0 for where in law.multipliers()])
    free = (current > 1e-9) | ~bounded
    system = gram * (free[:, :, None] & free[:, None, :])
    diagonal = np.einsum("bkk->bk", system)
    diagonal[...] = np.where(free, diagonal * (1 + 1e-12), 1.0)
    solved = np.linalg.solve(system, np.where(free, moment, 0.0)[:, :, None])[:, :, 0]
    gain = moment - np.einsum("bkl,bl->bk", gram, solved)  # of raising a multiplier that is held
    right = np.where(free, (solved >= 0) | ~bounded, gain <= 1e-12 * np.abs(moment))
    return solved, right.all(axis=1)


def _lowest_basins(sse: Array) -> Array:
    """Flat indices of at most N_STARTS local minima of the grid, the lowest first."""
    padded = np.pad(sse, 1, constant_values=np.inf)
    rows, columns = sse.shape
    neighbours = [
        padded[1 + i : 1 + i + rows, 1 + j : 1 + j + columns]
        for i in (-1, 0, 1)
        for j in (-1, 0, 1)
        if (i, j) != (0, 0)
    ]
    hopeless = sse > 10 * sse.min() + 1e-12  # a basin this far up does not hold the global optimum of a smooth law
    minima = np.flatnonzero(((sse <= np.min(neighbours, axis=0)) & ~hopeless).ravel())
    return minima[np.argsort(sse.ravel()[minima], kind="stable")][:N_STARTS]


def _bounded_projection(law: "SeparableLaw", gram: Array, moment: Array, square: float) -> tuple[Array, Array]:
    """Least sum of squares and multipliers at each grid point, trying every set of multipliers held at zero."""
    n_terms = gram.shape[1]
    bounded = [law.parameters[where].lower == 0 for where in law.multipliers()]
    best = np.full(len(gram), np.inf)
    multipliers = np.zeros((len(gram), n_terms))
    for n_free in range(1, n_terms + 1):
        for free in map(list, combinations(range(n_terms), n_free)):
            ridge = 1e-12 * np.einsum("gkk->gk", gram)[:, free]
            system = gram[:, free][:, :, free] + ridge[:, :, None] * np.eye(n_free)
            solved = np.linalg.solve(system, moment[:, free, None])[:, :, 0]
            sse = square - np.einsum("gk,gk->g", solved, moment[:, free])
            feasible = np.all((solved >= 0) | ~np.array(bounded)[free], axis=1)
            improves = feasible & (sse < best)
            best = np.where(improves, sse, best)
            proposal = np.zeros_like(multipliers)
            proposal[:, free] = solved
            multipliers = np.where(improves[:, None], proposal, multipliers)
    return best, multipliers
