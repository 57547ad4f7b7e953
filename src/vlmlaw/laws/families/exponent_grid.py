"""Where the search for a sum of products of powers begins: every pair of exponents of a grid, and the lowest basins."""

from __future__ import annotations

import numpy as np

from vlmlaw.laws.cells import Array, Cells
from vlmlaw.laws.families.law import N_STARTS
from vlmlaw.laws.families.projection import SumOfPowers, bounded_multipliers, multiplier_bounds, parameters_of

# Exponent times the range of ln N or ln V: what the factor N^-alpha loses across the grid, from 1 % to e^5.
_POSITIVE = np.geomspace(0.01, 5.0, 10)
EXPONENT_GRID = np.concatenate([-_POSITIVE[::-1], _POSITIVE])


def separable_starts(law: SumOfPowers, cells: Cells) -> Array:
    """Best starts (B, K): the multipliers at every pair of exponents of a grid, and the lowest basins among them.

    Every sum over cells is an entry of a matrix product (grid of alpha x cells) @ (cells x grid of beta), so the whole
    grid costs a dozen small products however many cells.
    """
    # Powers of N / N0 and V / V0 keep the sums near one; the multipliers are scaled back at the end.
    ln_n0, ln_v0 = cells.ln_n.mean(), cells.ln_v.mean()
    x, z = cells.ln_n - ln_n0, cells.ln_v - ln_v0
    alpha, beta = EXPONENT_GRID / np.ptp(x), EXPONENT_GRID / np.ptp(z)
    in_n, in_v = np.exp(-np.outer(alpha, x)), np.exp(-np.outer(beta, z))
    powers_n = [np.ones_like(in_n), in_n, in_n**2]
    powers_v = [np.ones_like(in_v), in_v, in_v**2]

    def total(values: Array, p: int, q: int) -> Array:
        return ((powers_n[p] * values) @ powers_v[q].T).ravel()

    terms, n_terms = law.terms, len(law.terms)
    gram = np.empty((alpha.size * beta.size, n_terms, n_terms))
    for i, (p, q) in enumerate(terms):
        for j, (r, s) in enumerate(terms[: i + 1]):
            gram[:, i, j] = gram[:, j, i] = total(cells.weight, p + r, q + s)
    moment = np.stack([total(cells.weight * cells.error, p, q) for p, q in terms], axis=1)
    lower, upper = multiplier_bounds(law, *law.bounds(cells))
    multipliers, _ = bounded_multipliers(gram, moment, lower, upper)
    sse = np.einsum("gk,gk->g", multipliers, np.einsum("gkl,gl->gk", gram, multipliers) - 2 * moment)
    sse += float(cells.weight @ cells.error**2)
    best = _lowest_basins(sse.reshape(alpha.size, beta.size), spread=n_terms > 2)
    exponents = np.stack(np.meshgrid(alpha, beta, indexing="ij"), axis=-1).reshape(-1, 2)[best]
    return parameters_of(law, exponents, multipliers[best], ln_n0, ln_v0, least=1e-6)


def _lowest_basins(sse: Array, *, spread: bool) -> Array:
    """Flat indices of at most N_STARTS local minima of the grid, the lowest first; with `spread` always as many."""
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
    chosen = minima[np.argsort(sse.ravel()[minima], kind="stable")][:N_STARTS]
    if not spread:
        return chosen
    # Where a multiplier reaches zero a basin may have two ends that the grid does not tell apart.
    for place in np.argsort(sse, axis=None, kind="stable"):
        if chosen.size == N_STARTS or hopeless.ravel()[place]:
            break
        apart = np.abs(np.array(divmod(int(place), columns))[:, None] - np.array(divmod(chosen, columns))).max(axis=0)
        if apart.min() >= 2:
            chosen = np.append(chosen, place)
    return chosen
