"""Fit one law: an exhaustive search for starting points, then local least squares from the best; deterministic."""

import warnings

import numpy as np
import pandas as pd

from vlmlaw.errors import UserError
from vlmlaw.laws.cells import Array, Cells, refuse_unfit
from vlmlaw.laws.families import Law, find_law
from vlmlaw.laws.linter.lint import require_clean
from vlmlaw.laws.replicates import collapse_questions
from vlmlaw.laws.result import LawFit
from vlmlaw.laws.solver import MAD_TO_SIGMA, Solution
from vlmlaw.laws.table import Measurements, as_measurements

HUBER_K = 1.345  # 95 % efficient on Gaussian noise; statsmodels' HuberT has the same


def fit_law(
    table: Measurements | pd.DataFrame | Cells,
    law: str | Law = "power",
    *,
    loss: str = "squared",
    weights: str = "none",
    allow_missing: bool = False,
) -> LawFit:
    """Fit one law to the measured cells of one suite and kind of question.

    table: Measurements, a data frame with columns N, V and error, or Cells.
    loss: "squared", or "huber" against outliers. weights: "none", or "se" for 1 / error_se**2.
    Warnings of the linter are issued as LintWarning. Raises UserError for errors of the linter, for a table of several
    suites or kinds, and for cells that cannot determine the law.

    >>> from vlmlaw.laws import read_measurements
    >>> fit_law(read_measurements("li2024_reasoning"), "power")
    <LawFit power: A=0.590771, alpha=0.0709375, beta=0.0151016, D=0; sse=0.00037938, n=28>
    """
    if isinstance(table, Cells):
        return fit_cells(table, law, loss=loss)
    table = as_measurements(table)
    if len(table.groups) > 1:
        names = ", ".join(f"{group['suite']}/{group['kind']}" for group in table.groups)
        raise UserError(
            f"{table.source} holds several suites or kinds: {names}. Select one, by table.select(suite=..., kind=...) "
            "or --where suite=... --where kind=..., or fit each of them by analyse(table) or `vlmlaw law fit`"
        )
    for finding in require_clean(table, allow_missing=allow_missing):
        warnings.warn(str(finding), LintWarning, stacklevel=2)
    return fit_cells(collapse_questions(table).cells(weights=weights), law, loss=loss)


class LintWarning(UserWarning):
    """A warning of the linter about the measurements that a law is fitted to.

    >>> from vlmlaw.laws import read_measurements
    >>> with warnings.catch_warnings(record=True) as found:
    ...     _ = fit_law(read_measurements("li2024_ocr"), "logit")
    >>> [str(warning.message).split(":")[0] for warning in found][0]
    'warning [equal-values] N = 4 B, V = 576 (line 22), N = 7 B, V = 576 (line 29)'
    """


def fit_cells(cells: Cells, law: str | Law = "power", *, loss: str = "squared") -> LawFit:
    """Fit one law to cells by least squares, or by Huber's loss, on the scale of the error.

    Raises UserError if the cells cannot determine the law: too few, one size only, collinear, constant error.
    """
    law = find_law(law)
    refuse_unfit(cells, n_parameters=len(law.parameters))
    best = _solve_from(law, cells, law.starts(cells), cells.weight)
    if not np.isfinite(best.sse[0]):
        raise UserError(
            f"law {law.name!r} has no finite fit to these {len(cells)} cells; try another law (logit never overflows), "
            "and check N and V for wrong units"
        )
    if loss == "squared":
        return _result(law, cells, best, loss=loss, robust_weight=None)
    if loss != "huber":
        raise UserError(f"loss {loss!r} is unknown; expected squared or huber")
    return _fit_huber(law, cells, best)


def _solve_from(law: Law, cells: Cells, starts: Array, weight: Array) -> Solution:
    """The best of the local searches from `starts` (B, K), as a solution with a batch of one."""
    found = law.minimise(cells, starts, weight=weight, bounds=law.bounds(cells), race=True)
    # Among optima that agree to rounding, prefer a converged one.
    good = np.flatnonzero(found.sse <= found.sse.min() * (1 + 1e-10))
    i = good[np.argmax(found.converged[good])] if good.size else int(np.argmin(found.sse))
    return Solution(theta=found.theta[[i]], sse=found.sse[[i]], converged=found.converged[[i]])


def _fit_huber(law: Law, cells: Cells, start: Solution) -> LawFit:
    """Huber's M-estimate by reweighting; each step takes its scale from the median absolute residual, as RLM does."""
    found, robust = start, np.ones(len(cells))
    for _ in range(200):
        residual = _residual(law, cells, found) * np.sqrt(cells.weight)
        scale = np.median(np.abs(residual)) / MAD_TO_SIGMA
        if scale <= 0:
            break
        robust = np.minimum(1.0, HUBER_K * scale / np.maximum(np.abs(residual), 1e-300))
        previous = found.theta
        found = _solve_from(law, cells, previous, cells.weight * robust)
        if np.abs(found.theta - previous).max() < 1e-10:
            break
    return _result(law, cells, found, loss="huber", robust_weight=robust)


def _residual(law: Law, cells: Cells, found: Solution) -> Array:
    return cells.error - law.evaluate(found.theta.T[:, :, None], cells.ln_n, cells.ln_v)[0][0]


def _result(law: Law, cells: Cells, found: Solution, *, loss: str, robust_weight: Array | None) -> LawFit:
    theta = found.theta[0]
    lower, upper = law.bounds(cells)
    held = (theta <= lower) | (theta >= upper)
    residual = _residual(law, cells, found)
    sse = float(cells.weight @ residual**2)
    return LawFit(
        law=law,
        cells=cells,
        theta=theta,
        covariance=_covariance(law, cells, theta, held, residual, robust_weight),
        sse=sse,
        converged=bool(found.converged[0]),
        at_bound=tuple(p.name for p, at in zip(law.parameters, held, strict=True) if at),
        loss=loss,
        robust_weight=robust_weight,
    )


def _covariance(
    law: Law, cells: Cells, theta: Array, held: Array, residual: Array, robust_weight: Array | None
) -> Array:
    """Covariance (K, K) in working coordinates; zero for parameters on a bound."""
    free = np.flatnonzero(~held)
    gradient = law.evaluate(theta[:, None, None], cells.ln_n, cells.ln_v)[1][free, 0]
    root = np.sqrt(cells.weight)
    freedom = len(cells) - free.size
    scaled = residual * root
    if robust_weight is None:
        variance = scaled @ scaled / freedom
    else:  # Huber 1981, (6.5): the influence's variance over its mean slope squared, with the small-sample factor
        inside = robust_weight >= 1
        mean_slope = max(inside.mean(), 1 / len(cells))
        correction = 1 + free.size / len(cells) * (1 - mean_slope) / mean_slope
        variance = correction**2 * ((scaled * robust_weight) ** 2).sum() / freedom / mean_slope**2
    covariance = np.zeros((len(theta), len(theta)))
    inverse = np.linalg.pinv(gradient * root, rcond=1e-13)
    covariance[np.ix_(free, free)] = variance * inverse.T @ inverse
    return covariance
