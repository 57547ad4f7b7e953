"""rho for cells of one size that share an error: a linear mixed model by size, on the law linearised at its fit.

Cells of one size share a language model, so part of their error is common to them and depends on that model, not on V.
A random intercept for each size models this part. It widens the interval for the exponent of N, which is estimated from
as many values as there are sizes. The model is `MixedLM` of statsmodels, fitted by restricted maximum likelihood.
Source: Pinheiro and Bates, Mixed-Effects Models in S and S-PLUS (2000), 7.2, for the linearisation.
"""

import warnings
from dataclasses import dataclass

import numpy as np

from vlmlaw.errors import UserError
from vlmlaw.laws.cells import Array
from vlmlaw.laws.intervals import fieller_of
from vlmlaw.laws.ratio import Interval
from vlmlaw.laws.result import LawFit

METHOD = "mixed effects by size"


@dataclass(frozen=True, eq=False)
class SizeEffects:
    """rho with its interval, and the standard deviations of the error between sizes and within a size."""

    rho: Interval
    between: float
    within: float


def size_effects(fit: LawFit, *, level: float = 0.95) -> SizeEffects:
    """Estimate rho with a random effect for each size; Fieller's interval, Student's t with (sizes - 2) degrees.

    Raises UserError for fewer than three sizes, for a law without rho, and if the mixed model cannot be fitted.

    >>> from vlmlaw.laws import fit_law, read_measurements
    >>> fit = fit_law(read_measurements("li2024_reasoning"), "logit")
    >>> print(size_effects(fit).rho)
    4.72 [3.97, 5.73]
    """
    names = fit.require_rho()
    cells = fit.cells
    if cells.sizes.size < 3:
        raise UserError(f"{cells.sizes.size} sizes; an effect of size beside a law in N needs three or more")
    free = [k for k, p in enumerate(fit.law.parameters) if p.name not in fit.at_bound]
    gradient = fit.law.evaluate(fit.theta[:, None, None], cells.ln_n, cells.ln_v)[1][free, 0].T
    estimate, covariance, between, within = _mixed_model(fit.residuals, gradient, cells.n)
    where = [free.index(fit.law.position(name)) for name in names]
    alpha, beta = fit.theta[[fit.law.position(name) for name in names]] + estimate[where]
    interval = fieller_of(
        (float(alpha), float(beta)),
        covariance[np.ix_(where, where)],
        level=level,
        degrees_of_freedom=cells.sizes.size - 2,
        method=METHOD,
    )
    return SizeEffects(rho=interval, between=between, within=within)


def _mixed_model(residual: Array, gradient: Array, sizes: Array) -> tuple[Array, Array, float, float]:
    """The step from the fit (K,), its covariance (K, K), and the standard deviations between and within sizes."""
    from statsmodels.regression.mixed_linear_model import MixedLM

    # In units of the residuals: MixedLM's optimiser stops early on variances of 1e-5.
    scale = max(float(residual.std()), 1e-12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a variance at its bound of 0 is a valid result here
        try:
            found = MixedLM(residual / scale, gradient, groups=sizes).fit(reml=True)
        except (np.linalg.LinAlgError, ValueError) as error:
            raise UserError(f"the mixed model by size cannot be fitted to these cells: {error}") from error
    n_parameters = gradient.shape[1]
    covariance = np.asarray(found.cov_params())[:n_parameters, :n_parameters] * scale**2
    between = float(np.sqrt(max(np.asarray(found.cov_re)[0, 0], 0.0))) * scale
    if not np.isfinite(covariance).all():
        raise UserError("the mixed model by size has no finite covariance on these cells; there are too few of them")
    return np.asarray(found.fe_params) * scale, covariance, between, float(np.sqrt(found.scale)) * scale
