"""Checks of single values: each reads one group of rows (a suite and kind) and yields values that no law can use.

To add one, write a generator of findings and append it to VALUE_CHECKS, or to GRID_CHECKS of `grid.py` if it compares
cells.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from vlmlaw.laws.cells import Array
from vlmlaw.laws.table import Measurements

MAX_PLACES = 6  # named in a message; the rest is counted
LARGEST_SIZE_B = 1e5  # a hundred trillion parameters: above it N was surely not in billions
SMALLEST_SIZE_B = 1e-6  # a thousand parameters
MOST_TOKENS = 1e7
# methods that drop there
INSIDE_LLM = ("fastv", "pyramiddrop", "pdrop", "sparsevlm", "dart", "vtw", "promptdistill", "explained")


@dataclass(frozen=True)
class Finding:
    """A fault, certain or possible: severity "error" or "warning", a code, and the parts of the message.

    >>> print(Finding("warning", "step", "V from 1 to 4", "90% of it is here", "laws are smooth", "measure V = 2"))
    warning [step] V from 1 to 4: 90% of it is here; laws are smooth. To do: measure V = 2.
    """

    severity: str
    code: str
    where: str
    found: str
    why: str
    do: str

    def __str__(self) -> str:
        return f"{self.severity} [{self.code}] {self.where}: {self.text}"

    @property
    def text(self) -> str:
        return f"{self.found}; {self.why}. To do: {self.do}."

    def to_dict(self) -> dict[str, str]:
        return asdict(self)


Check = Callable[[Measurements], Iterator[Finding]]


def not_a_number(rows: Measurements) -> Iterator[Finding]:
    for column, what in (("error", "error or score"), ("N", "size"), ("V", "visual-token count")):
        bad = ~np.isfinite(rows.frame[column].to_numpy(dtype=float))
        if bad.any():
            yield Finding(
                "error",
                "not-a-number",
                _lines(rows, bad),
                f"no finite {what}",
                "a lost measurement is not a measurement, and one NaN spoils every estimate",
                "measure the cell again, or leave its row out and pass --allow-missing",
            )


def out_of_range(rows: Measurements) -> Iterator[Finding]:
    error = rows.frame["error"].to_numpy(dtype=float)
    score = 1 - error
    bad = np.isfinite(error) & ((error < -1e-12) | (error > 1 + 1e-12))
    if not bad.any():
        return
    percent = rows.units.get("scale", "fraction") == "fraction" and _looks_like_percent(error, score)
    yield Finding(
        "error",
        "percent-as-fraction" if percent else "out-of-range",
        _lines(rows, bad),
        f"score {_range(score)}, error {_range(error)}; expected fractions between 0 and 1",
        "a law of error = 1 - score has no meaning elsewhere",
        "the values look like per cent: pass --scale percent" if percent else "correct the values (MME counts points)",
    )


def _looks_like_percent(error: Array, score: Array) -> bool:
    for values in (error, score):
        if np.nanmin(values) >= 0 and 1 < np.nanmax(values) <= 100 and np.nanmedian(values) > 1:
            return True
    return False


def fraction_as_percent(rows: Measurements) -> Iterator[Finding]:
    if rows.units.get("scale") != "percent":
        return
    values = np.minimum(rows.frame["error"], 1 - rows.frame["error"]).to_numpy(dtype=float)
    if np.isfinite(values).all() and len(values) > 1 and np.nanmax(values) <= 0.0100001:
        yield Finding(
            "error",
            "fraction-as-percent",
            "every row",
            "no value above 1 although the scale is per cent",
            "the values look like fractions, and dividing them by 100 leaves no error to explain",
            "leave out --scale percent",
        )


def impossible_design(rows: Measurements) -> Iterator[Finding]:
    n, v = rows.frame["N"].to_numpy(dtype=float), rows.frame["V"].to_numpy(dtype=float)
    bad_n, bad_v = np.isfinite(n) & (n <= 0), np.isfinite(v) & ((v < 1) | (v > MOST_TOKENS))
    if bad_n.any():
        yield Finding(
            "error",
            "impossible-size",
            _lines(rows, bad_n),
            f"{bad_n.sum()} rows with a size of 0 or less",
            "a law takes the logarithm of N",
            "give the number of parameters",
        )
    if bad_v.any():
        yield Finding(
            "error",
            "impossible-token-count",
            _lines(rows, bad_v),
            f"V is {_range(v[bad_v])}; expected 1 to {MOST_TOKENS:.0e} visual tokens",
            "a law takes the logarithm of V, so a text-only cell has no place in it",
            "give the number of visual tokens that the LLM reads, or leave these rows out",
        )
    unit = rows.units.get("params", "billions")
    if np.nanmax(n) > LARGEST_SIZE_B or (np.nanmax(n) < SMALLEST_SIZE_B and not bad_n.any()):
        other = "count" if np.nanmax(n) > LARGEST_SIZE_B else "billions"
        yield Finding(
            "error",
            "wrong-units",
            "every row",
            f"N runs to {np.nanmax(n):g} billion parameters (read in {unit})",
            "no model has such a size, and every FLOP count would be off by the same factor",
            f"pass --params-unit {other}",
        )


def impossible_se(rows: Measurements) -> Iterator[Finding]:
    se = rows.frame["error_se"].to_numpy(dtype=float)
    bad = (se < 0) | (se > 0.5)
    if bad.any():
        yield Finding(
            "error",
            "impossible-standard-error",
            _lines(rows, bad),
            f"error_se {_range(se[bad])}",
            "a standard error of a mean of fractions lies between 0 and 0.5",
            "give standard errors in the unit of the error (fractions), or drop the column",
        )


def tokens_by_layer(rows: Measurements) -> Iterator[Finding]:
    """What V is of methods that drop tokens inside the LLM: the average of its layers, or perhaps what they keep."""
    v = rows.frame["V"].to_numpy(dtype=float)
    if "kept_tokens" in rows.frame:
        kept = pd.to_numeric(rows.frame["kept_tokens"], errors="coerce").to_numpy(dtype=float)
        averaged = np.isfinite(kept) & (np.abs(kept - v) > 0.01)
        if averaged.any():
            yield Finding(
                "warning",
                "layer-average",
                _lines(rows, averaged),
                f"V is {_range(v[averaged])} where {_range(kept[averaged])} tokens are kept",
                "these methods drop tokens inside the LLM, and what its layers read on the average is what it costs: "
                "the V of the law and of 2N(Q+V)",
                "compare them at equal V; kept_tokens says what is left at the end",
            )
        return
    names = rows.frame["compressor"].astype(str).str.lower() if "compressor" in rows.frame else pd.Series(dtype=str)
    inside = names.isin(INSIDE_LLM).to_numpy(dtype=bool)
    if inside.any():
        found = ", ".join(sorted(set(names[inside])))
        yield Finding(
            "warning",
            "layer-average",
            _lines(rows, inside),
            f"{found} drops tokens inside the LLM, and no column kept_tokens says whether V is what it keeps",
            "V of the law and of 2N(Q+V) is what the layers read on the average: FastV with 16 of 576 tokens after "
            "layer 2 of 32 reads 51",
            "give the average as V, and what is kept as kept_tokens",
        )


VALUE_CHECKS: tuple[Check, ...] = (
    not_a_number,
    out_of_range,
    fraction_as_percent,
    impossible_design,
    impossible_se,
    tokens_by_layer,
)


def _lines(rows: Measurements, bad: Array) -> str:
    lines = rows.frame["line"].to_numpy()[bad]
    shown = ", ".join(str(line) for line in lines[:MAX_PLACES])
    more = f" and {len(lines) - MAX_PLACES} more" if len(lines) > MAX_PLACES else ""
    return f"line{'s' * (len(lines) > 1)} {shown}{more}"


def _range(values: Array) -> str:
    return f"{np.nanmin(values):g} to {np.nanmax(values):g}"
