"""Least squares of sums of products of powers: the multipliers are solved for, and the two exponents searched.

At given exponents the multipliers are a small linear problem within bounds, so the sum of squares is a function of two
numbers, whose exact curvature is known: Newton's steps on it take about eight evaluations where steps in all parameters
take twenty, as multipliers and exponents compensate along curved valleys. Problems are solved in batches (B), such as
starts, or the cells without each size.

Sources: Golub and Pereyra 1973, SIAM Journal on Numerical Analysis 10(2), for the projection; Stark and Parker 1995,
Computational Statistics 10, for least squares within bounds; Dauphin et al. 2014, arXiv 1406.2572, for steps by the
absolute curvature where a valley bends down.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import numpy as np

from vlmlaw.laws.cells import Array, Cells
from vlmlaw.laws.families.law import Parameter
from vlmlaw.laws.solver import Solution

# Longest step in those units: at first, and ever.
FIRST_RADIUS, LONGEST_RADIUS = 0.5, 4.0
MAX_STEPS = 100
GRACE = 3  # steps of the other starts after one has arrived
# Share of the sum of squares that the last step may promise, of a fit, and where only predictions are wanted.
CLOSE, CLOSE_PREDICTION = 1e-13, 1e-6
SHORTEST_SHARE = 0.05  # of a step that ends where a multiplier reaches its bound


class SumOfPowers(Protocol):
    """What the search asks of a law: see `SeparableLaw` of `powers.py`."""

    terms: ClassVar[tuple[tuple[int, int], ...]]
    parameters: ClassVar[tuple[Parameter, ...]]

    def multipliers(self) -> list[int]: ...
    def position(self, name: str) -> int: ...
    def bounds(self, cells: Cells) -> tuple[Array, Array]: ...
    def to_working(self, public: Array) -> Array: ...


def parameters_of(
    law: SumOfPowers, exponents: Array, multipliers: Array, ln_n0: float, ln_v0: float, *, least: float = 0.0
) -> Array:
    """theta (B, K) of exponents (B, 2) and of multipliers (B, terms) of powers of N / N0 and V / V0."""
    public = np.empty((len(exponents), len(law.parameters)))
    for k, (where, (p, q)) in enumerate(zip(law.multipliers(), law.terms, strict=True)):
        public[:, where] = multipliers[:, k] * np.exp(p * exponents[:, 0] * ln_n0 + q * exponents[:, 1] * ln_v0)
        if law.parameters[where].logarithmic:
            public[:, where] = np.maximum(public[:, where], least)
    public[:, law.position("alpha")], public[:, law.position("beta")] = exponents.T
    return law.to_working(public)


def multiplier_bounds(law: SumOfPowers, lower: Array, upper: Array) -> tuple[Array, Array]:
    """Bounds of the multipliers in public units, of bounds (..., K) in working coordinates."""
    where = law.multipliers()
    logarithmic = np.array([law.parameters[k].logarithmic for k in where])
    return np.where(logarithmic, 0.0, lower[..., where]), np.where(logarithmic, np.inf, upper[..., where])


def bounded_multipliers(
    gram: Array, moment: Array, lower: Array, upper: Array, side: Array | None = None
) -> tuple[Array, Array]:
    """The c (G, T) of least c'Gc - 2c'm within bounds, broadcast to (G, T), and the side of each.

    side: -1 for a multiplier on its lower bound, 1 on its upper one, 0 on none; given, it is what the search begins
    with. In each round the multiplier furthest out of its bounds goes to its bound, or, where none is out, the one that
    gains most comes back. Sets of at most four settle within a few rounds.
    """
    lower, upper = np.broadcast_to(lower, moment.shape), np.broadcast_to(upper, moment.shape)
    side = np.zeros(moment.shape) if side is None else side.copy()
    multipliers = _held_multipliers(gram, moment, lower, upper, side)
    todo = np.arange(len(moment))
    for _ in range(3 * moment.shape[1]):
        here, low, high = multipliers[todo], lower[todo], upper[todo]
        out = np.maximum(low - here, here - high)
        gain = side[todo] * ((gram[todo] @ here[:, :, None])[:, :, 0] - moment[todo]) - 1e-12 * np.abs(moment[todo])
        moving = ((out > 0) | (gain > 0)).any(axis=1)
        if not moving.any():
            break
        todo, here, low, out, gain = todo[moving], here[moving], low[moving], out[moving], gain[moving]
        rows, worst, most = np.arange(todo.size), out.argmax(axis=1), gain.argmax(axis=1)
        clamp = out[rows, worst] > 0
        side[todo[clamp], worst[clamp]] = np.where((here < low)[rows, worst][clamp], -1.0, 1.0)
        side[todo[~clamp], most[~clamp]] = 0.0
        multipliers[todo] = _held_multipliers(gram[todo], moment[todo], lower[todo], upper[todo], side[todo])
    return np.clip(multipliers, lower, upper), side


def _held_multipliers(gram: Array, moment: Array, lower: Array, upper: Array, side: Array) -> Array:
    """The best multipliers (G, T) with those of a side held on their bound."""
    free = side == 0
    if free.all():
        right = moment
    else:
        fixed = np.where(free, 0.0, np.where(side < 0, lower, upper))
        right = np.where(free, moment - (gram @ fixed[:, :, None])[:, :, 0], fixed)
    return np.linalg.solve(_held_system(gram, free), right[:, :, None])[:, :, 0]


def _held_system(gram: Array, free: Array) -> Array:
    """The equations (G, T, T) of those that are free, and an identity for the others."""
    system = gram * (free[:, :, None] & free[:, None, :])
    diagonal = np.einsum("gkk->gk", system)
    diagonal *= 1 + 1e-12
    diagonal += ~free
    return system


@dataclass(frozen=True)
class _Point:
    """Exponents (B, 2) with the best multipliers (B, T) and the gradient of half the sum of squares.

    curvature: its second derivatives (B, 2, 2). follow: the derivatives of the multipliers (B, T, 2). side: whether a
    multiplier is on its lower bound (-1), its upper one (1), or on none (0) (B, T).
    """

    exponents: Array
    multipliers: Array
    sse: Array
    gradient: Array
    curvature: Array
    follow: Array
    side: Array

    @property
    def is_convex(self) -> Array:
        """Whether the sum of squares bends upwards in every direction (B,)."""
        (a, b), (_, c) = np.moveaxis(self.curvature, 0, -1)
        return (a > 0) & (a * c > b * b)

    def moved(self, step: Array, low: Array, high: Array) -> _Point:
        """The point after a small step (B, 2) of the exponents, which the multipliers follow."""
        exponents = np.clip(self.exponents + step, low, high)
        multipliers = self.multipliers + (self.follow @ (exponents - self.exponents)[:, :, None])[:, :, 0]
        return replace(self, exponents=exponents, multipliers=multipliers)

    def where(self, better: Array, other: _Point) -> _Point:
        """The other point where it is better (B,), and this one elsewhere."""
        if better.all() or not better.any():
            return other if better.any() else self
        pairs = [(getattr(other, name), getattr(self, name)) for name in self.__dataclass_fields__]
        return _Point(*(np.where(better.reshape(-1, *[1] * (new.ndim - 1)), new, old) for new, old in pairs))


class _Reduced:
    """The sum of squares of a law as a function of its exponents alone."""

    def __init__(self, law: SumOfPowers, cells: Cells, weight: Array, lower: Array, upper: Array) -> None:
        self.error, self.weight = cells.error, weight
        self.lower, self.upper = multiplier_bounds(law, lower, upper)
        x, z = cells.ln_n - cells.ln_n.mean(), cells.ln_v - cells.ln_v.mean()
        p, q = np.array(law.terms, dtype=float).T
        self.powers = np.stack([p, q, p * q])  # what each derivative brings: -x where p is 1, -z where q is 1
        self.places, self.squares = np.stack([x, z]), np.stack([x * x, z * z, x * z])
        self.rates = -self.powers[:2, :, None] * self.places[:, None, :]  # (2, T, C)

    def at(self, exponents: Array, side: Array | None = None) -> _Point:
        """The best multipliers there, and how the sum of squares bends. side: of the multipliers, as a start."""
        n_terms, n_cells = self.rates.shape[1:]
        columns = np.exp(exponents @ self.rates.reshape(2, -1)).reshape(-1, n_terms, n_cells)
        weighted = columns * self.weight[..., None, :]
        gram, moment = weighted @ columns.transpose(0, 2, 1), weighted @ self.error
        usable = np.isfinite(gram).all(axis=(1, 2))
        if not usable.all():
            gram[~usable], moment[~usable], columns[~usable] = np.eye(n_terms), 0.0, 0.0
        multipliers, side = bounded_multipliers(gram, moment, self.lower, self.upper, side)
        residual = self.error - (multipliers[:, None, :] @ columns)[:, 0]
        rest = residual * self.weight
        sse = np.where(usable, (residual * rest).sum(axis=1), np.inf)
        parts = (self.powers * multipliers[:, None, :]) @ columns  # (B, 3, C)
        slope = -parts[:, :2] * self.places
        tilted = (slope * self.weight[..., None, :]).transpose(0, 2, 1)
        bend = ((parts * self.squares) @ rest[:, :, None])[:, :, 0]
        curvature = slope @ tilted - bend[:, [[0, 2], [2, 1]]]
        # The multipliers follow the exponents: Schur's complement over those that are on no bound.
        free = side == 0
        pull = columns @ (rest[:, None, :] * self.places).transpose(0, 2, 1) * self.powers[:2].T
        both = (columns @ tilted + pull) * free[:, :, None]
        follow = -np.linalg.solve(_held_system(gram, free), both)
        curvature += both.transpose(0, 2, 1) @ follow
        gradient = -(slope @ rest[:, :, None])[:, :, 0]
        return _Point(exponents, multipliers, sse, gradient, curvature, follow, side)

    def share_within_bounds(self, here: _Point, step: Array) -> Array:
        """The share of a step (B, 2) behind which a multiplier reaches its bound, where the curvature changes (B,)."""
        change = (here.follow @ step[:, :, None])[:, :, 0]
        room = np.where(change < 0, self.lower - here.multipliers, self.upper - here.multipliers)
        share = np.where(change == 0, np.inf, room / np.where(change == 0, 1.0, change))
        return np.clip(1.01 * share.min(axis=1), SHORTEST_SHARE, 1.0)


def search_exponents(
    law: SumOfPowers,
    cells: Cells,
    *,
    start: Array,
    weight: Array,
    bounds: tuple[Array, Array],
    race: bool,
) -> Solution:
    """Minimise sum_c weight * (law - error)**2 from every start (B, K), by Newton's steps within a trust region.

    weight: (C,) or (B, C). bounds: lower and upper (K,) or (B, K), in working coordinates. race: the starts are of one
    problem, of which only the best solution counts, so that the others stop soon after it is found; else of one each.
    """
    lower, upper = bounds
    where = [law.position("alpha"), law.position("beta")]
    low, high = (np.broadcast_to(bound[..., where], (len(start), 2)) for bound in (lower, upper))
    reduced = _Reduced(law, cells, weight, lower, upper)
    unit = 1 / np.array([np.ptp(cells.ln_n), np.ptp(cells.ln_v)])
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        found, done = _descend(reduced, np.clip(start[:, where], low, high), low, high, unit, race=race)
    theta = parameters_of(law, found.exponents, found.multipliers, cells.ln_n.mean(), cells.ln_v.mean())
    return Solution(theta=np.clip(theta, lower, upper), sse=found.sse, converged=done & np.isfinite(found.sse))


def _descend(
    reduced: _Reduced, start: Array, low: Array, high: Array, unit: Array, *, race: bool
) -> tuple[_Point, Array]:
    """The lowest point from each start (B, 2), and whether the search arrived there (B,).

    A step that ends higher, but where other multipliers are on a bound, may have led to the right side of a kink with
    a curvature of its own: one more step is made from there before the search returns (a watchdog: Chamberlain et al.
    1982, Mathematical Programming Study 16).
    """
    home = here = reduced.at(start)
    radius, done, away = np.full(len(start), FIRST_RADIUS), np.zeros(len(start), bool), np.zeros(len(start), bool)
    grace = GRACE
    for _ in range(MAX_STEPS):
        held = ((here.exponents <= low) & (here.gradient >= 0)) | ((here.exponents >= high) & (here.gradient <= 0))
        step, length, gain = _newton_step(here, held, unit, np.where(away, LONGEST_RADIUS, radius))
        share = reduced.share_within_bounds(here, step)
        close = ~done & ~away & (gain <= (CLOSE if race else CLOSE_PREDICTION) * here.sse) & (share == 1)
        if close.any():  # this step is too small to be seen in the sum of squares, so it is the last
            home = here = here.moved(np.where(close[:, None], step, 0.0), low, high)
            done |= close
        proposal = np.clip(here.exponents + np.where(done[:, None], 0.0, share[:, None] * step), low, high)
        moved = (np.abs(proposal - here.exponents) / (1 + np.abs(here.exponents))).max(axis=1)
        done |= (moved < (1e-9 if race else 1e-6)) & ~away
        if done.all():
            break
        new = reduced.at(proposal, here.side)
        better = (new.sse <= home.sse) & ~done
        done |= better & (home.sse - new.sse <= 1e-15 * home.sse) & (length < radius)
        grown = np.where(length > 0.9 * radius, np.minimum(2 * radius, LONGEST_RADIUS), radius)
        radius = np.where(away, radius, np.where(better, grown, np.minimum(length, radius) * share / 4))
        away = ~better & ~done & ~away & (new.side != home.side).any(axis=1) & new.is_convex
        home = home.where(better, new)
        here = home.where(away, new)
        if race and done.any():
            grace -= 1
            if grace <= 0:  # others that are not below the best by now hardly ever end below it
                done |= home.sse >= home.sse[done].min()
    return home, done


def _newton_step(here: _Point, held: Array, unit: Array, radius: Array) -> tuple[Array, Array, Array]:
    """A step (B, 2) of the exponents, its length in units of the grid (B,), and the gain that it promises (B,).

    Where the sum of squares bends downwards, both curvatures are raised until the lower one is as large upwards.
    """
    move = np.where(held, 0.0, unit)
    g, h = (here.gradient * move).T
    a, b, _, c = (here.curvature * (move[:, :, None] * move[:, None, :])).reshape(-1, 4).T
    a, b, c = (np.where(np.isfinite(x), x, 0.0) for x in (a, b, c))
    middle, half = (a + c) / 2, np.hypot((a - c) / 2, b)
    least = 1e-10 * (np.abs(middle) + half) + 1e-300
    raised = np.maximum(np.maximum(np.abs(middle - half), least) - (middle - half), 0.0)
    a, c = a + raised, c + raised
    determinant = np.maximum(a * c - b * b, least * (a + c) / 2)
    step = np.stack([b * h - c * g, b * g - a * h], axis=1) / determinant[:, None]
    length = np.hypot(*step.T)
    gain = -(step * np.stack([g, h], axis=1)).sum(axis=1)
    return step * move * np.minimum(1.0, radius / np.maximum(length, 1e-300))[:, None], length, gain
