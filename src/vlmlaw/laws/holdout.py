"""Test of extrapolation: choose and fit a law without some rows (by default the largest size), and predict them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from vlmlaw.errors import UserError
from vlmlaw.laws.cells import Array, Cells, format_size, refuse_unfit
from vlmlaw.laws.fit import fit_cells
from vlmlaw.laws.options import AUTO
from vlmlaw.laws.result import LawFit
from vlmlaw.laws.selection import compare_laws


@dataclass(frozen=True, eq=False)
class HoldOut:
    """The fit to the rows that were kept, and the predictions of the rows held out.

    table: N, V, error, predicted, lower, upper (of a new measurement), relative_error (|predicted / error - 1|, nan
    where the error is 0), inside (whether the interval contains the measurement). what: a description of these rows.
    """

    fit: LawFit
    table: pd.DataFrame
    what: str
    level: float

    @property
    def mean_relative_error(self) -> float:
        return float(self.table["relative_error"].mean())

    @property
    def max_relative_error(self) -> float:
        return float(self.table["relative_error"].max())

    @property
    def share_inside(self) -> float:
        """Share of the held-out measurements inside their interval; its expected value is `level`."""
        return float(self.table["inside"].mean())

    def to_dict(self) -> dict[str, Any]:
        return {
            "what": self.what,
            "law": self.fit.law.name,
            "level": self.level,
            "mean_relative_error": self.mean_relative_error,
            "max_relative_error": self.max_relative_error,
            "share_inside": self.share_inside,
            "rho": self.fit.rho if self.fit.has_rho else None,
            "cells": self.table.to_dict("records"),
        }


def hold_out(
    cells: Cells,
    law: str = "power",
    *,
    rows: Array | None = None,
    size: float | None = None,
    loss: str = "squared",
    level: float = 0.95,
    candidates: Sequence[str] = (),
) -> HoldOut:
    """Predict some cells from a fit to all others.

    law: the name of a law, or "auto" for the one of `candidates` that is chosen without these cells; intervals then
        include the choice.

    rows: a mask (C,) of the cells to predict; or else size: their N in billions, by default the largest one. Raises
    UserError if no cell is selected, or if the others cannot determine the law.

    >>> from vlmlaw.laws import read_measurements
    >>> found = hold_out(read_measurements("li2024_reasoning").cells(), "power")
    >>> print(f"{found.what}: {found.mean_relative_error:.2%} on average, {found.max_relative_error:.2%} at most")
    size 7 B: 0.45% on average, 0.97% at most
    """
    if rows is None:
        size = float(cells.sizes[-1]) if size is None else float(size)
        rows = np.isclose(cells.n, size, rtol=1e-9)
        what = f"size {format_size(size)}"
    else:
        rows = np.asarray(rows, dtype=bool)
        what = f"{int(rows.sum())} flagged rows"
    if rows.shape != cells.n.shape or not rows.any():
        raise UserError(f"nothing to hold out ({what}); the sizes are {', '.join(map(format_size, cells.sizes))}")
    if rows.all():
        raise UserError(f"holding out {what} leaves no cell to fit")
    rest = cells.take(~rows)
    if law == AUTO:
        refuse_unfit(rest, n_parameters=3)
        fit = compare_laws(rest, candidates, loss=loss).best
    else:
        fit = fit_cells(rest, law, loss=loss)
    held = cells.take(rows)
    table = fit.predict_interval(held.n, held.v, level=level).drop(columns="se")
    table = table.rename(columns={"error": "predicted"})
    table.insert(0, "N", held.n)
    table.insert(1, "V", held.v)
    table.insert(2, "error", held.error)
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.abs(table["predicted"] / table["error"] - 1)
    table["relative_error"] = relative.where(table["error"] > 0)
    table["inside"] = table["error"].between(table["lower"], table["upper"])
    return HoldOut(fit=fit, table=table, what=what, level=level)
