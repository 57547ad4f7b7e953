"""The linter's checks: each looks at one group of rows (a suite and kind) and yields what it finds.

To add one, write a generator of findings and put it into VALUE_CHECKS (values that no law can use) or DESIGN_CHECKS.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import product

import numpy as np
import pandas as pd

from vlmlaw.laws.cells import Array, format_size
from vlmlaw.laws.table import Measurements

MAX_PLACES = 6  # named in a message; the rest is counted
LARGEST_SIZE_B = 1e5  # a hundred trillion parameters: above it N was surely not in billions
SMALLEST_SIZE_B = 1e-6  # a thousand parameters
MOST_TOKENS = 1e7
STEP_SHARE, STEP_LEAST_DROP = 0.8, 0.1  # a fall of a tenth, four fifths of it at once
COLLINEAR = 0.95  # |correlation| of ln N and ln V from which their effects are hard to tell apart


@dataclass(frozen=True)
class Finding:
    """One thing that is or may be wrong: severity "error" or "warning", a code to refer to, and the message's parts."""

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


# --------------------------------------------------------------------------- values


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


# --------------------------------------------------------------------------- copies


def repeated_cells(rows: Measurements) -> Iterator[Finding]:
    """The same cell twice; without a seed column, copies that disagree are taken as replicates."""
    frame = rows.frame
    keys = ["N", "V", "compressor", "seed"]
    twins = frame.duplicated(keys, keep=False)
    if not twins.any():
        return
    n_values = frame[twins].groupby(keys, dropna=False)["error"].transform("nunique")
    equal, unlike = np.zeros(len(frame), bool), np.zeros(len(frame), bool)
    equal[twins.to_numpy()], unlike[twins.to_numpy()] = n_values.eq(1), n_values.gt(1)
    if equal.any():
        yield Finding(
            "error",
            "repeated-rows",
            _places(frame[equal]),
            f"{int(equal.sum())} rows repeat a cell with the same error",
            "a copy counts as a second measurement and makes every interval too narrow",
            "keep one of each; if they are replicates, give their seed column",
        )
    if unlike.any():
        seeded = frame["seed"].ne("").any()
        yield Finding(
            "error" if seeded else "warning",
            "disagreeing-copies",
            _places(frame[unlike]),
            f"{int(unlike.sum())} rows give the same cell different errors",
            "only one of them can be right" if seeded else "without a seed column they are taken as replicates",
            "keep the right one" if seeded else "name the seed column (--column seed=YOURS) if they are, else keep one",
        )


def equal_values(rows: Measurements) -> Iterator[Finding]:
    """The same value in different cells, where the values are too fine for chance."""
    frame = rows.frame
    error = frame["error"].to_numpy(dtype=float)
    values, counts = np.unique(error, return_counts=True)
    if len(error) < 3 or len(values) < 2:
        return
    step = _resolution(rows)
    n_pairs = len(error) * (len(error) - 1) / 2
    if n_pairs * step / np.ptp(error) > 0.05:
        return
    for value in values[counts > 1]:
        same = frame[error == value]
        if len(same[["N", "V"]].drop_duplicates()) > 1:
            yield Finding(
                "warning",
                "equal-values",
                _places(same),
                f"different cells have the same error, {value:.10g}, to the last digit",
                "at this resolution that is hardly chance; one of them was likely copied",
                "check them against their source, and leave out the wrong one",
            )


def _resolution(rows: Measurements) -> float:
    """The step between possible errors: 1 / questions where known, else the last decimal of the finest value."""
    questions = rows.frame["n_questions"].to_numpy(dtype=float)
    if np.isfinite(questions).any():
        return 1 / max(np.nanmax(questions), 1.0)
    error = rows.frame["error"].to_numpy(dtype=float)
    decimals = next((d for d in range(1, 13) if np.abs(error - np.round(error, d)).max() < 1e-13), 13)
    return 10.0**-decimals


def noted_rows(rows: Measurements) -> Iterator[Finding]:
    """Rows whose source already doubts them."""
    noted = rows.frame["note"].ne("")
    if not noted.any():
        return
    for row in rows.frame[noted].head(MAX_PLACES).itertuples():
        yield Finding(
            "warning",
            "noted",
            f"N = {format_size(row.N)}, V = {row.V:g} (line {row.line})",
            f"the table notes: {row.note}",
            "its source doubts this value",
            "fit with and without it, or leave it out",
        )


