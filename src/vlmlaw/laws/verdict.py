"""A fit in sentences: whether size or tokens matter more, how certain this is, and the caveats."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vlmlaw.laws.cells import format_size
from vlmlaw.laws.intervals import rho_interval
from vlmlaw.laws.ratio import Interval
from vlmlaw.laws.solver import MAD_TO_SIGMA
from vlmlaw.laws.statistics import lack_of_fit, student_t

if TYPE_CHECKING:
    from vlmlaw.laws.holdout import HoldOut
    from vlmlaw.laws.result import LawFit

POOR_R_SQUARED = 0.7
LACK_OF_FIT = 0.01  # p value
OUTLIER = 4.0  # robust standard deviations; about 1 of 16,000 Gaussian cells is as far out
MAX_OUTLIERS = 4


def verdict(
    fit: LawFit, *, hold_out: HoldOut | None = None, level: float = 0.95, shared_trainings: int = 0
) -> list[str]:
    """Describe a fit in sentences, the main one first.

    shared_trainings: the number of trainings if some serve cells of several V (see Measurements.shared_trainings).
    """
    sentences = [*_trade_off(fit, level=level), _quality(fit)]
    if hold_out is not None:
        sentences.append(
            f"Without {hold_out.what} the law would be {hold_out.fit.law.name}, which predicts that error within "
            f"{hold_out.max_relative_error:.1%} ({hold_out.mean_relative_error:.2%} on average); "
            f"{hold_out.share_inside:.0%} of those cells lie in their {hold_out.level:.0%} interval for an unseen size."
        )
    if shared_trainings:
        sentences.append(
            f"The {fit.n_cells} cells share the weights of {shared_trainings} trainings: errors at different V of one "
            "training move together. The interval allows for that within a size; those by profile and Fieller do not."
        )
    return [sentence for sentence in [*sentences, *cautions(fit)] if sentence]


def _trade_off(fit: LawFit, *, level: float) -> list[str]:
    """What the interval of rho allows to be said; no sentence claims what the interval does not exclude."""
    index = fit.index_fit
    found = [*_peak(fit, level=level)]
    if not fit.has_rho:
        n, v = (float(np.exp(x.mean())) for x in (fit.cells.ln_n, fit.cells.ln_v))
        found.append(
            f"Under this law the worth of a token depends on the cell: in the middle of the grid rho is "
            f"{fit.rho_at(n, v):.2f}."
        )
    if index is None:
        return found
    claim = ratio_sentence(rho_interval(index, level=level))
    if index is fit:
        return [claim]
    behind = index.aicc - fit.aicc
    way = "behind" if behind >= 0 else "ahead of"  # a law may be chosen for how it predicts
    by = f", {abs(behind):.1f} AICc {way} {fit.law.name}" if np.isfinite(behind) else ""
    return [claim, *found, f"rho and V* are those of {index.law.name}, the best law with a single rho{by}."]


def _peak(fit: LawFit, *, level: float) -> list[str]:
    """That the error is least inside the range of V, where the law's slope has changed its sign at both ends of it."""
    if fit.law.name != "logit_peak":
        return []
    where = [fit.law.position(name) for name in ("b", "q")]
    estimate, covariance = fit.theta[where], fit.covariance[np.ix_(where, where)]
    # Both ends must agree, of a law that was chosen for its bend: a fifth of the risk for each.
    t = student_t(1 - (1 - level) / 5, fit.degrees_of_freedom)
    signs = []
    for v in (fit.cells.v.min(), fit.cells.v.max()):
        gradient = np.array([1.0, -2 * np.log(v)])
        slope, se = float(gradient @ estimate), float(np.sqrt(gradient @ covariance @ gradient))
        signs.append(0 if abs(slope) < t * se else np.sign(slope))
    if signs != [1, -1]:
        return []
    best = float(np.exp(estimate[0] / (2 * estimate[1])))
    return [f"The error is least inside the range of V, near V = {best:.3g}: more tokens than that do harm."]


def claimed_side(rho: Interval) -> str:
    """What an interval of rho shows to matter more: "size", "tokens", or "unsettled".

    >>> claimed_side(Interval(4.7, 0.9, float("inf"), level=0.95, method="profile"))
    'unsettled'
    """
    if rho.lower > 1:
        return "size"
    return "tokens" if rho.upper < 1 and np.isfinite(rho.lower) else "unsettled"


