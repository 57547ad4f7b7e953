"""A table with a row for each question, as a row for each cell.

Rows of one cell are one training's replies: they share its noise, so they are no independent measurements of the law,
and a fit needs no more of them than their mean. Trainings with several seeds stay apart.
"""

from dataclasses import replace

import numpy as np
import pandas as pd

from vlmlaw.laws.table import COLUMNS, Measurements

CELL = ["N", "V", "suite", "kind", "compressor", "seed", "training", "held_out"]
MANY = 20  # as many rows of a cell without a seed's name are questions, not seeds


def collapse_questions(table: Measurements) -> Measurements:
    """The table with the mean of each cell in place of its questions; the same table if it has no such rows.

    Rows are questions if all errors are 0 or 1 and cells have several rows each, or if a cell has MANY rows or more on
    average. error_se becomes the standard error of the mean, n_questions the number of rows.

    >>> frame = pd.DataFrame({"N": [1, 1, 7, 7], "V": [16, 16, 16, 16], "error": [1, 0, 0, 0]})
    >>> from vlmlaw.laws.table import as_measurements
    >>> collapse_questions(as_measurements(frame)).frame[["N", "error", "n_questions"]].values.tolist()
    [[1.0, 0.5, 2.0], [7.0, 0.0, 2.0]]
    """
    frame = table.frame
    if frame.empty or not np.isfinite(frame["error"]).all():  # the linter refuses these
        return table
    grouped = frame.groupby(CELL, sort=False, dropna=False)
    per_cell = len(frame) / grouped.ngroups
    answers = bool(frame["error"].isin([0.0, 1.0]).all())
    if not (per_cell >= MANY or (answers and per_cell > 1)):
        return table
    numbers = [name for name in frame if name not in COLUMNS and pd.api.types.is_numeric_dtype(frame[name])]
    collapsed = grouped.agg(
        **{name: (name, "mean") for name in numbers if name != "line"},
        cell=("cell", "first"),
        error=("error", "mean"),
        error_se=("error", "sem"),
        n_questions=("error", "size"),
        note=("note", "first"),
        line=("line", "min"),
    ).reset_index()
    return replace(table, frame=collapsed.assign(n_questions=collapsed["n_questions"].astype(float)))