# --------------------------------------------------------------------------- design


def few_levels(rows: Measurements) -> Iterator[Finding]:
    for column, what in (("N", "size"), ("V", "visual-token count")):
        n_levels = rows.frame[column].nunique()
        if n_levels < 3:
            yield Finding(
                "error" if n_levels < 2 else "warning",
                "few-sizes" if column == "N" else "few-token-counts",
                "the grid",
                f"{n_levels} {what}{'s' * (n_levels > 1)}, three or more expected",
                f"with {n_levels} any curve in {column} fits, and none can be checked",
                "measure more of them",
            )


def collinear(rows: Measurements) -> Iterator[Finding]:
    """Cells along one line of (ln N, ln V), as when every cell has the same FLOPs."""
    n, v = np.unique(rows.frame[["N", "V"]].to_numpy(dtype=float), axis=0).T
    if np.ptp(n) == 0 or np.ptp(v) == 0:
        return
    correlation = float(np.corrcoef(np.log(n), np.log(v))[0, 1])
    if abs(correlation) > COLLINEAR:
        perfect = abs(correlation) > 1 - 1e-9
        kind = "one iso-FLOP ray" if correlation < 0 else "one ray on which N and V grow together"
        yield Finding(
            "error" if perfect else "warning",
            "collinear",
            "the grid",
            f"ln N and ln V have correlation {correlation:.3f}: the cells lie {'' if perfect else 'nearly '}on {kind}",
            "the effect of N cannot be told from that of V",
            "measure cells off the ray: at least one size at two token counts",
        )


def constant_error(rows: Measurements) -> Iterator[Finding]:
    error = rows.frame["error"].to_numpy(dtype=float)
    if len(error) > 1 and np.ptp(error) <= 1e-12:
        yield Finding(
            "error",
            "constant-error",
            "every row",
            f"the error is {error[0]:g} everywhere",
            "nothing depends on N or V, so there is no law",
            "check the evaluation",
        )


def wrong_way(rows: Measurements) -> Iterator[Finding]:
    """Error that rises with the size or with the tokens, on average over the other."""
    error = rows.frame["error"].to_numpy(dtype=float)
    for column, other, what in (("N", "V", "the largest size"), ("V", "N", "the most visual tokens")):
        level = rows.frame[column].to_numpy(dtype=float)
        values, place = np.unique(rows.frame[other].to_numpy(dtype=float), return_inverse=True)
        least, most = (_mean_at(place, error, level == end, n=values.size) for end in (level.min(), level.max()))
        both = np.isfinite(least) & np.isfinite(most)
        if level.min() < level.max() and both.any() and (most > least)[both].mean() > 0.5:
            yield Finding(
                "warning",
                "wrong-way",
                "the grid",
                f"error is higher at {what} than at the least, in most of the grid",
                "scaling laws fall; this looks like too short a training, a broken evaluation or noise",
                "check these cells before you trust an exponent",
            )


def step(rows: Measurements) -> Iterator[Finding]:
    """Error that falls almost all at once between two neighbouring sizes or token counts."""
    for column, letter in (("V", "V"), ("N", "N")):
        levels, place = np.unique(rows.frame[column].to_numpy(dtype=float), return_inverse=True)
        if levels.size < 4:
            continue
        error = rows.frame["error"].to_numpy(dtype=float)
        drops = -np.diff(np.bincount(place, error) / np.bincount(place))
        i = int(np.argmax(drops))
        if drops.sum() > STEP_LEAST_DROP and drops[i] > STEP_SHARE * drops.sum():
            shown = [format_size(x) if letter == "N" else f"{x:g}" for x in levels[i : i + 2]]
            yield Finding(
                "warning",
                "step",
                f"{letter} from {shown[0]} to {shown[1]}",
                f"{drops[i] / drops.sum():.0%} of the fall of the error happens here",
                "a smooth law through a step has exponents that mean little",
                f"measure more of {letter} inside the step, or average over tasks that step elsewhere",
            )


