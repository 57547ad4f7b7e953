"""Read measured cells: the workflow's measurements.csv, a published table, or a user's own CSV, long or wide.

Everything ends in one long frame with the columns of COLUMNS, N in billions of parameters and error = 1 - score.
"""

import hashlib
import io
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

# canonical name -> names it goes by, lower case
ALIASES: dict[str, tuple[str, ...]] = {
    "n_params": ("n_params", "params_b", "params", "parameters", "n", "size_b", "params_m", "model_size"),
    "n_visual_tokens": ("n_visual_tokens", "visual_tokens", "v", "tokens", "image_tokens", "num_visual_tokens", "t"),
    "error": ("error", "err", "error_rate"),
    "score": ("score", "accuracy", "acc", "mean_score"),
    "error_se": ("error_se", "se", "stderr", "std_err", "score_se"),
    "suite": ("suite", "task", "dataset", "benchmark"),
    "kind": ("kind", "category"),
    "compressor": ("compressor", "method"),
    "seed": ("seed", "replicate", "run"),
    "cell": ("cell",),
    "held_out": ("held_out",),
    "n_questions": ("n_questions",),
    "note": ("note", "notes", "comment"),
}
COLUMNS = ("cell", "N", "V", "error", "error_se", "suite", "kind", "compressor", "seed", "held_out", "n_questions")
ALL_KINDS = "all"
MEAN_OF_SUITES = "mean of suites"
UNITS = {"billions": 1.0, "millions": 1e-3, "count": 1e-9}
_SUFFIX = {"t": 1e3, "b": 1.0, "g": 1.0, "m": 1e-3, "k": 1e-6}
MAX_BYTES = 256 * 2**20


@dataclass(frozen=True, eq=False)
class Measurements:
    """Measured cells. `frame` has COLUMNS (N in billions), any columns of the user's, and `line`, the CSV line.

    expected: cells (N, V) that should be there; empty means the full grid of the sizes and token counts found.
    """

    frame: pd.DataFrame
    source: str = "a table in memory"
    sha256: str = ""
    expected: tuple[tuple[float, float], ...] = ()
    units: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def groups(self) -> list[dict[str, str]]:
        """What a law is fitted to: each suite and kind, and each compressor where several share cells.

        Each group is a dictionary for `select`; the kind "all" comes first within a suite.
        """
        names = ["suite", "kind", "compressor"] if self.compressors_share_cells else ["suite", "kind"]
        found = self.frame[names].drop_duplicates()
        by = [name for name in ("compressor", "suite") if name in names]
        order = found.assign(rank=found["kind"].ne(ALL_KINDS)).sort_values([*by, "rank", "kind"], kind="stable")
        return [{str(k): str(v) for k, v in row.items()} for row in order[names].to_dict("records")]

    @cached_property
    def compressors_share_cells(self) -> bool:
        """Whether several compressors were measured in one cell: then each has a law of its own."""
        cells = self.frame[["N", "V", "compressor"]].drop_duplicates()
        return bool(cells.duplicated(["N", "V"]).any())

    def select(self, **values: Any) -> "Measurements":
        """The rows where each named column has this value, for example `select(suite="reasoning", kind="all")`."""
        frame = self.frame
        for column, value in values.items():
            if column not in frame:
                raise UserError(f"{self.source} has no column {column!r}; it has {', '.join(map(str, frame.columns))}")
            found = frame[column]
            frame = frame[found == value]
            if frame.empty:
                shown = ", ".join(map(str, found.drop_duplicates().head(12)))
                raise UserError(f"{self.source} has no row with {column} = {value!r}; it has {shown}")
        return replace(self, frame=frame)

    def mean_of_suites(self) -> "Measurements | None":
        """The mean error of all suites in each cell that has them all; None where there is one suite only."""
        whole = self.frame[self.frame["kind"] == ALL_KINDS]
        n_suites = whole["suite"].nunique()
        if n_suites < 2:
            return None
        keys = ["cell", "N", "V", "compressor", "seed"]
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
        """The rows as numbers to fit; weights "se" weighs each row by 1 / error_se**2."""
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


def read_measurements(
    path: str | Path,
    columns: Mapping[str, str] | None = None,
    *,
    params_unit: str | None = None,
    scale: str = "fraction",
    scores: Sequence[str] = (),
    expected: Sequence[tuple[float, float]] = (),
) -> Measurements:
    """Measured cells of a CSV file, or of a published table by its name (`li2024_reasoning`, `li2024_ocr`).

    columns: canonical name -> the file's name, for columns that are not found by themselves (see ALIASES).
    params_unit: "billions", "millions" or "count"; by default from the column's name (n_params counts, params_b is in
        billions, params_m in millions), otherwise billions.
    scale: "fraction", or "percent" where scores or errors run to 100.
    scores: columns that each hold one suite's score (a wide table).
    Raises UserError for a file that cannot be read as such a table; what is readable but doubtful is for `lint`.
    """
    path, blob = _read_bytes(path)
    raw = _parse_csv(path, blob)
    raw = _to_long(raw, columns=columns or {}, scores=scores, source=path.name)
    names = _find_columns(raw, columns or {}, source=path.name)
    unit = params_unit or _unit_of(names["n_params"])
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
    """The cells (N in billions, V) that a grid should have, from a CSV with a column for each."""
    path, blob = _read_bytes(path)
    raw = _parse_csv(path, blob)
    names = _find_columns(raw.assign(score="0"), {}, source=path.name)
    n = _to_sizes(raw[names["n_params"]], raw["line"], unit=_unit_of(names["n_params"]), source=path.name)
    v = _to_numbers(raw[names["n_visual_tokens"]], raw["line"], source=path.name, blank_is_nan=False)
    return [(float(a), float(b)) for a, b in zip(n, v, strict=True)]


