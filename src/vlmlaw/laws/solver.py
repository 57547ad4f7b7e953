"""Batched least squares: Levenberg-Marquardt with box bounds for many small problems, such as starts or draws.

A single fit, a profile and ten thousand bootstrap draws are the same call with different batch sizes. scipy has no
batched solver; for one problem the results agree with `scipy.optimize.least_squares` (see the tests).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vlmlaw.laws.cells import Array

MAD_TO_SIGMA = 0.6744897501960817

# theta (K, B, 1) -> model (B, C), gradient (K, B, C)
Model = Callable[[Array], tuple[Array, Array]]
# theta (K, B, 1), residual times weight (B, C) -> sum over C of it times the model's second derivatives (B, K, K)
Bend = Callable[[Array, Array], Array]


@dataclass(frozen=True)
class Solution:
    """theta (B, K), the weighted sum of squares (B,), and whether each problem converged (B,)."""

    theta: Array
    sse: Array
    converged: Array


def solve(
    model: Model,
    target: Array,
    *,
    start: Array,
    weight: Array,
    lower: Array | None = None,
    upper: Array | None = None,
    project: Callable[[Array], Array] | None = None,
    bend: Bend | None = None,
    max_steps: int = 200,
    tolerance: float = 1e-9,
) -> Solution:
    """Minimise sum_c weight * (target - model)**2 for each problem of the batch.

    target: (C,) shared or (B, C). start: (B, K). weight: (C,) or (B, C). lower, upper: broadcast to (B, K); equal
    bounds keep a parameter fixed. project: (B, K) -> (B, K), sets the linear parameters to their best values for the
    others; with it the search follows the curved valleys of laws whose multipliers and exponents compensate. bend: the
    second derivatives, for steps of Newton instead of Gauss and Newton where the sum of squares is convex: along such a
    valley those of Gauss and Newton overshoot, and take 60 steps where Newton's take 8.
    """
    lower_BK = np.broadcast_to(-np.inf if lower is None else lower, start.shape)
    upper_BK = np.broadcast_to(np.inf if upper is None else upper, start.shape)
    theta = np.clip(start, lower_BK, upper_BK)
    damping = np.zeros(len(theta))
    done = np.zeros(len(theta), dtype=bool)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        sse, curvature, descent, bent = _normal_equations(model, theta, target, weight, bend)
        for _ in range(max_steps):
            held = ((theta <= lower_BK) & (descent <= 0)) | ((theta >= upper_BK) & (descent >= 0))
            step = _step(curvature, descent, held, damping, bent)
            proposal = np.clip(theta + step, lower_BK, upper_BK)
            proposal = np.where(np.isfinite(proposal), proposal, theta)
            if project is not None:
                proposal = np.clip(project(proposal), lower_BK, upper_BK)
            moved = np.abs(proposal - theta) / (1 + np.abs(theta))
            new = _normal_equations(model, proposal, target, weight, bend)
            better = new[0] <= sse
            settled = moved.max(axis=1) < tolerance
            # A relative gain this small is rounding; further steps would be random.
            settled |= better & (sse - new[0] <= 1e-14 * sse) & (damping == 0)
            theta = np.where(better[:, None], proposal, theta)
            sse = np.where(better, new[0], sse)
            curvature = np.where(better[:, None, None], new[1], curvature)
            descent = np.where(better[:, None], new[2], descent)
            if bend is not None:
                bent = np.where(better[:, None, None], new[3], bent)
            damping = np.where(better, np.where(damping < 1e-6, 0.0, damping / 10), np.maximum(damping * 10, 1e-4))
            done |= settled
            if done.all():
                break
            if (damping > 1e12).all():
                break
    return Solution(theta=theta, sse=sse, converged=done & np.isfinite(sse))


def _normal_equations(
    model: Model, theta: Array, target: Array, weight: Array, bend: Bend | None
) -> tuple[Array, Array, Array, Array]:
    """Sum of squares (B,), J'WJ (B, K, K), J'Wr (B, K), and what `bend` gives (B, K, K), or nothing."""
    fitted, gradient = model(theta.T[:, :, None])
    residual = target - fitted
    weighted = residual * weight
    sse = np.einsum("bc,bc->b", residual, weighted)
    sse = np.where(np.isfinite(sse), sse, np.inf)
    descent = np.einsum("kbc,bc->bk", gradient, weighted)
    n_parameters = len(gradient)
    curvature = np.empty((len(theta), n_parameters, n_parameters))
    for row in range(n_parameters):
        tilted = gradient[row] * weight
        for column in range(row + 1):
            curvature[:, row, column] = curvature[:, column, row] = np.einsum("bc,bc->b", tilted, gradient[column])
    bent = np.empty(0) if bend is None else bend(theta.T[:, :, None], weighted)
    return sse, curvature, descent, bent


def _step(curvature: Array, descent: Array, held: Array, damping: Array, bent: Array) -> Array:
    """The damped Gauss-Newton step, or Newton's, (B, K), independent of units; parameters that are held do not move."""
    scale = np.sqrt(np.einsum("bkk->bk", curvature))
    scale = np.where((scale > 0) & np.isfinite(scale), scale, 1.0)
    free = ~held
    inside = (free[:, :, None] & free[:, None, :]) / (scale[:, :, None] * scale[:, None, :])
    system = curvature * inside
    diagonal = np.einsum("bkk->bk", system)
    diagonal[...] = np.where(free, diagonal * (1 + damping[:, None]) + 1e-14, 1.0)
    system = np.where(np.isfinite(system), system, 0.0)
    if bent.size:
        newton = system - np.where(np.isfinite(bent), bent, np.inf) * np.where(inside > 0, inside, 0.0)
        whole = np.isfinite(newton).all(axis=(1, 2))
        convex = np.linalg.eigvalsh(np.where(whole[:, None, None], newton, 0.0))[:, 0] > 1e-9
        system = np.where(convex[:, None, None], newton, system)
    right = np.where(free & np.isfinite(descent), descent / scale, 0.0)
    try:
        step = np.linalg.solve(system, right[:, :, None])[:, :, 0]
    except np.linalg.LinAlgError:
        step = np.stack([np.linalg.lstsq(a, b, rcond=None)[0] for a, b in zip(system, right, strict=True)])
    return step / scale
