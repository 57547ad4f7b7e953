"""Columns of a table as arrays: numbers with their errors and signs, sizes in billions, yes or no.

Every fault raises a UserError that names the file, the line and what was expected.
"""

import re

import numpy as np
import pandas as pd

from vlmlaw.errors import UserError
from vlmlaw.laws.cells import Array
from vlmlaw.laws.names import plain_name
from vlmlaw.laws.texts import LARGEST_COUNT, UNITS, number, size

_YES = ("true", "1", "1.0", "yes", "y", "t", "x", "test", "held out", "held_out")
_NO = ("false", "0", "0.0", "no", "n", "f", "", "-", "train", "fit", "nan", "none")
_MILLIONS = 2500  # and from here on millions: as billions they would be larger than any model that was published


def word(value: object) -> str:
    """Text of a field of a CSV file or of a value of a data frame; empty for a missing one."""
    return "" if value is None or value != value else str(value)  # nan differs from itself


def to_numbers(
    column: pd.Series, lines: pd.Series, *, source: str, blank_is_nan: bool, labels: pd.Series | None = None
) -> tuple[Array, Array, np.ndarray]:
    """Values of a column, their standard errors (from ±, else nan), and whether each has a % sign (rows,).

    Fields that say they are missing are nan if `blank_is_nan`; `labels` are the columns that
    they came from. Raises UserError for other text.
    """
    if pd.api.types.is_numeric_dtype(column):  # a data frame's own numbers; a CSV's are text
        values = column.to_numpy(dtype=float)
        return values, np.full(len(values), np.nan), np.zeros(len(values), bool)
    known: dict[str, tuple[float, float, str] | None] = {}
    texts = column.map(word).str.strip()
    for text in texts.unique():
        known[text] = _plain_value(text, blank_is_nan=blank_is_nan)
    bad = np.flatnonzero([known[text] is None for text in texts])
    if bad.size:
        name = column.name if labels is None else labels.iloc[bad[0]]
        raise UserError(
            f"{source} line {lines.iloc[bad[0]]}: column {name!r} holds {texts.iloc[bad[0]]!r}; "
            "expected a number" + (f" ({bad.size} such rows)" if bad.size > 1 else "") + _remedy(texts.iloc[bad[0]])
        )
    parts = [known[text] or (np.nan, np.nan, "") for text in texts]
    values, errors = (np.array([part[i] for part in parts], dtype=float) for i in (0, 1))
    return values, errors, np.array([part[2] == "%" for part in parts], dtype=bool)


def _plain_value(text: str, *, blank_is_nan: bool) -> tuple[float, float, str] | None:
    """A field as (value, error, "%" or ""); None for other units and text, and for a missing one unless allowed."""
    if found := re.fullmatch(r"(\d+)(?:\s*[x×*]\s*(\d+)|²)(?:\s*tokens?)?", text):  # a grid of tokens
        return float(found[1]) * float(found[2] or found[1]), np.nan, ""
    try:
        value, error, unit = number(text)
    except ValueError:
        return None
    if value != value:
        return (value, error, "") if blank_is_nan else None
    if unit.lower() == "k":
        return 1e3 * value, error, ""
    return (value, error, unit) if unit.lower() in ("", "%", "tokens", "token") else None


def _remedy(text: str) -> str:
    if re.fullmatch(r"[\d.]+%?\s*\([\d.]+\)", text):
        return ". Write ± before a standard error, as in 48.2 ± 0.4, and leave out what else is in brackets"
    if re.fullmatch(r"\d+\s*[-–~]\s*\d+", text):
        return ". Where it varies from image to image, give the mean"
    if re.fullmatch(r"[\d.]+\s*/\s*[\d.]+", text):
        return ". Write two numbers into two columns"
    if re.fullmatch(r"\d+(\s*\+\s*\d+)+", text):
        return ". Write the sum"
    if re.fullmatch(r"([<>≤≥]=?|up to|max\.?|at most)\s*\d+", text, re.IGNORECASE):
        return ". It is a limit; give the mean over the images"
    if re.fullmatch(r"[\d.]+\s*%?\s*\[[-\d.,; ]+\]", text):
        return ". Write ± and the standard error, the width of a 95 % interval divided by 3.92"
    return ""