def ratio_sentence(rho: Interval) -> str:
    """The trade-off in one sentence, which claims only what the interval of rho excludes the contrary of.

    >>> ratio_sentence(Interval(float("inf"), 0.41, float("inf"), level=0.95, method="profile"))[:58]
    'These cells lean to size, but do not settle whether size o'
    """
    sure = f"(rho {rho})"
    if rho.lower == np.inf:
        return f"More visual tokens do not lower the error {sure}: take the fewest."
    if rho.upper == -np.inf:
        return (
            f"In these cells the error falls neither with size nor with tokens {sure}: there is nothing to trade off."
        )
    if claimed_side(rho) == "size":
        times = f"about {rho.estimate:.1f} times as fast" if np.isfinite(rho.estimate) else "faster"
        than = "as" if np.isfinite(rho.estimate) else "than"
        return (
            f"Size matters more than tokens {sure}: error falls {times} with ln N {than} with ln V, so spend on the "
            "model first, and give as many visual tokens as V*(Q) says."
        )
    if rho.upper <= 0 and np.isfinite(rho.lower):
        return f"Tokens matter more than size {sure}: in these cells larger models do not lower the error at all."
    if claimed_side(rho) == "tokens":
        times = f"about {1 / rho.estimate:.1f} times as fast" if rho.estimate > 0.05 else "far faster"
        than = "as" if rho.estimate > 0.05 else "than"
        rest = ", and the largest model that is left" if rho.lower > 0 else ""
        return (
            f"Tokens matter more than size {sure}: error falls {times} with ln V {than} with ln N, so take all visual "
            f"tokens{rest}."
        )
    if not np.isfinite(rho.lower) and not np.isfinite(rho.upper):
        return f"These cells do not bound rho {sure}: they do not show whether size or tokens matter more."
    side = "size" if rho.estimate > 1 else "tokens"
    return (
        f"These cells lean to {side}, but do not settle whether size or tokens matter more {sure}: measure more sizes."
    )


def _quality(fit: LawFit) -> str:
    poor = " That is a poor fit: trust no extrapolation." if fit.r_squared < POOR_R_SQUARED else ""
    return (
        f"The law explains {fit.r_squared:.1%} of the variance of {fit.n_cells} cells; residuals are {fit.sigma:.4f} "
        f"(standard deviation of the error).{poor}"
    )


def cautions(fit: LawFit) -> list[str]:
    """Caveats of the fit itself, one sentence each."""
    found = []
    if is_singular(fit):
        found.append(
            "Some parameters have no finite estimate, as where the error falls in a step: rho and V* say little here. "
            "Measure sizes and token counts inside the step."
        )
    lack = lack_of_fit(fit)
    if lack < LACK_OF_FIT:
        found.append(
            f"Replicates scatter less than the law misses them (lack of fit, p = {lack:.2g}): its form is not quite "
            "right, and intervals are for the nearest law of this form."
        )
    odd = outliers(fit)
    if odd:
        found.append(f"Far from the law (over {OUTLIER:g} robust standard deviations): {', '.join(odd)}. Check them.")
    if not fit.converged:
        found.append("The fit did not converge: try logit, fix D (power_d0), or measure more cells.")
    if "D" in fit.at_bound:
        found.append(
            f"D ended on its bound, {fit.params['D']:.4g}: these cells do not show an irreducible error, and alpha and "
            "beta hold for that D only (see the profile of D). rho hardly depends on it."
        )
    others = [name for name in fit.at_bound if name != "D"]
    if others:
        found.append(f"{', '.join(others)} ended on a bound: a simpler law would do.")
    if fit.law.name == "power_free" and (fit.params["A"] < 0 or fit.params["D"] > 1 or fit.params["D"] < 0):
        found.append(
            f"With D free the optimum is unphysical (A = {fit.params['A']:.3g}, D = {fit.params['D']:.3g}): "
            "take rho from it, nothing else."
        )
    n_sizes = fit.cells.sizes.size
    if n_sizes < 5:
        found.append(
            f"{n_sizes} sizes are few to tell the noise that cells of one size share from the law: the interval allows "
            "for it, and another size would narrow it most."
        )
    return found


def is_singular(fit: LawFit) -> bool:
    """Whether the curvature at the optimum is singular, as when the slope of a link law diverges to fit a step."""
    free = [k for k, p in enumerate(fit.law.parameters) if p.name not in fit.at_bound]
    gradient = fit.law.evaluate(fit.theta[:, None, None], fit.cells.ln_n, fit.cells.ln_v)[1][free, 0]
    norms = np.linalg.norm(gradient, axis=1)
    # First-order effect of doubling a parameter on the error: none if the parameter has diverged.
    effect = norms * np.maximum(np.abs(fit.theta[free]), 1.0)
    if effect.min() < 1e-6 * np.linalg.norm(fit.cells.error - fit.cells.error.mean()):
        return True
    return bool(np.linalg.cond((gradient / norms[:, None]).T) > 1e6)


def outliers(fit: LawFit) -> list[str]:
    """The cells farthest from the law, at most MAX_OUTLIERS, the farthest first."""
    scaled = fit.residuals * np.sqrt(fit.cells.weight)
    spread = np.median(np.abs(scaled)) / MAD_TO_SIGMA
    if spread <= 0 or fit.degrees_of_freedom < 10:
        return []
    far = np.flatnonzero(np.abs(scaled) > OUTLIER * spread)
    far = far[np.argsort(-np.abs(scaled[far]))][:MAX_OUTLIERS]
    return [f"N = {format_size(fit.cells.n[i])}, V = {fit.cells.v[i]:g} ({fit.residuals[i]:+.3f})" for i in far]