def as_measurements(table: "Measurements | pd.DataFrame") -> Measurements:
    """Measurements of a data frame with columns N (billions), V and error, and whichever others of COLUMNS it has."""
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


# --------------------------------------------------------------------------- the file


def _read_bytes(path: str | Path) -> tuple[Path, bytes]:
    from vlmlaw.published import TABLES, published_path

    if not Path(path).exists() and str(path) in TABLES:
        path = published_path(str(path))
    path = Path(path)
    try:
        if path.is_file() and path.stat().st_size > MAX_BYTES:
            raise UserError(
                f"{path} holds {path.stat().st_size} bytes; a table of measurements has at most {MAX_BYTES}"
            )
        return path, path.read_bytes()
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot read {path}: {error}. Give a CSV file, or a published table: {', '.join(TABLES)}"
        ) from error


def _parse_csv(path: Path, blob: bytes) -> pd.DataFrame:
    try:
        text = blob.decode("utf-8-sig")
        header = text.split("\n", 1)[0]
        separator = max((",", "\t", ";"), key=header.count)
        raw = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False, sep=separator, skipinitialspace=True)
    except (UnicodeDecodeError, ValueError, OverflowError) as error:  # pandas' parser errors are ValueErrors
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise UserError(f"{path.name} is not a CSV file in UTF-8: {reason}") from error
    if not isinstance(raw.index, pd.RangeIndex):
        raise UserError(f"{path.name} has rows with more fields than its header has names; expected equally many")
    raw.columns = [str(name).strip() for name in raw.columns]
    repeated = raw.columns[raw.columns.duplicated()].tolist()
    if repeated:
        raise UserError(f"{path.name} names column {repeated[0]!r} twice")
    raw = raw.fillna("").map(str.strip)
    written = (raw != "").any(axis=1)
    if not written.any():
        raise UserError(f"{path.name} has no rows under its header")
    return raw.assign(line=np.arange(len(raw)) + 2)[written].reset_index(drop=True)


def _to_long(raw: pd.DataFrame, *, columns: Mapping[str, str], scores: Sequence[str], source: str) -> pd.DataFrame:
    """A long table of a wide one: a column for each suite (`scores`), or a column for each token count (1, 4, v16)."""
    if scores:
        absent = [name for name in scores if name not in raw]
        if absent:
            raise UserError(f"{source} has no column {', '.join(absent)}; it has {', '.join(raw.columns)}")
        kept = [name for name in raw.columns if name not in scores]
        long = raw.melt(id_vars=kept, value_vars=list(scores), var_name="suite", value_name="score")
        return long[long["score"] != ""].reset_index(drop=True)
    has_tokens = "n_visual_tokens" in columns or any(c.lower() in ALIASES["n_visual_tokens"] for c in raw.columns)
    counts = {name: m[1] for name in raw.columns if (m := re.fullmatch(r"[vV]?=?(\d+)", name))}
    if has_tokens or len(counts) < 2:
        return raw
    if len(set(counts.values())) < len(counts):
        raise UserError(f"{source} has two columns for one token count: {', '.join(counts)}")
    long = raw.rename(columns=counts).melt(
        id_vars=[name for name in raw.columns if name not in counts],
        value_vars=list(counts.values()),
        var_name="n_visual_tokens",
        value_name="score",
    )
    return long[long["score"] != ""].reset_index(drop=True)


def _find_columns(raw: pd.DataFrame, columns: Mapping[str, str], *, source: str) -> dict[str, str]:
    """Canonical name -> the file's name."""
    unknown = [name for name in columns if name not in ALIASES]
    if unknown:
        raise UserError(f"column {unknown[0]!r} cannot be mapped; the names are {', '.join(ALIASES)}")
    lower = {str(name).lower(): name for name in raw.columns if name != "line"}
    found: dict[str, str] = {}
    for name, aliases in ALIASES.items():
        if name in columns:
            if columns[name] not in raw:
                raise UserError(f"{source} has no column {columns[name]!r}; it has {', '.join(lower.values())}")
            found[name] = columns[name]
        else:
            found |= next(({name: lower[alias]} for alias in aliases if alias in lower), {})
    if "error" in columns:
        found.pop("score", None)
    elif "score" in columns or "error" not in found:
        found.pop("error", None)
    for name, option in (("n_params", "size in parameters"), ("n_visual_tokens", "number of visual tokens")):
        if name not in found:
            raise UserError(
                f"{source} has no column for the {option}; looked for {', '.join(ALIASES[name])}; "
                f"it has {', '.join(lower.values())}. Name it: --column {name}=YOURS"
            )
    if "error" not in found and "score" not in found:
        raise UserError(
            f"{source} has no column error or score; it has {', '.join(lower.values())}. "
            "Name it: --column score=YOURS, or --scores A,B,C for a column for each suite"
        )
    return found


