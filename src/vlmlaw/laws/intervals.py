"""How far to trust rho and V*(Q): profile likelihood and Fieller intervals, and profiles of rho and of D.

The ratio rho = a / b is followed by its angle atan2(a, b), which passes smoothly through b = 0, where tokens do nothing
and rho is infinite. An end of an interval that is not finite says that the data do not bound rho there.
Sources: Fieller 1954; Bates and Watts, Nonlinear Regression Analysis (1988), 6.1.2, for the F threshold of a profile.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from scipy.optimize import brentq

from vlmlaw.errors import UserError
from vlmlaw.laws.cells import Array
from vlmlaw.laws.result import LawFit, student_t
from vlmlaw.laws.solver import Solution, solve

D_PROFILE = (-5.0, -2.0, -1.0, -0.5, -0.2, 0.0)  # below 0 unphysical, shown because the data hardly object


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval at `level`; an infinite end is one that the data do not bound."""

    estimate: float
    lower: float
    upper: float
    level: float
    method: str

    @property
    def bounded(self) -> bool:
        return bool(np.isfinite(self.lower) and np.isfinite(self.upper))

    def to_dict(self) -> dict[str, float | str | None]:
        """Plain data; None for what is not finite."""
        return {k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in asdict(self).items()}

    def __str__(self) -> str:
        def end(x: float) -> str:
            return f"{x:.3g}" if np.isfinite(x) else ("∞" if x > 0 else "-∞")

        return f"{end(self.estimate)} [{end(self.lower)}, {end(self.upper)}]"


def rho_interval(fit: LawFit, *, level: float = 0.95, method: str = "profile") -> Interval:
    """The interval of rho = alpha / beta by "profile" (default), "fieller" or "delta" (symmetric, the least exact)."""
    fit.require_rho()
    if method == "profile":
        return profile(fit, level=level)
    if method == "fieller":
        return fieller(fit, level=level)
    if method == "delta":
        half = student_t(level, fit.degrees_of_freedom) * fit.rho_se
        return Interval(fit.rho, fit.rho - half, fit.rho + half, level, "delta")
    raise UserError(f"interval method {method!r} is unknown; expected profile, fieller or delta")


def v_star_interval(fit: LawFit, question_tokens: float, *, level: float = 0.95, method: str = "profile") -> Interval:
    """The interval of V* = Q / (rho - 1), exact where rho's is, since V* falls as rho rises; inf where rho <= 1."""
    rho = rho_interval(fit, level=level, method=method)
    ends = [v_star_of_rho(x, question_tokens) for x in (rho.estimate, rho.upper, rho.lower)]
    return Interval(ends[0], ends[1], ends[2], level, method)


def v_star_of_rho(rho: float, question_tokens: float) -> float:
    """Q / (rho - 1), inf where rho <= 1 (every further token pays), 0 where rho is infinite (none does)."""
    if np.isinf(rho) and rho > 0:
        return 0.0
    return question_tokens / (rho - 1) if rho > 1 else float("inf")


# --------------------------------------------------------------------------- profile likelihood


def profile(fit: LawFit, *, level: float = 0.95) -> Interval:
    """Every rho whose constrained fit stays within the F threshold of the best one."""
    centre = np.arctan2(*fit.exponents)
    threshold = fit_criterion(fit) * (1 + student_t(level, fit.degrees_of_freedom) ** 2 / fit.degrees_of_freedom)
    at = _profiler(fit)

    def excess(angle: float) -> float:
        return float(at(np.array([angle])).sse[0]) - threshold

    # Half a turn away the same models come back with both exponents negated; the least likely lies in between.
    turns = centre + np.linspace(-np.pi / 2, np.pi / 2, 65)
    above = at(turns).sse > threshold
    ends = []
    for side in (-1, 1):
        indices = range(32, -1, -1) if side < 0 else range(32, 65)
        crossing = next((i for i in indices if above[i]), None)
        if crossing is None:
            ends.append(np.nan)
        else:
            ends.append(brentq(excess, *sorted((turns[crossing], turns[crossing - side])), xtol=1e-9))
    return Interval(fit.rho, *_rho_ends(*ends), level, "profile")


def _rho_ends(lower: float, upper: float) -> tuple[float, float]:
    """rho at the ends of an interval of angles; infinite where the interval reaches b <= 0, or where nan (no end)."""
    if np.isnan(lower) or np.isnan(upper):
        return -np.inf, np.inf
    return (
        float(np.tan(lower)) if -np.pi / 2 < lower < np.pi / 2 else (np.inf if lower >= np.pi / 2 else -np.inf),
        float(np.tan(upper)) if -np.pi / 2 < upper < np.pi / 2 else np.inf,
    )


def fit_criterion(fit: LawFit) -> float:
    """The fitted sum of squares in the weights that a profile holds: Huber's weights are taken as they ended."""
    return float(_weight(fit) @ fit.residuals**2)


def _weight(fit: LawFit) -> Array:
    return fit.cells.weight * (1.0 if fit.robust_weight is None else fit.robust_weight)


