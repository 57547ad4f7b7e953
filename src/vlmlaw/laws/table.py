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
from vlmlaw.laws.cells import Cells
from vlmlaw.laws.columns import lay_out
from vlmlaw.laws.fields import to_flags, to_numbers, to_sizes, word
from vlmlaw.laws.files import parse_tables, read_bytes
from vlmlaw.laws.names import ALIASES, plain_name
from vlmlaw.laws.scales import SCALES, divisor, is_unknown_points
from vlmlaw.laws.texts import UNITS, clean, is_left_out, measures
from vlmlaw.laws.wide import Layout

COLUMNS = (
    *("cell", "N", "V", "error", "error_se", "suite", "kind", "compressor", "seed", "training", "held_out"),
    "n_questions",
)
ALL_KINDS = "all"
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
    frame, unit, reading = _canonical(layout, unit=params_unit, scale=scale, maxima=maxima, source=path.name)
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
    values = to_numbers(raw["score"], raw["line"], source=source, blank_is_nan=True)[0] if "score" in raw else None
    suites = raw["suite"].unique()
    if values is None:
        return layout
    points = [name for name in suites if is_unknown_points(values[raw["suite"].eq(name)], str(name), maxima)]
    if not points or len(points) == len(suites):
        return layout
    said = [f"{name} (points: --maximum '{name}=2000')" for name in points]
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
            found.append((lay_out(raw, columns, scores=scores, holds=holds, source=path.name), stated))
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
    frame, _, _ = _canonical(layout, unit="billions", scale="fraction", maxima={}, source="table")
    return Measurements(frame=frame, units={"params": "billions", "scale": "fraction"})


def _canonical(
    layout: Layout, *, unit: str | None, scale: str, maxima: Mapping[str, float], source: str
) -> tuple[pd.DataFrame, str, str]:
    """The frame of Measurements, the unit of N in the file, and the sentence about its columns."""
    raw, names = layout.raw, layout.names
    taken = {*names.values(), *COLUMNS, "line"}
    extra = {name: raw[name] for name in raw.columns if name not in taken}
    n_rows = len(raw)

    def numbers(name: str, *, optional: bool = True) -> np.ndarray:
        if name not in names:
            return np.full(n_rows, np.nan)
        return to_numbers(raw[names[name]], raw["line"], source=source, blank_is_nan=optional)[0]

    def words(name: str, default: str) -> pd.Series:
        return raw[names[name]].map(word).replace("", default) if name in names else pd.Series([default] * n_rows)

    measured = "error" if "error" in names else "score"
    n, unit, unit_words = to_sizes(raw[names["n_params"]], raw["line"], unit=unit, source=source)
    suite = words("suite", ALL_KINDS)
    value, own_se, scales = _fractions(raw, names[measured], suite, scale=scale, maxima=maxima, source=source)
    frame = pd.DataFrame(
        {
            "N": n,
            "V": numbers("n_visual_tokens", optional=False),
            "error": value[0] if measured == "error" else 1 - value[0],
            "error_se": numbers("error_se") / value[1] if "error_se" in names else own_se,
            "suite": suite,
            "kind": words("kind", ALL_KINDS),
            "compressor": words("compressor", ""),
            "seed": words("seed", ""),
            "training": words("training", ""),  # cells of one training share its weights; "" is a training of its own
            "held_out": to_flags(words("held_out", ""), raw["line"], source=source),
            "n_questions": numbers("n_questions"),
            "note": words("note", ""),
            "line": raw["line"].to_numpy(),
        }
    )
    default_cell = frame["N"].map("{:g}B".format) + "_v" + frame["V"].map("{:g}".format)
    frame.insert(0, "cell", words("cell", "") if "cell" in names else default_cell)
    reading = _sentence(layout, measured, unit_words, scales, with_se=bool(np.isfinite(own_se).any()))
    # sizes beside another column of sizes are the names that they go by, such as 150k
    further = {name: column if plain_name(name) == "size" else measures(column) for name, column in extra.items()}
    return frame.assign(**further), unit, reading


def _fractions(
    raw: pd.DataFrame, column: str, suite: pd.Series, *, scale: str, maxima: Mapping[str, float], source: str
) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray, dict[str, str]]:
    """Values as fractions and what each was divided by, standard errors from ±, and each suite's scale in words."""
    values, errors, percent = to_numbers(raw[column], raw["line"], source=source, blank_is_nan=True)
    per, scales = np.ones(len(values)), {}
    for name in suite.unique():
        rows = suite.eq(name).to_numpy()
        label = column if name == ALL_KINDS else str(name)
        per[rows], scales[label] = divisor(
            values[rows], percent[rows], raw["line"][rows], name=label, scale=scale, maxima=maxima, source=source
        )
    return (values / per, per), errors / per, scales


def _sentence(layout: Layout, measured: str, unit: str, scales: Mapping[str, str], *, with_se: bool) -> str:
    """Which column was read as what."""
    names, sayings = layout.names, layout.sayings
    origin = {role: sayings.get(role) or f"`{names[role]}`" for role in ("n_params", "n_visual_tokens")}
    size = f"N from {origin['n_params']}, {unit}"
    if "active_params_b" in layout.raw and names["n_params"] != "active_params_b":
        size += " (total; active ones in `active_params_b`)"
    v = f"V from {origin['n_visual_tokens']}"
    sign = "" if measured == "error" else "1 - "
    by_scale: dict[str, list[str]] = {}
    for name, found in scales.items():
        by_scale.setdefault(found, []).append(name)
    shown = [f"{', '.join(f'`{name}`' for name in found)}, {word_}" for word_, found in by_scale.items()]
    parts = [size, v, f"error = {sign}{'; '.join(shown)}"]
    if layout.wide and sayings.get("holds"):
        parts[-1] += f" (errors, {sayings['holds']}; --holds score if not)"
    parts += [
        f"{role} from `{names[role]}`"
        for role in ("kind", "compressor", "seed", "held_out", "n_questions", "training", "error_se")
        if role in names
    ]
    parts += ["error_se from the ±"] * (with_se and "error_se" not in names)
    parts += [f"left out: {sayings.get('left_out')}"] * ("left_out" in sayings)
    parts += [f"not read: {', '.join(f'`{name}`' for name in layout.unread)}"] * bool(layout.unread)
    return "; ".join(parts)