def to_tokens(column: pd.Series, lines: pd.Series, *, source: str) -> Array:
    """V (rows,). Raises UserError for shares, and for 2.880, which may be 2880 or less than three."""
    values, _, percent = to_numbers(column, lines, source=source, blank_is_nan=False)
    texts = column.map(word).str.strip()
    thousands = texts.str.fullmatch(r"[1-9]\.\d{3}").to_numpy() & (not pd.api.types.is_numeric_dtype(column))
    for bad, why in (
        (percent, "a share of the encoder's tokens: multiply it by them (576 for CLIP-L/336)"),
        (thousands, "thousands with a point? Write 2880 for 2.880"),
    ):
        if bad.any():
            at = int(np.flatnonzero(bad)[0])
            raise UserError(f"{source} line {lines.iloc[at]}: column {column.name!r} holds {texts.iloc[at]!r}, {why}")
    return values


def to_sizes(column: pd.Series, lines: pd.Series, *, unit: str | None, source: str) -> tuple[Array, str, str]:
    """N in billions (rows,), the unit of plain numbers and that unit in words.

    The text may be 7, 0.5B, 70m, 30B-A3B (total), 7B-Instruct.

    unit: of plain numbers; None for that of the column's name, else by their values. Raises UserError for other text,
    and for millions beside billions.
    """
    texts = column.map(word).str.strip()
    plain = pd.to_numeric(texts, errors="coerce").to_numpy(dtype=float)
    bare = plain[np.isfinite(plain)]
    chosen = unit or unit_of(str(column.name), bare)
    if chosen not in UNITS:
        raise UserError(f"params_unit is {chosen!r}; expected one of {', '.join(UNITS)}")
    known: dict[str, float | str] = {}
    for text in texts.unique():
        try:
            known[text] = size(text, unit=chosen)[0]
        except ValueError as error:
            known[text] = str(error)
    for text, line in zip(texts, lines, strict=True):
        if isinstance(known[text], str):
            raise UserError(f"{source} line {line}: column {column.name!r} holds {text!r}; {known[text]}")
    if unit is None:
        _refuse_mixed_units(bare, texts, lines, name=str(column.name), source=source)
    words = "as written" if not bare.size else chosen if unit or chosen == "count" else f"in {chosen}"
    return np.array([known[text] for text in texts], dtype=float), chosen, words


def unit_of(column: str, values: Array | None = None) -> str:
    """The unit of N that the name of a column implies, or else its plain values: billions, millions or count."""
    name = plain_name(column)
    if re.search(r"_m$", name):
        return "millions"
    if name in ("n_params", "n_params_total"):
        return "count"
    if re.search(r"_b$", name) or values is None or not values.size:
        return "count" if name == "parameters" and (values is None or not values.size) else "billions"
    most = float(np.max(values))
    return "count" if most >= LARGEST_COUNT else "millions" if most >= _MILLIONS else "billions"


def _refuse_mixed_units(bare: Array, texts: pd.Series, lines: pd.Series, *, name: str, source: str) -> None:
    levels = np.unique(bare[bare > 0])
    if levels.size < 2 or levels[-1] < 100:
        return
    jumps = levels[1:] / levels[:-1]
    at = int(np.argmax(jumps))
    if jumps[at] >= 20 and levels[at] < 100:
        big, small = levels[at + 1], levels[at]
        line = next(line for text, line in zip(texts, lines, strict=True) if text and _float(text) == big)
        raise UserError(
            f"{source} line {line}: column {name!r} holds {big:g} beside {small:g}: millions beside billions? "
            f"Write the unit, as {big:g}M and {small:g}B; if all are in billions: --params-unit billions"
        )


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return np.nan


def to_flags(column: pd.Series, lines: pd.Series, *, source: str) -> np.ndarray:
    """Yes or no of every row (rows,). Raises UserError for other words."""
    words = column.map(word).str.strip().str.lower()
    for text, line in zip(words, lines, strict=True):
        if text not in _YES and text not in _NO:
            raise UserError(f"{source} line {line}: column {column.name!r} holds {text!r}; expected yes or no")
    return words.isin(_YES).to_numpy(dtype=bool)
