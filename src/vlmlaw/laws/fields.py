"""Fields of a CSV file: read as text, reshape to a long table, find columns by their names, convert to numbers.

Every fault of the file raises a UserError that names the file, the line and what was expected.
"""

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from vlmlaw.errors import UserError

# canonical name -> accepted names, in lower case
ALIASES: dict[str, tuple[str, ...]] = {
    "n_params": ("n_params", "params_b", "params", "parameters", "n", "size_b", "params_m", "model_size", "size"),
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
    "training": ("training", "checkpoint"),
    "note": ("note", "notes", "comment"),
}
UNITS = {"billions": 1.0, "millions": 1e-3, "count": 1e-9}
_SUFFIX = {"t": 1e3, "b": 1.0, "g": 1.0, "m": 1e-3, "k": 1e-6}
MAX_BYTES = 256 * 2**20


def read_bytes(path: str | Path) -> tuple[Path, bytes]:
    """The path and the content of a file; the name of a published table stands for its file.

    Raises UserError for a file that cannot be read or is too large.
    """
    from vlmlaw.laws.published import LAW_TABLES, TABLES, published_path

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
            f"cannot read {path}: {error}. Give a CSV file, or a published table: {', '.join(LAW_TABLES)}"
        ) from error


def parse_csv(path: Path, blob: bytes) -> pd.DataFrame:
    """Parse a CSV file separated by commas, semicolons or tabs, every field as text; `line` is the line in the file.

    Raises UserError for a file that is not such a table.
    """
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


def to_long(raw: pd.DataFrame, *, columns: Mapping[str, str], scores: Sequence[str], source: str) -> pd.DataFrame:
    """Reshape a wide table to a long one: a column for each suite (`scores`) or for each token count (1, 4, v16).

    Raises UserError if one of `scores` is missing or columns clash.
    """
    if scores:
        absent = [name for name in scores if name not in raw]
        if absent:
            raise UserError(f"{source} has no column {', '.join(absent)}; it has {', '.join(raw.columns)}")
        kept = [name for name in raw.columns if name not in scores]
        taken = [name for name in ("suite", "score") if name in kept]
        if taken:
            raise UserError(f"{source} has a column {taken[0]!r} beside the columns of scores; rename or drop it")
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


def find_columns(raw: pd.DataFrame, columns: Mapping[str, str], *, source: str) -> dict[str, str]:
    """Map canonical names to those of the file. Raises UserError for a column that is missing or unknown."""
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


def unit_of(column: str) -> str:
    """The unit of N that the name of a column implies."""
    column = column.lower()
    if column.endswith("_m"):
        return "millions"
    return "count" if column in ("n_params", "n_params_total", "parameters") else "billions"


def numbers_or_text(column: pd.Series) -> pd.Series:
    """A column of the user as numbers, with nan for blanks; unchanged if some field is not a number."""
    numbers = pd.to_numeric(column, errors="coerce")
    return numbers if (numbers.notna() | column.map(word).eq("")).all() else column


def word(value: object) -> str:
    """Text of a field of a CSV file or of a value of a data frame; empty for a missing one."""
    return "" if value is None or value != value else str(value)  # nan differs from itself


def to_numbers(column: pd.Series, lines: pd.Series, *, source: str, blank_is_nan: bool) -> np.ndarray:
    """Numbers of a column (rows,); blanks are nan if `blank_is_nan`. Raises UserError for other text."""
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


def to_sizes(column: pd.Series, lines: pd.Series, *, unit: str, source: str) -> np.ndarray:
    """N in billions (rows,), from plain numbers in `unit` or from text such as 0.5B and 70m."""
    text = column.map(str).str.strip().str.lower()
    parts = text.str.extract(r"^([0-9.eE+-]+)\s*([tbgmk])$")
    suffixed = parts[1].notna()
    if not suffixed.any():
        return to_numbers(column, lines, source=source, blank_is_nan=False) * UNITS[unit]
    plain = to_numbers(text.where(~suffixed, parts[0]).rename(column.name), lines, source=source, blank_is_nan=False)
    return plain * np.where(suffixed, parts[1].map(_SUFFIX).fillna(0.0), UNITS[unit])
