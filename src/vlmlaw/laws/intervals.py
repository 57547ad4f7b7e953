"""Intervals of rho and V*(Q) by profile likelihood and by Fieller's method, and the profiles of rho and of D.

The ratio rho = a / b is represented by its angle atan2(a, b), which passes smoothly through b = 0, where tokens have no
effect and rho is infinite. An interval whose end is not finite is one that the data do not bound on that side.
Sources: Fieller 1954; Bates and Watts, Nonlinear Regression Analysis (1988), 6.1.2, for the F threshold of a profile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from vlmlaw.errors import UserError
from vlmlaw.laws.cells import Array
from vlmlaw.laws.ratio import Interval, interval_between, rho_of_angle, v_star_of_interval, v_star_of_rho  # noqa: F401
from vlmlaw.laws.roots import root_between
from vlmlaw.laws.solver import Solution, solve
from vlmlaw.laws.statistics import student_t

if TYPE_CHECKING:
    from vlmlaw.laws.result import LawFit

D_PROFILE = (-5.0, -2.0, -1.0, -0.5, -0.2, 0.0)  # below 0 is unphysical, yet the data hardly rule it out


def rho_interval(fit: LawFit, *, level: float = 0.95, method: str = "integrated") -> Interval:
    """The interval of rho = alpha / beta.

    method: "integrated" (default) allows for noise that the cells of a size share and, for a fit that was chosen among
    laws, for the choice (see `vlmlaw.laws.posterior`). The others take the law as given and the cells as independent:
    "profile" likelihood, "fieller", or "delta" (symmetric, the least exact). Raises UserError for another method, or
    for a law without a single rho.

    >>> from vlmlaw.laws import fit_law, read_measurements
    >>> fit = fit_law(read_measurements("li2024_reasoning"), "power")
    >>> print(rho_interval(fit))
    4.7 [4.09, 5.39]
    >>> print(rho_interval(fit, method="profile"))
    4.7 [4.26, 5.22]
    """
    fit.require_rho()
    if method == "integrated":
        return fit.posterior.rho_interval(fit.gains, level=level)
    if method == "profile":
        return profile(fit, level=level)
    if method == "fieller":
        return fieller(fit, level=level)
    if method == "delta":
        half = student_t(level, fit.degrees_of_freedom) * fit.rho_se
        return Interval(fit.rho, fit.rho - half, fit.rho + half, level, "delta")
    raise UserError(f"interval method {method!r} is unknown; expected integrated, profile, fieller or delta")


def v_star_interval(
    fit: LawFit, question_tokens: float, *, level: float = 0.95, method: str = "integrated"
) -> Interval:
    """The interval of V* = Q / (rho - 1); inf where rho <= 1.

    It is as exact as that of rho, since V* is a decreasing function of rho. Raises UserError as `rho_interval` does.

    >>> from vlmlaw.laws import fit_law, read_measurements
    >>> fit = fit_law(read_measurements("li2024_reasoning"), "power")
    >>> print(v_star_interval(fit, question_tokens=50))
    13.5 [11.4, 16.2]
    """
    return v_star_of_interval(rho_interval(fit, level=level, method=method), question_tokens)


# --------------------------------------------------------------------------- profile likelihood


def profile(fit: LawFit, *, level: float = 0.95) -> Interval:
    """Profile likelihood interval of rho: every rho whose constrained fit stays within the F threshold of the best.

    >>> from vlmlaw.laws import fit_law, read_measurements
    >>> fit = fit_law(read_measurements("li2024_reasoning"), "logit")
    >>> print(profile(fit))
    4.72 [4.33, 5.16]
    """
    t = student_t(level, fit.degrees_of_freedom)
    ends = [_profile_end(fit, t, side=side) for side in (-1, 1)]
    return interval_between(float(np.arctan2(*fit.gains)), ends[0], ends[1], level=level, method="profile")


def _profile_end(fit: LawFit, t: float, *, side: int) -> float:
    """The angle on one side at which the square root of the F statistic reaches t; nan if it never does.

    The square root grows almost linearly with the angle, so the equation is solved quickly. After half a turn the same
    models return with both exponents negated, so the least likely angle is a quarter turn away.
    """
    centre, best, at = np.arctan2(*fit.gains), fit_criterion(fit), _profiler(fit)

    def excess(turn: float) -> float:
        sse = float(at(np.array([centre + side * turn])).sse[0])
        return np.sqrt(max(sse / best - 1, 0.0) * fit.degrees_of_freedom) - t

    inner, outer = 0.0, min(t * _angle_se(fit), np.pi / 2)
    while excess(outer) <= 0:
        if outer >= np.pi / 2:
            return float("nan")
        inner, outer = outer, min(1.6 * outer, np.pi / 2)
    return float(centre + side * root_between(excess, inner, outer, xtol=1e-9))


def _angle_se(fit: LawFit) -> float:
    """Standard error of the angle of (alpha, beta), by the delta method."""
    alpha, beta = fit.exponents
    gradient = np.array([beta, -alpha]) / (alpha**2 + beta**2)
    return float(np.sqrt(max(gradient @ fit.exponent_covariance @ gradient, 1e-16)))


def fit_criterion(fit: LawFit) -> float:
    """The fitted sum of squares, with the final weights of Huber's loss, which a profile keeps fixed.

    Its lower bound is that of residuals of 1e-9 of the error, since exact data leave nothing but rounding.
    """
    return float(max(_weight(fit) @ fit.residuals**2, 1e-18 * (_weight(fit) @ fit.cells.error**2)))


def _weight(fit: LawFit) -> Array:
    return fit.cells.weight * (1.0 if fit.robust_weight is None else fit.robust_weight)


def _profiler(fit: LawFit) -> Callable[[Array], Solution]:
    """A function from angles (B,) to the fits in which (alpha, beta) = r (sin angle, cos angle) with r free."""
    law, cells = fit.law, fit.cells
    i, j = (law.position(name) for name in fit.require_rho())
    others = [k for k in range(len(law.parameters)) if k not in (i, j)]
    low, high = law.bounds(cells)
    low, high = np.append(low[others], -np.inf), np.append(high[others], np.inf)
    radius = float(np.copysign(np.hypot(*fit.exponents), np.dot(fit.exponents, fit.gains)))
    centre = np.arctan2(*fit.gains)

    def at(angles: Array) -> Solution:
        sine, cosine = np.sin(angles)[:, None], np.cos(angles)[:, None]

        def model(theta: Array) -> tuple[Array, Array]:
            full = np.empty((len(law.parameters), len(angles), 1))
            full[others], full[i], full[j] = theta[:-1], theta[-1] * sine, theta[-1] * cosine
            error, gradient = law.evaluate(full, cells.ln_n, cells.ln_v)
            return error, np.concatenate([gradient[others], (sine * gradient[i] + cosine * gradient[j])[None]])

        start = np.tile(np.append(fit.theta[others], radius), (len(angles), 1))
        start[:, -1] *= np.cos(angles - centre)  # the further the ratio is from the best, the weaker the index
        return solve(model, cells.error, start=start, weight=_weight(fit), lower=low, upper=high)

    return at


def rho_profile(fit: LawFit, *, n_points: int = 61, level: float = 0.999) -> pd.DataFrame:
    """The profile of rho over its interval at `level`, for a figure.

    Columns: rho, sse (of the constrained fit), f (its F statistic against the best fit).

    Raises UserError for a law without a single rho.

    >>> from vlmlaw.laws import fit_law, read_measurements
    >>> fit = fit_law(read_measurements("li2024_reasoning"), "power")
    >>> table = rho_profile(fit, level=0.95)
    >>> print(f"{table['rho'].iloc[0]:.2f} to {table['rho'].iloc[-1]:.2f}")
    4.26 to 5.22
    """
    wide = profile(fit, level=level)
    centre = np.arctan2(*fit.gains)
    low = np.arctan(wide.lower) if np.isfinite(wide.lower) else centre - 0.45 * np.pi
    high = np.arctan(wide.upper) if np.isfinite(wide.upper) else min(centre + 0.45 * np.pi, 0.499 * np.pi)
    angles = np.linspace(low, high, n_points)
    sse = _profiler(fit)(angles).sse
    best = fit_criterion(fit)
    return pd.DataFrame({"rho": np.tan(angles), "sse": sse, "f": (sse / best - 1) * fit.degrees_of_freedom})


# --------------------------------------------------------------------------- Fieller


def fieller(fit: LawFit, *, level: float = 0.95) -> Interval:
    """Fieller's interval of the ratio of the two exponents, from their estimates and covariance.

    >>> from vlmlaw.laws import fit_law, read_measurements
    >>> fit = fit_law(read_measurements("li2024_reasoning"), "logit")
    >>> print(fieller(fit))
    4.72 [4.33, 5.16]
    """
    return fieller_of(
        fit.gains, fit.exponent_covariance, level=level, degrees_of_freedom=fit.degrees_of_freedom, method="fieller"
    )


def fieller_of(
    exponents: tuple[float, float], covariance: Array, *, level: float, degrees_of_freedom: float, method: str
) -> Interval:
    """Fieller's interval of alpha / beta for any pair of estimates with a covariance (2, 2)."""
    alpha, beta = exponents
    t2 = student_t(level, degrees_of_freedom) ** 2
    (v_aa, v_ab), (_, v_bb) = covariance
    square, middle, constant = beta**2 - t2 * v_bb, alpha * beta - t2 * v_ab, alpha**2 - t2 * v_aa
    discriminant = middle**2 - square * constant
    if discriminant < 0 or square == 0:
        return interval_between(float(np.arctan2(*exponents)), np.nan, np.nan, level=level, method=method)
    # A root stands for a line through the origin, so its angle is defined modulo half a turn, and the interval ends at
    # the next line on either side of the estimate. If b may be 0, the interval passes through infinity.
    centre = np.arctan2(alpha, beta)
    lines = np.arctan((middle + np.array([-1.0, 1.0]) * np.sqrt(discriminant)) / square)
    behind = (centre - lines) % np.pi
    ends = centre - behind.min(), centre + (np.pi - behind).min()
    return interval_between(float(centre), *ends, level=level, method=method)


