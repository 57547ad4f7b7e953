"""Checks of the grid: copied cells, and sizes, token counts and seeds that cannot determine a law."""

from collections.abc import Iterator
from itertools import product

import numpy as np
import pandas as pd

from vlmlaw.laws.cells import Array, format_size, format_value
from vlmlaw.laws.linter.values import MAX_PLACES, Check, Finding
from vlmlaw.laws.table import COLUMNS, Measurements

STEP_SHARE, STEP_LEAST_DROP = 0.8, 0.1  # a fall of a tenth, four fifths of it at once
COLLINEAR = 0.95  # |correlation| of ln N and ln V from which their effects are hard to tell apart


def repeated_cells(rows: Measurements) -> Iterator[Finding]:
    """Rows of the same cell; without a seed column, rows that disagree are taken as replicates."""
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
            f"{int(unlike.sum())} rows give the same cell different errors{_differences(frame[unlike], keys)}",
            "only one of them can be right" if seeded else "without a seed column they are taken as replicates",
            "keep the right one" if seeded else "name the seed column (--column seed=YOURS) if they are, else keep one",
        )


def _differences(copies: pd.DataFrame, keys: list[str]) -> str:
    """In which further columns copies of a cell differ."""
    grouped = copies.groupby(keys, dropna=False)
    further = [name for name in copies if name not in (*COLUMNS, "line", "note")]
    found = [str(name) for name in further if grouped[name].nunique().max() > 1]
    return f", and differ in {', '.join(found)}" if found else ""


def equal_values(rows: Measurements) -> Iterator[Finding]:
    """Different cells with the same value, if the resolution is too fine for this to be chance."""
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
    """The step between possible errors: 1 / questions if known, else the last decimal of the finest value."""
    questions = rows.frame["n_questions"].to_numpy(dtype=float)
    if np.isfinite(questions).any():
        return 1 / max(np.nanmax(questions), 1.0)
    error = rows.frame["error"].to_numpy(dtype=float)
    decimals = next((d for d in range(1, 13) if np.abs(error - np.round(error, d)).max() < 1e-13), 13)
    return 10.0**-decimals


def noted_rows(rows: Measurements) -> Iterator[Finding]:
    """Rows that the source itself marks as doubtful."""
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
    """Cells that lie on one line of (ln N, ln V), as when all have the same FLOPs."""
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
    """An error that rises with the size or with the tokens, averaged over the other."""
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
    """An error that falls almost entirely between two neighbouring sizes or token counts."""
    for column, letter in (("V", "V"), ("N", "N")):
        levels, place = np.unique(rows.frame[column].to_numpy(dtype=float), return_inverse=True)
        if levels.size < 4:
            continue
        error = rows.frame["error"].to_numpy(dtype=float)
        drops = -np.diff(np.bincount(place, error) / np.bincount(place))
        i = int(np.argmax(drops))
        if drops.sum() > STEP_LEAST_DROP and drops[i] > STEP_SHARE * drops.sum():
            shown = [format_value(letter, x) for x in levels[i : i + 2]]
            yield Finding(
                "warning",
                "step",
                f"{letter} from {shown[0]} to {shown[1]}",
                f"{drops[i] / drops.sum():.0%} of the fall of the error happens here",
                "a smooth law through a step has exponents that mean little",
                f"measure more of {letter} inside the step, or average over tasks that step elsewhere",
            )


def _mean_at(place: Array, error: Array, rows: Array, *, n: int) -> Array:
    """Mean error of these rows at each of n places; nan for a place without rows."""
    count = np.bincount(place[rows], minlength=n)
    total = np.bincount(place[rows], error[rows], minlength=n)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def shared_weights(rows: Measurements) -> Iterator[Finding]:
    """Cells of different V that share the weights of one training."""
    frame = rows.frame[rows.frame["training"] != ""]
    n_cells = frame.drop_duplicates(["training", "V"]).shape[0]
    trainings = "1 training" if rows.shared_trainings == 1 else f"{rows.shared_trainings} trainings, each"
    if rows.shared_trainings:
        yield Finding(
            "warning",
            "shared-weights",
            "column training",
            f"{n_cells} cells come from {trainings} measured at several V",
            "what one training happened to learn moves its error at every V together, so these cells are fewer "
            "independent measurements than there are rows, and intervals that treat them as independent are too narrow",
            "read the default interval, which allows for noise that cells of one size share; those by profile or by "
            "whole sizes hold the truth too seldom. Add seeds to see that noise",
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
            f"{len(missing)} of {len(wanted)} cells {'is' if len(missing) == 1 else 'are'} missing",
            "cells that failed are rarely failed at random",
            "measure them" if severity == "warning" else "measure them, or fit what is there with --allow-missing",
        )


def unbalanced_seeds(rows: Measurements) -> Iterator[Finding]:
    """Cells that lack some of the seeds of other cells."""
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


GRID_CHECKS: tuple[Check, ...] = (
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


def _places(frame: pd.DataFrame) -> str:
    cells = frame[["N", "V", "line"]].head(MAX_PLACES).itertuples()
    shown = ", ".join(f"N = {format_size(row.N)}, V = {row.V:g} (line {row.line})" for row in cells)
    return shown + (f" and {len(frame) - MAX_PLACES} more" if len(frame) > MAX_PLACES else "")
