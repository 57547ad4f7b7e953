"""Choice of a law by AICc and by its error on sizes and token counts left out; averaging; lack of fit.

A law that predicts unseen sizes or token counts badly is gated out however well it fits, since a frontier is read at
cells that were not measured.
Sources: Burnham and Anderson, Model Selection and Multimodel Inference (2002), 2.4 (AICc) and 4.3 (averaging);
Draper and Smith, Applied Regression Analysis (1998), 2.1 (lack of fit).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from vlmlaw.errors import UserError
from vlmlaw.laws.cells import Array, Cells
from vlmlaw.laws.families import DEFAULT_CANDIDATES, Law
from vlmlaw.laws.fit import fit_cells, fit_law
from vlmlaw.laws.replicates import collapse_questions
from vlmlaw.laws.result import LawFit
from vlmlaw.laws.statistics import lack_of_fit
from vlmlaw.laws.table import Measurements, as_measurements

GATE = 1.5  # greatest error on unseen cells, relative to that of the best law
PARSIMONY = 2.0  # a gain in AICc below this does not pay for a parameter


@dataclass(frozen=True, eq=False)
class Comparison:
    """Fitted laws, best first: `table` has a row for each, `refused` the reason why a law could not be fitted.

    Columns: k (parameters), sse, r_squared, aicc, delta, weight, loso and loto (root mean square error on sizes and
    token counts left out), rho, gated ("" or why), lack_of_fit (p value, nan without replicates), at_bound.
    """

    table: pd.DataFrame
    fits: dict[str, LawFit]
    refused: dict[str, str]

    @cached_property
    def chosen(self) -> str:
        """The law with the fewest parameters among those not gated out and within PARSIMONY of the least AICc."""
        close = self.table[self.table["gated"].eq("") & (self.table["delta"] <= PARSIMONY)]
        return str(close.sort_values(["k", "delta"], kind="stable").index[0])

    @cached_property
    def best(self) -> LawFit:
        """The fit of the chosen law, with those of the laws that were not gated out as its rivals."""
        return self.with_rivals(self.chosen)

    def with_rivals(self, law: str) -> LawFit:
        """The fit of a law with the others that count as its rivals, among them one with a single rho, if any has it.

        Laws count that are not gated out.
        """
        names = self.table.index[self.table["gated"].eq("")].tolist()
        if not any(self.fits[name].has_rho for name in [law, *names]):
            names += [name for name in self.table.index if self.fits[name].has_rho][:1]
        return replace(self.fits[law], rivals=tuple(self.fits[name] for name in names if name != law))

    @property
    def why(self) -> str:
        """The reason for the choice in one sentence."""
        row = self.table.loc[self.chosen]
        kept = self.table.index[self.table["gated"].eq("")].tolist()
        gated = self.table.index[self.table["gated"].ne("")].tolist()
        text = f"{self.chosen} has the least AICc of the {len(kept)} laws that predict unseen cells well"
        if len(kept) == 1:
            text = f"{self.chosen} is the only law that predicts unseen cells well"
        if row["delta"] > 0:
            text = f"{self.chosen} has fewer parameters than {kept[0]}, which is only {row['delta']:.1f} AICc better"
        close = [name for name in kept if self.table.loc[name, "delta"] <= PARSIMONY and name != self.chosen]
        text += f" (weight {row['weight']:.2f})"
        text += f"; within {PARSIMONY:g} AICc of the least: {', '.join(close)}" if close else ""
        return text + (f"; gated out: {', '.join(gated)}" if gated else "")

    def average(self) -> "ModelAverage":
        """The weighted average of the laws that are not gated out."""
        kept = self.table[self.table["weight"] > 1e-6]
        return ModelAverage(
            [self.fits[name] for name in kept.index], (kept["weight"] / kept["weight"].sum()).to_numpy()
        )


@dataclass(frozen=True, eq=False)
class ModelAverage:
    """Several fitted laws, averaged with their Akaike weights."""

    fits: Sequence[LawFit]
    weights: Array

    def predict(self, n: ArrayLike, v: ArrayLike) -> Array:
        """Averaged predicted error at N (billions) and V, broadcast together."""
        return np.tensordot(self.weights, np.stack([fit.predict(n, v) for fit in self.fits]), axes=1)

    def rho(self) -> tuple[float, float]:
        """rho averaged over the laws that have one, and its standard error, which includes the spread between laws.

        The standard error is nan for an infinite rho. Raises UserError if no law has a rho.
        """
        pairs = [(w, f) for w, f in zip(self.weights, self.fits, strict=True) if f.has_rho]
        if not pairs:
            raise UserError("none of the averaged laws has a single rho")
        weight = np.array([w for w, _ in pairs]) / sum(w for w, _ in pairs)
        rho = np.array([f.rho for _, f in pairs])
        mean = float(weight @ rho)
        if not np.isfinite(mean):
            return mean, float("nan")
        return mean, float(weight @ np.sqrt(np.array([f.rho_se for _, f in pairs]) ** 2 + (rho - mean) ** 2))


def compare_laws(
    table: Measurements | pd.DataFrame | Cells,
    laws: Sequence[str] = (),
    *,
    loss: str = "squared",
    weights: str = "none",
    allow_missing: bool = False,
) -> Comparison:
    """Fit several laws (by default all candidates) and rank them. Raises UserError if none can be fitted.

    >>> from vlmlaw.laws import read_measurements
    >>> found = compare_laws(read_measurements("li2024_reasoning"), ["power_d0", "logit"])
    >>> found.chosen, found.table["delta"].round(1).to_dict()
    ('logit', {'logit': 0.0, 'power_d0': 8.9})
    """
    cells = table
    if not isinstance(table, Cells):
        fit_law(table, "log_linear", allow_missing=allow_missing)  # lint once; raise if no law can be fitted
        cells = collapse_questions(as_measurements(table)).cells(weights=weights)
    assert isinstance(cells, Cells)
    fits: dict[str, LawFit] = {}
    refused: dict[str, str] = {}
    for name in laws or DEFAULT_CANDIDATES:
        try:
            fits[name] = fit_cells(cells, name, loss=loss)
        except UserError as error:
            refused[name] = str(error)
    if not fits:
        raise UserError(f"no law can be fitted: {next(iter(refused.values()))}")
    return Comparison(table=_judge(fits), fits=fits, refused=refused)


def _judge(fits: dict[str, LawFit]) -> pd.DataFrame:
    rows = []
    for name, fit in fits.items():
        loso, loto = left_out_errors(fit)
        rho = fit.rho if fit.has_rho else np.nan
        lack = lack_of_fit(fit)
        bound = " ".join(fit.at_bound)
        rows.append(
            (name, fit.n_parameters, fit.sse, fit.r_squared, fit.aicc, loso, loto, rho, lack, bound, fit.converged)
        )
    names = ["law", "k", "sse", "r_squared", "aicc", "loso", "loto", "rho", "lack_of_fit", "at_bound", "converged"]
    table = pd.DataFrame(rows, columns=names).set_index("law")
    table["gated"] = _gate(table)
    # With too few cells the AICc of every law is infinite; rank by the fit alone then.
    score = table["aicc"] if np.isfinite(table["aicc"]).any() else np.log(table["sse"])
    kept = table["gated"].eq("") & np.isfinite(score)
    table["delta"] = score - score[kept].min()
    table["weight"] = np.where(kept, np.exp(-np.minimum(table["delta"], 1400) / 2), 0.0)
    table["weight"] /= table["weight"].sum()
    return (
        table.assign(order=table["gated"].ne("")).sort_values(["order", "delta"], kind="stable").drop(columns="order")
    )


def _gate(table: pd.DataFrame) -> list[str]:
    """The reason why each law is gated out, or ""; the one that predicts unseen sizes best never is."""
    reasons = []
    best = table["loso"].idxmin() if table["loso"].notna().any() else table["aicc"].idxmin()
    for name, row in table.iterrows():
        found = [] if row["converged"] else ["did not converge"]
        for column, what in (("loso", "sizes"), ("loto", "token counts")):
            least = max(table[column].min(), 1e-9)  # smaller errors are rounding
            if row[column] > GATE * least + 1e-12:
                found.append(f"{row[column] / least:.1f}x the best error on unseen {what}")
        reasons.append("" if name == best else "; ".join(found))
    return reasons


def left_out_error(fit: LawFit, *, by: str) -> float:
    """Root mean square error of predicting each size (by="size") or token count ("tokens") from the others.

    nan if fewer than two would be left to fit, or too few cells.
    """
    return left_out_errors(fit, by=(by,))[0]


def left_out_errors(fit: LawFit, *, by: Sequence[str] = ("size", "tokens")) -> list[float]:
    """The errors of `left_out_error` along several axes, from one batch of fits."""
    cells, law, weight = fit.cells, fit.law, fit.cells.weight
    left_out = []
    for axis in by:
        labels = cells.n if axis == "size" else cells.v
        levels = np.unique(labels)
        masks = labels == levels[:, None]
        few = levels.size < 3 or (~masks).sum(axis=1).min() <= len(law.parameters)
        left_out.append(masks[:0] if few else masks)
    every = np.concatenate(left_out)
    if not len(every):
        return [float("nan")] * len(left_out)
    missed = every * weight * (cells.error - _predict_left_out(law, cells, every, fit)) ** 2
    parts = np.split(missed, np.cumsum([len(masks) for masks in left_out])[:-1])
    return [float(np.sqrt(part.sum() / weight.sum())) if len(part) else float("nan") for part in parts]


def _predict_left_out(law: Law, cells: Cells, left_out: Array, fit: LawFit) -> Array:
    """Predicted error (B, C) of every cell by the fits without the rows of `left_out` (B, C)."""
    weight = cells.weight * ~left_out
    if fit.robust_weight is not None:
        weight = weight * fit.robust_weight
    bounds = [law.bounds(cells.take(~rows)) for rows in left_out]
    lower, upper = (np.stack(ends) for ends in zip(*bounds, strict=True))
    start = np.tile(fit.theta, (len(left_out), 1))
    found = law.minimise(cells, start, weight=weight, bounds=(lower, upper), race=False)
    return law.evaluate(found.theta.T[:, :, None], cells.ln_n, cells.ln_v)[0]


def fit_or_choose(
    table: Measurements | pd.DataFrame | Cells,
    law: str = "auto",
    *,
    loss: str = "squared",
    weights: str = "none",
    allow_missing: bool = False,
) -> LawFit:
    """Fit the law of this name, or with "auto" the one that `compare_laws` chooses. Raises UserError as they do.

    >>> from vlmlaw.laws import read_measurements
    >>> fit_or_choose(read_measurements("li2024_reasoning")).law
    Logit()
    """
    if law == "auto":
        return compare_laws(table, loss=loss, weights=weights, allow_missing=allow_missing).best
    return fit_law(table, law, loss=loss, weights=weights, allow_missing=allow_missing)