def _unit_of(column: str) -> str:
    column = column.lower()
    if column.endswith("_m"):
        return "millions"
    return "count" if column in ("n_params", "n_params_total", "parameters") else "billions"


# --------------------------------------------------------------------------- values


def _canonical(raw: pd.DataFrame, names: Mapping[str, str], *, unit: str, scale: str, source: str) -> pd.DataFrame:
    taken = set(names.values())
    extra = {name: raw[name] for name in raw.columns if name not in taken and name not in COLUMNS and name != "line"}
    n_rows, per = len(raw), 1.0 if scale == "fraction" else 100.0

    def numbers(name: str, *, default: float = np.nan, optional: bool = True) -> np.ndarray:
        if name not in names:
            return np.full(n_rows, default)
        return _to_numbers(raw[names[name]], raw["line"], source=source, blank_is_nan=optional)

    def words(name: str, default: str) -> pd.Series:
        return raw[names[name]].map(_word).replace("", default) if name in names else pd.Series([default] * n_rows)

    measured = "error" if "error" in names else "score"
    value = numbers(measured, optional=True) / per
    frame = pd.DataFrame(
        {
            "N": _to_sizes(raw[names["n_params"]], raw["line"], unit=unit, source=source),
            "V": numbers("n_visual_tokens", optional=False),
            "error": value if measured == "error" else 1 - value,
            "error_se": numbers("error_se") / per,
            "suite": words("suite", ALL_KINDS),
            "kind": words("kind", ALL_KINDS),
            "compressor": words("compressor", ""),
            "seed": words("seed", ""),
            "held_out": words("held_out", "false").str.lower().isin(["true", "1", "1.0", "yes"]),
            "n_questions": numbers("n_questions"),
            "note": words("note", ""),
            "line": raw["line"].to_numpy(),
        }
    )
    default_cell = frame["N"].map("{:g}B".format) + "_v" + frame["V"].map("{:g}".format)
    frame.insert(0, "cell", words("cell", "") if "cell" in names else default_cell)
    return frame.assign(**{name: _numbers_or_text(column) for name, column in extra.items()})


def _numbers_or_text(column: pd.Series) -> pd.Series:
    """A user's own column as numbers, with nan for blanks, or as it is where some field is no number."""
    numbers = pd.to_numeric(column, errors="coerce")
    return numbers if (numbers.notna() | column.map(_word).eq("")).all() else column


def _word(value: object) -> str:
    """Text of a CSV's field or of a data frame's value; nothing where there is none."""
    return "" if value is None or value != value else str(value)  # nan is unlike itself


def _to_numbers(column: pd.Series, lines: pd.Series, *, source: str, blank_is_nan: bool) -> np.ndarray:
    if pd.api.types.is_numeric_dtype(column):  # a data frame's own numbers; a CSV's are text
        return column.to_numpy(dtype=float)
    text = column.map(str).str.strip()
    blank = text.str.lower().isin(["", "nan", "na", "none", "null"]) & blank_is_nan
    numbers = pd.to_numeric(text.where(~blank, "nan"), errors="coerce").to_numpy(dtype=float)
    bad = np.flatnonzero(np.isnan(numbers) & ~blank.to_numpy())
    if bad.size:
        raise UserError(
            f"{source} line {lines.iloc[bad[0]]}: column {column.name!r} holds {text.iloc[bad[0]]!r}; expected a number"
            + (f" ({bad.size} such rows)" if bad.size > 1 else "")
        )
    return numbers


def _to_sizes(column: pd.Series, lines: pd.Series, *, unit: str, source: str) -> np.ndarray:
    """N in billions: plain numbers in `unit`, or text such as 0.5B and 70m."""
    text = column.map(str).str.strip().str.lower()
    parts = text.str.extract(r"^([0-9.eE+-]+)\s*([tbgmk])$")
    suffixed = parts[1].notna()
    if not suffixed.any():
        return _to_numbers(column, lines, source=source, blank_is_nan=False) * UNITS[unit]
    plain = _to_numbers(text.where(~suffixed, parts[0]).rename(column.name), lines, source=source, blank_is_nan=False)
    return plain * np.where(suffixed, parts[1].map(_SUFFIX).fillna(0.0), UNITS[unit])
