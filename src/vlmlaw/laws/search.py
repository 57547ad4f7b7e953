"""Exhaustive search for starting points: linear parameters projected out, exponents on a grid.

For laws made of products of powers, every sum over cells that the projection needs is an entry of a matrix product
(grid of alpha x cells) @ (cells x grid of beta), so the whole grid costs a dozen small products however many cells.
"""

from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from vlmlaw.laws.cells import Array, Cells

if TYPE_CHECKING:
    from vlmlaw.laws.links import IndexLaw
    from vlmlaw.laws.powers import SeparableLaw

N_STARTS = 3  # local searches that follow
N_SEARCHED_CELLS = 512  # link laws are searched on a spread of at most this many cells, then fitted to all
# Exponent times the range of ln N or ln V: what the factor N^-alpha loses across the grid, from 1 % to e^5.
_POSITIVE = np.geomspace(0.01, 5.0, 14)
EXPONENT_GRID = np.concatenate([-_POSITIVE[::-1], _POSITIVE])


def index_starts(law: "IndexLaw", cells: Cells) -> Array:
    """Best starts (B, 3) of a link law: its own regression on the link's scale, and a grid of slopes around none."""
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
    # The regression is always tried: where the data follow the law it is next to the optimum.
    best = [0, *(i for i in np.argsort(sse, kind="stable") if i != 0)]
    return candidates[best[:N_STARTS]]


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
    # D above the least error is out of bounds: there the solver's own step stands.
    usable &= ~((multipliers[:, -1] > cells.error.min()) & (law.parameters[-1].lower == 0))
    public[:, law.multipliers()] = multipliers
    return np.where(usable[:, None], law.to_working(public), theta)


def _same_set_projection(law: "SeparableLaw", gram: Array, moment: Array, current: Array) -> tuple[Array, Array]:
    """Multipliers (B, terms) with those held at zero that are there now, and where that is the best set (B,)."""
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
    """Flat indices of the grid's local minima, lowest first, at most N_STARTS."""
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


def _spread(cells: Cells) -> Cells:
    """At most N_SEARCHED_CELLS cells spread evenly over the sorted table, so that row order does not matter."""
    if len(cells) <= N_SEARCHED_CELLS:
        return cells
    order = np.lexsort([cells.error, cells.v, cells.n])
    return cells.take(order[np.linspace(0, len(order) - 1, N_SEARCHED_CELLS).astype(int)])