def _profiler(fit: LawFit) -> Callable[[Array], Solution]:
    """A function of angles (B,) to the fits in which (alpha, beta) = r (sin angle, cos angle), r free."""
    law, cells = fit.law, fit.cells
    i, j = (law.position(name) for name in fit.require_rho())
    others = [k for k in range(len(law.parameters)) if k not in (i, j)]
    low, high = law.bounds(cells)
    low, high = np.append(low[others], -np.inf), np.append(high[others], np.inf)
    radius = float(np.hypot(*fit.exponents))
    centre = np.arctan2(*fit.exponents)

    def at(angles: Array) -> Solution:
        sine, cosine = np.sin(angles)[:, None], np.cos(angles)[:, None]

        def model(theta: Array) -> tuple[Array, Array]:
            full = np.empty((len(law.parameters), len(angles), 1))
            full[others], full[i], full[j] = theta[:-1], theta[-1] * sine, theta[-1] * cosine
            error, gradient = law.evaluate(full, cells.ln_n, cells.ln_v)
            return error, np.concatenate([gradient[others], (sine * gradient[i] + cosine * gradient[j])[None]])

        start = np.tile(np.append(fit.theta[others], radius), (len(angles), 1))
        start[:, -1] *= np.cos(angles - centre)  # less of the index is left the further the ratio is from the best
        return solve(model, cells.error, start=start, weight=_weight(fit), lower=low, upper=high)

    return at


def rho_profile(fit: LawFit, *, n_points: int = 61, level: float = 0.999) -> pd.DataFrame:
    """rho, sse and f (the F statistic against the best fit) over the interval of rho at `level`, for a picture."""
    wide = profile(fit, level=level)
    centre = np.arctan2(*fit.exponents)
    low = np.arctan(wide.lower) if np.isfinite(wide.lower) else centre - 0.45 * np.pi
    high = np.arctan(wide.upper) if np.isfinite(wide.upper) else min(centre + 0.45 * np.pi, 0.499 * np.pi)
    angles = np.linspace(low, high, n_points)
    sse = _profiler(fit)(angles).sse
    best = fit_criterion(fit)
    return pd.DataFrame({"rho": np.tan(angles), "sse": sse, "f": (sse / best - 1) * fit.degrees_of_freedom})


# --------------------------------------------------------------------------- Fieller


def fieller(fit: LawFit, *, level: float = 0.95) -> Interval:
    """Fieller's set for the ratio of the two exponents, from their estimates and covariance."""
    alpha, beta = fit.exponents
    t2 = student_t(level, fit.degrees_of_freedom) ** 2
    (v_aa, v_ab), (_, v_bb) = fit.exponent_covariance
    square, middle, constant = beta**2 - t2 * v_bb, alpha * beta - t2 * v_ab, alpha**2 - t2 * v_aa
    discriminant = middle**2 - square * constant
    if discriminant < 0 or (square < 0 and constant < 0):
        # Every ratio, or all but a wedge around the wrong sign, agrees with the data.
        return Interval(fit.rho, -np.inf, np.inf, level, "fieller")
    roots = sorted((middle + sign * np.sqrt(discriminant)) / square for sign in (-1, 1)) if square else [np.inf] * 2
    if square > 0:
        return Interval(fit.rho, roots[0], roots[1], level, "fieller")
    # b may be 0 or less: the set goes through infinity, and its lower end is the positive root.
    return Interval(fit.rho, roots[1] if square else constant / (2 * middle), np.inf, level, "fieller")


# --------------------------------------------------------------------------- D


def d_profile(fit: LawFit, values: Sequence[float] | None = None) -> pd.DataFrame:
    """D, A, alpha, beta, rho, sse and delta_aicc of the paper's form with D held at each value.

    It shows that alpha and beta follow D while rho does not. The last row of the default values lies just below the
    least error. Any fit will do: the cells are what counts.
    """
    from vlmlaw.laws.families import LAWS

    law, cells = LAWS["power_d0"], fit.cells
    least = cells.error.min()
    values = [*D_PROFILE, *np.linspace(0, least, 9)[1:-1], 0.97 * least] if values is None else list(values)
    if max(values) >= least:
        raise UserError(f"D = {max(values):g} is not below the least error, {least:g}; give smaller values")
    rows = []
    for d in values:
        shifted = type(cells)(n=cells.n, v=cells.v, error=cells.error - d, weight=_weight(fit))
        ln_mean = np.log(shifted.error.mean())
        start = np.vstack([law.starts(shifted), [ln_mean, 0.0, 0.0]])
        found = solve(
            lambda theta: law.evaluate(theta, cells.ln_n, cells.ln_v),
            shifted.error,
            start=start,
            weight=shifted.weight,
        )
        ln_a, alpha, beta = found.theta[np.argmin(found.sse)]
        rows.append((d, np.exp(ln_a), alpha, beta, alpha / beta if beta else np.inf, found.sse.min()))
    table = pd.DataFrame(rows, columns=["D", "A", "alpha", "beta", "rho", "sse"])
    return table.assign(delta_aicc=len(cells) * np.log(table["sse"] / table["sse"].min()))
