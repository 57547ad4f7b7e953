"""Several suites as one: the weighted mean of their predicted errors, for decisions that must serve them all."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from vlmlaw.errors import UserError
from vlmlaw.laws.cells import Array, Cells
from vlmlaw.laws.result import LawFit
from vlmlaw.laws.selection import fit_or_choose
from vlmlaw.laws.table import ALL_KINDS, Measurements


@dataclass(frozen=True, eq=False)
class Blend:
    """Fits of several suites with weights that sum to one; it predicts as a LawFit does."""

    fits: Mapping[str, LawFit]
    weights: Mapping[str, float]

    @property
    def cells(self) -> Cells:
        """The cells of all suites, for the sizes and token counts that were measured."""
        parts = [fit.cells for fit in self.fits.values()]
        return Cells.of(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("n", "v", "error")))

    @property
    def description(self) -> str:
        return " + ".join(f"{self.weights[name]:.2g} {name} ({fit.law.name})" for name, fit in self.fits.items())

    def predict(self, n: ArrayLike, v: ArrayLike) -> Array:
        """Weighted mean of the predicted errors at N (billions) and V, broadcast together."""
        return np.sum([self.weights[name] * fit.predict(n, v) for name, fit in self.fits.items()], axis=0)

    def predict_interval(
        self, n: ArrayLike, v: ArrayLike, *, level: float = 0.95, new_measurement: bool = True
    ) -> pd.DataFrame:
        """error, se, lower, upper at N and V; suites share their models, so that widths add up and do not cancel."""
        tables = [
            self.weights[name] * fit.predict_interval(n, v, level=level, new_measurement=new_measurement)
            for name, fit in self.fits.items()
        ]
        return pd.DataFrame(np.sum([table.to_numpy() for table in tables], axis=0), columns=tables[0].columns)


def blend_suites(
    table: Measurements, weights: Mapping[str, float], *, law: str = "auto", allow_missing: bool = False
) -> Blend:
    """Fit each suite of a table that has a weight. Raises UserError for unknown suites, and weights of 0 or less.

    >>> import pandas as pd
    >>> from vlmlaw.laws.table import as_measurements, read_measurements
    >>> parts = {"reasoning": "li2024_reasoning", "reading": "li2024_ocr"}
    >>> frames = [read_measurements(table).frame.assign(suite=name) for name, table in parts.items()]
    >>> both = as_measurements(pd.concat(frames)[["N", "V", "error", "suite"]])
    >>> blend = blend_suites(both, {"reasoning": 3, "reading": 1}, law="logit")
    >>> blend.description, blend.predict(7, 64).round(3).item()
    ('0.75 reasoning (logit) + 0.25 reading (logit)', 0.546)
    """
    suites = list(dict.fromkeys(table.frame["suite"]))
    unknown = [name for name in weights if name not in suites]
    if unknown:
        raise UserError(f"{table.source} has no suite {unknown[0]!r}; it has {', '.join(suites)}")
    wrong = [name for name, weight in weights.items() if not (np.isfinite(weight) and weight > 0)]
    if wrong:
        raise UserError(f"the weight of {wrong[0]!r} is {weights[wrong[0]]!r}; expected a number above 0")
    fits = {}
    for name in weights:
        rows = table.select(suite=name)
        if (rows.frame["kind"] == ALL_KINDS).any():
            rows = rows.select(kind=ALL_KINDS)
        fits[name] = fit_or_choose(rows, law, allow_missing=allow_missing)
    total = sum(weights.values())
    return Blend(fits, {name: weight / total for name, weight in weights.items()})
