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
    max_steps: int = 200,
    tolerance: float = 1e-9,
) -> Solution:
    """Minimise sum_c weight * (target - model)**2 for each problem of the batch.

    target: (C,) shared or (B, C). start: (B, K). weight: (C,) or (B, C). lower, upper: broadcast to (B, K); equal
    bounds keep a parameter fixed.
    """
    lower_BK = np.broadcast_to(-np.inf if lower is None else lower, start.shape)
    upper_BK = np.broadcast_to(np.inf if upper is None else upper, start.shape)
    theta = np.clip(start, lower_BK, upper_BK)
    damping = np.zeros(len(theta))
    done = np.zeros(len(theta), dtype=bool)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        sse, curvature, descent = _normal_equations(model, theta, target, weight)
        for _ in range(max_steps):
            held = ((theta <= lower_BK) & (descent <= 0)) | ((theta >= upper_BK) & (descent >= 0))
            step = _step(curvature, descent, held, damping)
            proposal = np.clip(theta + step, lower_BK, upper_BK)
            proposal = np.where(np.isfinite(proposal), proposal, theta)
            moved = np.abs(proposal - theta) / (1 + np.abs(theta))
            new = _normal_equations(model, proposal, target, weight)
            better = new[0] <= sse
            settled = moved.max(axis=1) < tolerance
            # A relative gain this small is rounding; further steps would be random.
            settled |= better & (sse - new[0] <= 1e-14 * sse) & (damping == 0)
            theta = np.where(better[:, None], proposal, theta)
            sse = np.where(better, new[0], sse)
            curvature = np.where(better[:, None, None], new[1], curvature)
            descent = np.where(better[:, None], new[2], descent)
            damping = np.where(better, np.where(damping < 1e-6, 0.0, damping / 10), np.maximum(damping * 10, 1e-4))
            done |= settled
            if done.all():
                break
            if (damping > 1e12).all():
                break
    return Solution(theta=theta, sse=sse, converged=done & np.isfinite(sse))


def _normal_equations(model: Model, theta: Array, target: Array, weight: Array) -> tuple[Array, Array, Array]:
    """Sum of squares (B,), J'WJ (B, K, K) and J'Wr (B, K)."""
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
    return sse, curvature, descent


def _step(curvature: Array, descent: Array, held: Array, damping: Array) -> Array:
    """The damped Gauss-Newton step (B, K), independent of units; parameters that are held do not move."""
    scale = np.sqrt(np.einsum("bkk->bk", curvature))
    scale = np.where((scale > 0) & np.isfinite(scale), scale, 1.0)
    free = ~held
    inside = (free[:, :, None] & free[:, None, :]) / (scale[:, :, None] * scale[:, None, :])
    system = curvature * inside
    diagonal = np.einsum("bkk->bk", system)
    diagonal[...] = np.where(free, diagonal * (1 + damping[:, None]) + 1e-14, 1.0)
    system = np.where(np.isfinite(system), system, 0.0)
    right = np.where(free & np.isfinite(descent), descent / scale, 0.0)
    try:
        step = np.linalg.solve(system, right[:, :, None])[:, :, 0]
    except np.linalg.LinAlgError:
        step = np.stack([np.linalg.lstsq(a, b, rcond=None)[0] for a, b in zip(system, right, strict=True)])
    return step / scale
