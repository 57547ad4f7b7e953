"""Read measured cells: measurements.csv of the workflow, a published table, or any other CSV file, long or wide.

The result is one long data frame with the columns of COLUMNS, N in billions of parameters and error = 1 - score.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vlmlaw.errors import UserError
from vlmlaw.laws.canonical import ALL_KINDS, COLUMNS, canonical_frame
from vlmlaw.laws.cells import Cells
from vlmlaw.laws.columns import lay_out
from vlmlaw.laws.fields import to_numbers, to_sizes
from vlmlaw.laws.files import parse_tables, read_bytes
from vlmlaw.laws.names import ALIASES
from vlmlaw.laws.scales import SCALES, is_unknown_points
from vlmlaw.laws.texts import UNITS, clean, is_left_out
from vlmlaw.laws.tidy import tidy
from vlmlaw.laws.wide import Layout

MEAN_OF_SUITES = "mean of suites"
HOLDS = ("auto", "score", "error")
_MAXIMA_ROW = re.compile(
    r"(max(imum)?\.?( scores?| points)?|full (score|marks?)|(best )?possible|out of)", re.IGNORECASE
)


@dataclass(frozen=True, eq=False)
class Measurements:
    """Measured cells. `frame` has COLUMNS (N in billions), further columns of the file, and `line`, the CSV line.

    expected: cells (N, V) of the planned grid; empty means every combination of the sizes and token counts found.
    units: the options that the file was read with, and "read", the sentence that says which column was read as what.

    >>> table = read_measurements("li2024_reasoning")
    >>> table.groups, len(table.select(V=576))
    ([{'suite': 'all', 'kind': 'all'}], 4)
    """

    frame: pd.DataFrame
    source: str = "a table in memory"
    sha256: str = ""
    expected: tuple[tuple[float, float], ...] = ()
    units: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def groups(self) -> list[dict[str, str]]:
        """The groups that a law is fitted to: each suite and kind, and each compressor if each has its own law.

        Each group is a dictionary for `select`; the kind "all" comes first within a suite.
        """
        names = ["suite", "kind", "compressor"] if self.has_law_each else ["suite", "kind"]
        found = self.frame[names].drop_duplicates()
        by = [name for name in ("compressor", "suite") if name in names]
        order = found.assign(rank=found["kind"].ne(ALL_KINDS)).sort_values([*by, "rank", "kind"], kind="stable")
        return [{str(k): str(v) for k, v in row.items()} for row in order[names].to_dict("records")]

    @property
    def families(self) -> list[str]:
        """Families of released models whose sizes lie on no common law, in the table's order; none of other tables.

        The column `family` of what `vlmlaw measure` writes names them, and `compressor` then says the same.
        """
        if "family" not in self.frame or not (self.frame["family"] == self.frame["compressor"]).all():
            return []
        return [str(name) for name in self.frame["family"].unique()]

    @property
    def has_law_each(self) -> bool:
        """Whether each compressor has its own law: several were measured in one cell, or they stand for families."""
        return self.compressors_share_cells or len(self.families) > 1

    @cached_property
    def compressors_share_cells(self) -> bool:
        """Whether several compressors were measured in one cell."""
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
        """The mean error over all suites, for the cells that have them all; None if there is a single suite.

        n_questions is that of one suite which would show as much: the sum where all were asked equally many.
        """
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
            n_questions=("n_questions", lambda n: len(n) ** 2 / (1 / n).sum(skipna=False)),
        ).reset_index()
        mean = mean[mean["suites"] == n_suites].drop(columns="suites")
        if mean.empty:
            return None
        mean = mean.assign(suite=MEAN_OF_SUITES, kind=ALL_KINDS)
        if self.families:
            mean = mean.assign(family=mean["compressor"])
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
    scale: str = "auto",
    scores: Sequence[str] = (),
    maxima: Mapping[str, float] | None = None,
    holds: str = "auto",
    expected: Sequence[tuple[float, float]] = (),
) -> Measurements:
    """Read measured cells from a file (CSV, Markdown, LaTeX, xlsx), or a published table by its name.

    columns: canonical name -> name in the file, for columns that are not recognised (see ALIASES).
    params_unit: "billions", "millions" or "count"; by default as the column's name or values say.
    scale: "fraction", "percent", or "auto" for what the values of each suite say.
    scores: columns that each contain the scores of one suite (a wide table).
    maxima: suite -> the points that can be reached, for suites that count points.
    holds: "score" or "error", what a wide table holds; "auto" for errors where the values fall with N and V.
    expected: cells (N in billions, V) of the planned grid, for the linter.
    `units["read"]` says which column was read as what. Raises UserError for a file that cannot be read as such a
    table; doubtful values are left to `lint`.

    >>> table = read_measurements("li2024_reasoning")
    >>> len(table), table.frame.loc[0, ["N", "V", "error"]].tolist()
    (28, [0.5, 1.0, 0.6145])
    >>> table.units["read"]
    'N from `params_b`, in billions; V from `visual_tokens`; error = 1 - `score`, fraction'
    """
    for name, value, known in (("scale", scale, SCALES), ("holds", holds, HOLDS)):
        if value not in known:
            raise UserError(f"{name} is {value!r}; expected one of {', '.join(known)}")
    if params_unit is not None and params_unit not in UNITS:
        raise UserError(f"params_unit is {params_unit!r}; expected one of {', '.join(UNITS)}")
    maxima = _positive(maxima or {})
    path, blob = read_bytes(path)
    layout, stated = _layout_of(path, blob, columns or {}, scores=scores, holds=holds)
    maxima = stated | maxima
    layout = _without_left_out(_without_points(layout, maxima, path.name))
    if layout.raw.empty:
        raise UserError(f"{path.name} has no cell with a value")
    frame, unit, reading = canonical_frame(layout, unit=params_unit, scale=scale, maxima=maxima, source=path.name)
    return Measurements(
        frame=frame,
        source=path.name,
        sha256=hashlib.sha256(blob).hexdigest(),
        expected=tuple((float(n), float(v)) for n, v in expected),
        units={
            **{"params": unit, "scale": scale, "columns": dict(columns or {}), "scores": list(scores)},
            **{"maxima": maxima, "holds": holds, "read": reading},
        },
    )


def _without_points(layout: Layout, maxima: Mapping[str, float], source: str) -> Layout:
    """Leave out benchmarks in points of unknown maximum, if others are left and nobody named them."""
    if not layout.found_suites:
        return layout
    raw = layout.raw
    if "score" not in raw:
        return layout
    values = to_numbers(raw["score"], raw["line"], source=source, blank_is_nan=True, labels=raw["suite"])[0]
    suites = raw["suite"].unique()
    points = [name for name in suites if is_unknown_points(values[raw["suite"].eq(name)], str(name), maxima)]
    if not points or len(points) == len(suites):
        return layout
    said = [f"{name} (points: --maximum '{name}=...')" for name in points]
    kept = raw[~raw["suite"].isin(points)].reset_index(drop=True)
    return replace(layout, raw=kept, unread=(*layout.unread, *said))


def _layout_of(
    path: Path, blob: bytes, columns: Mapping[str, str], *, scores: Sequence[str], holds: str
) -> tuple[Layout, dict[str, float]]:
    """The one table of a file that holds cells, and the points that a row of it states for its columns.

    Raises UserError for a file with none, or with several.
    """
    found, refusals = [], []
    tables = parse_tables(path, blob)
    for table in tables:
        try:
            raw, stated = _maxima_of_row(clean(table, path.name))
            raw, said = tidy(raw, (*columns.values(), *scores), source=path.name)
            layout = lay_out(raw, columns, scores=scores, holds=holds, source=path.name)
            found.append((replace(layout, tidied=tuple(said)), stated))
        except UserError as error:
            refusals.append((table, error))
    if len(found) == 1:
        return found[0]
    if len(tables) == 1:
        raise refusals[0][1]
    shown = "; ".join(f"line {int(table['line'].iloc[0])}: {', '.join(table.columns[:3])}, ..." for table in tables)
    which = (
        f"{len(found)} of them with sizes, visual tokens and scores" if found else f"none of cells: {refusals[0][1]}"
    )
    raise UserError(f"{path.name} holds {len(tables)} tables ({shown}), {which}. Keep the one that is meant")


def _without_left_out(layout: Layout) -> Layout:
    """Leave out rows whose value is marked as not there, as `--`: cells that are missing, which the linter says."""
    column = layout.names.get("error", layout.names.get("score"))
    marked = layout.raw[column].map(str).map(is_left_out)
    if not marked.any() or marked.all():
        return layout
    raw = layout.raw[~marked].reset_index(drop=True)
    return replace(layout, raw=raw, sayings={**layout.sayings, "left_out": f"{int(marked.sum())} rows without a value"})


def _maxima_of_row(raw: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, float]]:
    """The table without a row that says what can be reached in each column, and the points that it states."""
    names = [name for name in raw.columns if name != "line"]
    is_row = raw[names].map(lambda text: bool(_MAXIMA_ROW.fullmatch(text))).any(axis=1)
    if is_row.sum() != 1 or len(raw) < 2:
        return raw, {}
    row = pd.to_numeric(raw.loc[is_row, names].iloc[0], errors="coerce").dropna()
    return raw[~is_row].reset_index(drop=True), {str(name): float(most) for name, most in row.items() if most > 100}


def _positive(maxima: Mapping[str, float]) -> dict[str, float]:
    for name, value in maxima.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < np.inf:
            raise UserError(f"the maximum of {name!r} is {value!r}; expected its points, a number above 0")
    return {str(name): float(value) for name, value in maxima.items()}


def read_expected(path: str | Path) -> list[tuple[float, float]]:
    """Read the cells (N in billions, V) of a planned grid from a file with a column for each."""
    path, blob = read_bytes(path)
    layout = lay_out(clean(parse_tables(path, blob)[0], path.name).assign(score="0"), {}, source=path.name)
    raw, names = layout.raw, layout.names
    n, _, _ = to_sizes(raw[names["n_params"]], raw["line"], unit=None, source=path.name)
    v, _, _ = to_numbers(raw[names["n_visual_tokens"]], raw["line"], source=path.name, blank_is_nan=False)
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
    layout = Layout(raw, names)
    frame, _, _ = canonical_frame(layout, unit="billions", scale="fraction", maxima={}, source="table")
    return Measurements(frame=frame, units={"params": "billions", "scale": "fraction"})
