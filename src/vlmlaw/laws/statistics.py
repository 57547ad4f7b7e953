"""Statistics that judge a fit: Student's t quantiles, and the test of lack of fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.special import fdtrc, ndtri, stdtrit

if TYPE_CHECKING:
    from vlmlaw.laws.result import LawFit


def student_t(level: float, degrees_of_freedom: float) -> float:
    """Two-sided quantile of Student's t, or of the normal distribution for infinite degrees of freedom."""
    if not np.isfinite(degrees_of_freedom):
        return float(ndtri(0.5 + level / 2))
    return float(stdtrit(degrees_of_freedom, 0.5 + level / 2))


def lack_of_fit(fit: LawFit) -> float:
    """p value of the F test of the law against free means of the cells; nan without replicates or spare cells.

    >>> from vlmlaw.laws import fit_law, read_measurements
    >>> fit = fit_law(read_measurements("li2024_reasoning"), "logit")
    >>> lack_of_fit(fit)  # the published table has one measurement of each cell
    nan
    """
    cells = fit.cells
    _, cell = np.unique(np.stack([cells.n, cells.v]), axis=1, return_inverse=True)
    cell = cell.ravel()
    n_distinct = int(cell.max()) + 1
    spare, pure = n_distinct - fit.n_parameters + len(fit.at_bound), len(cells) - n_distinct
    if spare <= 0 or pure <= 0:
        return float("nan")
    means = np.bincount(cell, cells.weight * cells.error) / np.bincount(cell, cells.weight)
    within = float(cells.weight @ (cells.error - means[cell]) ** 2)
    if within <= 0:
        return float("nan")
    return float(fdtrc(spare, pure, max(fit.sse - within, 0.0) / spare / (within / pure)))