# --------------------------------------------------------------------------- D


def d_profile(fit: LawFit, values: Sequence[float] | None = None) -> pd.DataFrame:
    """Fit the paper's form with D fixed at each of some values: alpha and beta depend on D, while rho hardly does.

    Columns: D, A, alpha, beta, rho, sse, delta_aicc. The default values end just below the least error. Only the cells
    of `fit` are used, whatever its law. Raises UserError for a value that is not below the least error.

    >>> from vlmlaw.laws import fit_law, read_measurements
    >>> fit = fit_law(read_measurements("li2024_reasoning"), "power")
    >>> d_profile(fit, [-5, 0, 0.35])[["D", "alpha", "rho"]].round(3).values.tolist()
    [[-5.0, 0.007, 4.715], [0.0, 0.071, 4.697], [0.35, 0.2, 4.77]]
    """
    from vlmlaw.laws.families import LAWS

    law, cells = LAWS["power_d0"], fit.cells
    least = cells.error.min()
    values = [*D_PROFILE, *np.linspace(0, least, 9)[1:-1], 0.97 * least] if values is None else list(values)
    if max(values) >= least:
        raise UserError(f"D = {max(values):g} is not below the least error, {least:g}; give smaller values")
    above = cells.error - np.array(values, dtype=float)[:, None]  # (B, C), the error above each D
    weight = _weight(fit)
    design, root = np.stack([np.ones(len(cells)), -cells.ln_n, -cells.ln_v], axis=1), np.sqrt(weight)
    start = np.linalg.lstsq(design * root[:, None], np.log(above).T * root[:, None], rcond=None)[0].T
    flat = np.column_stack([np.log(above.mean(axis=1)), np.zeros((len(above), 2))])
    found = solve(
        lambda theta: law.evaluate(theta, cells.ln_n, cells.ln_v),
        np.vstack([above, above]),
        start=np.vstack([start, flat]),
        weight=weight,
    )
    better = np.where(found.sse[: len(above)] <= found.sse[len(above) :], 0, len(above)) + np.arange(len(above))
    rows = [
        (d, np.exp(ln_a), alpha, beta, rho_of_angle(np.arctan2(alpha, beta)), sse)
        for d, (ln_a, alpha, beta), sse in zip(values, found.theta[better], found.sse[better], strict=True)
    ]
    table = pd.DataFrame(rows, columns=["D", "A", "alpha", "beta", "rho", "sse"])
    return table.assign(delta_aicc=len(cells) * np.log(table["sse"] / table["sse"].min()))
