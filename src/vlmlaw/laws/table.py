"""Read measured cells: measurements.csv of the workflow, a published table, or any other CSV file, long or wide.

The result is one long data frame with the columns of COLUMNS, N in billions of parameters and error = 1 - score.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vlmlaw.errors import UserError
from vlmlaw.laws.cells import Cells
from vlmlaw.laws.fields import (
    ALIASES,
    UNITS,
    find_columns,
    numbers_or_text,
    parse_csv,
    read_bytes,
    to_long,
    to_numbers,
    to_sizes,
    unit_of,
    word,
)

COLUMNS = (
    *("cell", "N", "V", "error", "error_se", "suite", "kind", "compressor", "seed", "training", "held_out"),
    "n_questions",
)
ALL_KINDS = "all"
MEAN_OF_SUITES = "mean of suites"


@dataclass(frozen=True, eq=False)
class Measurements:
    """Measured cells. `frame` has COLUMNS (N in billions), further columns of the file, and `line`, the CSV line.

    expected: cells (N, V) of the planned grid; empty means every combination of the sizes and token counts found.

    >>> table = read_measurements("li2024_reasoning")
    >>> table.groups, len(table.select(V=576))
    ([{'suite': 'all', 'kind': 'all'}], 4)
    """

    frame: pd.DataFrame
    source: str = "a table in memory"
    sha256: str = ""
    expected: tuple[tuple[float, float], ...] = ()
    units: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def groups(self) -> list[dict[str, str]]:
        """The groups that a law is fitted to: each suite and kind, and each compressor if several share cells.

        Each group is a dictionary for `select`; the kind "all" comes first within a suite.
        """
        names = ["suite", "kind", "compressor"] if self.compressors_share_cells else ["suite", "kind"]
        found = self.frame[names].drop_duplicates()
        by = [name for name in ("compressor", "suite") if name in names]
        order = found.assign(rank=found["kind"].ne(ALL_KINDS)).sort_values([*by, "rank", "kind"], kind="stable")
        return [{str(k): str(v) for k, v in row.items()} for row in order[names].to_dict("records")]

    @cached_property
    def compressors_share_cells(self) -> bool:
        """Whether several compressors were measured in one cell; each then has its own law."""
        cells = self.frame[["N", "V", "compressor"]].drop_duplicates()
        return bool(cells.duplicated(["N", "V"]).any())

    @property
    def shared_trainings(self) -> int:
        """The number of trainings if some serve cells of several V; 0 if every cell has its own training."""
        named = self.frame[self.frame["training"] != ""]
        n_trainings = int(named["training"].nunique())
        return n_trainings if named.drop_duplicates(["training", "V"]).shape[0] > n_trainings else 0

    def select(self, **values: Any) -> "Measurements":
        """The rows in which each named column has this value, as in `select(suite="reasoning", kind="all")`.

        Raises UserError for an unknown column, or if no row is left.
        """
        frame = self.frame
        for column, value in values.items():
            if column not in frame:
                raise UserError(f"{self.source} has no column {column!r}; it has {', '.join(map(str, frame.columns))}")
            found = frame[column]
            frame = frame[found == _as_in(found, value)]
            if frame.empty:
                shown = ", ".join(map(str, found.drop_duplicates().head(12)))
                raise UserError(f"{self.source} has no row with {column} = {value!r}; it has {shown}")
        return replace(self, frame=frame)

    def mean_of_suites(self) -> "Measurements | None":
        """The mean error over all suites, for the cells that have them all; None if there is a single suite."""
        whole = self.frame[self.frame["kind"] == ALL_KINDS]
        n_suites = whole["suite"].nunique()
        if n_suites < 2:
            return None
        keys = ["cell", "N", "V", "compressor", "seed", "training"]
        grouped = whole.groupby(keys, dropna=False, sort=False)
        extra = [name for name in whole if name not in (*COLUMNS, "note", "line")]
        shared = {name: (name, "mean") for name in extra if pd.api.types.is_numeric_dtype(whole[name])}
        mean = grouped.agg(
            **shared,
            error=("error", "mean"),
            error_se=("error_se", lambda se: np.sqrt((se**2).sum(skipna=False)) / len(se)),
            held_out=("held_out", "max"),
            suites=("suite", "nunique"),
            line=("line", "min"),
        ).reset_index()
        mean = mean[mean["suites"] == n_suites].drop(columns="suites")
        if mean.empty:
            return None
        mean = mean.assign(suite=MEAN_OF_SUITES, kind=ALL_KINDS, n_questions=np.nan)
        return replace(self, frame=mean)

    def cells(self, *, weights: str = "none") -> Cells:
        """The rows as numbers to fit; weights="se" weights each row by 1 / error_se**2.

        Raises UserError for a value out of range, or for weights without positive standard errors.
        """
        if weights == "none":
            return Cells.of(self.frame["N"], self.frame["V"], self.frame["error"])
        se = self.frame["error_se"].to_numpy(dtype=float)
        bad = ~(se > 0) | ~np.isfinite(se)
        if bad.any():
            line = self.frame["line"].iloc[int(np.flatnonzero(bad)[0])]
            raise UserError(
                f"weights 'se' need an error_se above 0 in every row; {self.source} line {line} has none. "
                "An error of exactly 0 or 1 has no binomial standard error: fit without weights"
            )
        return Cells.of(self.frame["N"], self.frame["V"], self.frame["error"], 1 / se**2)

    def __len__(self) -> int:
        return len(self.frame)


def _as_in(column: pd.Series, value: Any) -> Any:
    """Convert a value to the type of its column: `--where` passes text, and seeds are stored as text."""
    if not pd.api.types.is_numeric_dtype(column):
        return str(value)
    try:
        return float(value)
    except ValueError:
        return value


def read_measurements(
    path: str | Path,
    columns: Mapping[str, str] | None = None,
    *,
    params_unit: str | None = None,
    scale: str = "fraction",
    scores: Sequence[str] = (),
    expected: Sequence[tuple[float, float]] = (),
) -> Measurements:
    """Read measured cells from a CSV file, or a published table by its name (`li2024_reasoning`, `li2024_ocr`).

    columns: canonical name -> name in the file, for columns that are not recognised (see ALIASES).
    params_unit: "billions", "millions" or "count"; by default from the name of the column (n_params is a count,
        params_b in billions, params_m in millions), otherwise billions.
    scale: "fraction", or "percent" if scores or errors range to 100.
    scores: columns that each contain the scores of one suite (a wide table).
    expected: cells (N in billions, V) of the planned grid, for the linter.
    Raises UserError for a file that cannot be read as such a table; doubtful values are left to `lint`.

    >>> table = read_measurements("li2024_reasoning")
    >>> len(table), table.frame.loc[0, ["N", "V", "error"]].tolist()
    (28, [0.5, 1.0, 0.6145])
    """
    path, blob = read_bytes(path)
    raw = parse_csv(path, blob)
    raw = to_long(raw, columns=columns or {}, scores=scores, source=path.name)
    names = find_columns(raw, columns or {}, source=path.name)
    unit = params_unit or unit_of(names["n_params"])
    if unit not in UNITS:
        raise UserError(f"params_unit is {unit!r}; expected one of {', '.join(UNITS)}")
    if scale not in ("fraction", "percent"):
        raise UserError(f"scale is {scale!r}; expected fraction or percent")
    frame = _canonical(raw, names, unit=unit, scale=scale, source=path.name)
    return Measurements(
        frame=frame,
        source=path.name,
        sha256=hashlib.sha256(blob).hexdigest(),
        expected=tuple((float(n), float(v)) for n, v in expected),
        units={"params": unit, "scale": scale},
    )


def read_expected(path: str | Path) -> list[tuple[float, float]]:
    """Read the cells (N in billions, V) of a planned grid from a CSV file with a column for each."""
    path, blob = read_bytes(path)
    raw = parse_csv(path, blob)
    names = find_columns(raw.assign(score="0"), {}, source=path.name)
    n = to_sizes(raw[names["n_params"]], raw["line"], unit=unit_of(names["n_params"]), source=path.name)
    v = to_numbers(raw[names["n_visual_tokens"]], raw["line"], source=path.name, blank_is_nan=False)
    return [(float(a), float(b)) for a, b in zip(n, v, strict=True)]


def as_measurements(table: "Measurements | pd.DataFrame") -> Measurements:
    """Convert a data frame with columns N (billions), V and error, and any others of COLUMNS, to measurements.

    Raises UserError if one of the three is missing.
    """
    if isinstance(table, Measurements):
        return table
    missing = [name for name in ("N", "V", "error") if name not in table]
    if missing:
        raise UserError(
            f"table has no column {', '.join(missing)}; expected N (billions), V and error = 1 - score, "
            "or measurements read by read_measurements(path)"
        )
    names = {name: name for name in table.columns if name in ALIASES and name != "score"}
    names |= {"n_params": "N", "n_visual_tokens": "V"}
    raw = table.reset_index(drop=True).assign(line=np.arange(len(table)))
    frame = _canonical(raw, names, unit="billions", scale="fraction", source="table")
    return Measurements(frame=frame, units={"params": "billions", "scale": "fraction"})


def _canonical(raw: pd.DataFrame, names: Mapping[str, str], *, unit: str, scale: str, source: str) -> pd.DataFrame:
    taken = set(names.values())
    extra = {name: raw[name] for name in raw.columns if name not in taken and name not in COLUMNS and name != "line"}
    n_rows, per = len(raw), 1.0 if scale == "fraction" else 100.0

    def numbers(name: str, *, default: float = np.nan, optional: bool = True) -> np.ndarray:
        if name not in names:
            return np.full(n_rows, default)
        return to_numbers(raw[names[name]], raw["line"], source=source, blank_is_nan=optional)

    def words(name: str, default: str) -> pd.Series:
        return raw[names[name]].map(word).replace("", default) if name in names else pd.Series([default] * n_rows)

    measured = "error" if "error" in names else "score"
    value = numbers(measured, optional=True) / per
    frame = pd.DataFrame(
        {
            "N": to_sizes(raw[names["n_params"]], raw["line"], unit=unit, source=source),
            "V": numbers("n_visual_tokens", optional=False),
            "error": value if measured == "error" else 1 - value,
            "error_se": numbers("error_se") / per,
            "suite": words("suite", ALL_KINDS),
            "kind": words("kind", ALL_KINDS),
            "compressor": words("compressor", ""),
            "seed": words("seed", ""),
            "training": words("training", ""),  # cells of one training share its weights; "" is a training of its own
            "held_out": words("held_out", "false").str.lower().isin(["true", "1", "1.0", "yes"]),
            "n_questions": numbers("n_questions"),
            "note": words("note", ""),
            "line": raw["line"].to_numpy(),
        }
    )
    default_cell = frame["N"].map("{:g}B".format) + "_v" + frame["V"].map("{:g}".format)
    frame.insert(0, "cell", words("cell", "") if "cell" in names else default_cell)
    return frame.assign(**{name: numbers_or_text(column) for name, column in extra.items()})