def _mean_at(place: Array, error: Array, rows: Array, *, n: int) -> Array:
    """Mean error of these rows at each of n places; nan where there is none."""
    count = np.bincount(place[rows], minlength=n)
    total = np.bincount(place[rows], error[rows], minlength=n)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def shared_weights(rows: Measurements) -> Iterator[Finding]:
    """Cells of different V that have the weights of one training."""
    frame = rows.frame[rows.frame["training"] != ""]
    n_cells = frame.drop_duplicates(["training", "V"]).shape[0]
    if rows.shared_trainings:
        yield Finding(
            "warning",
            "shared-weights",
            "column training",
            f"{n_cells} cells come from {rows.shared_trainings} trainings, each measured at several V",
            "what one training happened to learn moves its error at every V together, so these cells are fewer "
            "independent measurements than there are rows, and intervals that treat them as independent are too narrow",
            "read the intervals by whole size (size_bootstrap, mixed effects), and add seeds to see that noise",
        )


def missing_cells(rows: Measurements, *, severity: str) -> Iterator[Finding]:
    frame = rows.frame
    wanted = set(rows.expected) or set(product(frame["N"].unique(), frame["V"].unique()))
    missing = sorted(wanted - set(zip(frame["N"], frame["V"], strict=True)))
    if missing:
        shown = ", ".join(f"({format_size(n)}, {v:g})" for n, v in missing[:MAX_PLACES])
        more = f" and {len(missing) - MAX_PLACES} more" if len(missing) > MAX_PLACES else ""
        yield Finding(
            severity,
            "missing-cells",
            f"(N, V) = {shown}{more}",
            f"{len(missing)} of {len(wanted)} cells are missing",
            "cells that failed are rarely failed at random",
            "measure them" if severity == "warning" else "measure them, or fit what is there with --allow-missing",
        )


def unbalanced_seeds(rows: Measurements) -> Iterator[Finding]:
    """Seeds that some cells have and others lack."""
    frame = rows.frame
    seeds = set(frame["seed"].unique())
    if len(seeds) < 2:
        return
    by_cell = frame.groupby(["N", "V", "compressor"])["seed"].agg(set)
    short = by_cell[by_cell.map(len) < len(seeds)]
    if len(short):
        shown = [
            f"({format_size(n)}, {v:g}) lacks {', '.join(sorted(seeds - has))}" for (n, v, _), has in short.items()
        ]
        more = f" and {len(shown) - MAX_PLACES} more" if len(shown) > MAX_PLACES else ""
        yield Finding(
            "warning",
            "unbalanced-seeds",
            f"(N, V): {'; '.join(shown[:MAX_PLACES])}{more}",
            f"{len(short)} of {len(by_cell)} cells lack some of the seeds {', '.join(sorted(seeds))}",
            "cells with more replicates weigh more in the fit",
            "run the missing seeds, if they were meant to be there",
        )


Check = Callable[[Measurements], Iterator[Finding]]
VALUE_CHECKS: tuple[Check, ...] = (not_a_number, out_of_range, fraction_as_percent, impossible_design, impossible_se)
DESIGN_CHECKS: tuple[Check, ...] = (
    repeated_cells,
    unbalanced_seeds,
    equal_values,
    noted_rows,
    few_levels,
    collinear,
    constant_error,
    shared_weights,
    wrong_way,
    step,
)


def _lines(rows: Measurements, bad: Array) -> str:
    lines = rows.frame["line"].to_numpy()[bad]
    shown = ", ".join(str(line) for line in lines[:MAX_PLACES])
    more = f" and {len(lines) - MAX_PLACES} more" if len(lines) > MAX_PLACES else ""
    return f"line{'s' * (len(lines) > 1)} {shown}{more}"


def _places(frame: pd.DataFrame) -> str:
    cells = frame[["N", "V", "line"]].head(MAX_PLACES).itertuples()
    shown = ", ".join(f"N = {format_size(row.N)}, V = {row.V:g} (line {row.line})" for row in cells)
    return shown + (f" and {len(frame) - MAX_PLACES} more" if len(frame) > MAX_PLACES else "")


def _range(values: Array) -> str:
    return f"{np.nanmin(values):g} to {np.nanmax(values):g}"
