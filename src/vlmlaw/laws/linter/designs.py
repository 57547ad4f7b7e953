"""Checks of the design: which cells were measured at all, whatever came out of them.

A short span, a size that one cell stands for, or a vision tower that changes with the size leave a law that fits well
and says little. All of these are warnings: the cells are right, but they do not answer the question alone.

Source of the measure of confounding: Goodman and Kruskal 1954, Journal of the American Statistical Association 49,
lambda: the share of wrong guesses of one thing that knowing the other avoids.
"""

import re
from collections.abc import Iterator

import numpy as np
import pandas as pd

from vlmlaw.laws.cells import Array, format_size
from vlmlaw.laws.linter.values import MAX_PLACES, Check, Finding
from vlmlaw.laws.statistics import student_t
from vlmlaw.laws.table import COLUMNS, Measurements
from vlmlaw.laws.texts import name_without_size

LEAST_SPAN = 3.0  # largest over smallest; the error of an exponent goes with 1 / ln of it
LEAST_CELLS = 6  # three parameters, and three cells more to see how far off they may be
N_PARAMETERS = 3
SHOWN_AT = 4.0  # standard errors of a cell that the error must change by over the grid
TOGETHER = 0.8  # share of wrong guesses avoided, or of the variance, from which two things change together
LINEAR = 0.95  # |correlation| of the logarithms of two numbers
WHOLE = ("", "none", "nan")  # a row without compression is the end of every method's curve

# What else may differ between models, as people name it.
RECIPE = re.compile(
    r"tower|encoder|vit$|^vision|clip|resol|^res$|image_?(size|res)|pixels|crop|tile|recipe|family|series|backbone|^llm"
    r"|base_?(llm|model)|language_?model|data|mix|stage|epoch|^lr$|learning_?rate|projector|connector|adapter|lora|tune"
)
MODEL = re.compile(r"^(model|llm|vlm|checkpoint|backbone|base_?(llm|model)|language_?model)(_?name)?$")


def narrow_span(rows: Measurements) -> Iterator[Finding]:
    """Sizes, or token counts, that lie too close together to show an exponent."""
    for column, what, letter in (("N", "sizes", "N"), ("V", "visual-token counts", "V")):
        level = rows.frame[column].to_numpy(dtype=float)
        low, high = level.min(), level.max()
        if low == high or high >= LEAST_SPAN * low:
            continue
        shown = _level(column, low), _level(column, high)
        further = [_level(column, float(f"{x:.2g}")) for x in (LEAST_SPAN * low, high / LEAST_SPAN)]
        yield Finding(
            "warning",
            "narrow-span",
            f"{letter} from {shown[0]} to {shown[1]}",
            f"the {what} span x{high / low:.2g}, x{LEAST_SPAN:g} or more expected",
            f"over so short a span the effect of {letter} hardly exceeds the noise, and a law is a guess outside of it",
            f"measure {letter} = {further[0]} or more, or {further[1]} or less",
        )


def lone_cells(rows: Measurements) -> Iterator[Finding]:
    """Sizes, or token counts, that a single cell stands for although others have several."""
    cells = rows.frame[["N", "V"]].drop_duplicates()
    for column, other, what in (("N", "V", "size"), ("V", "N", "visual-token count")):
        if cells[other].nunique() < 2:
            continue
        count = cells[column].value_counts().sort_index()
        lone = count.index[count == 1].tolist()
        if not lone:
            continue
        shown = ", ".join(f"{column} = {_level(column, x)}" for x in lone[:MAX_PLACES])
        more = f" and {len(lone) - MAX_PLACES} more" if len(lone) > MAX_PLACES else ""
        rests = f"{len(lone)} of {len(count)} {what}s" if len(count) > 1 else f"the one {what}"
        yield Finding(
            "warning",
            "lone-cell",
            f"{shown}{more}",
            f"{rests} rest{'s' * (len(lone) == 1)} on one cell",
            f"nothing else shows what noise there is at this {column}, and the cell pulls the law its own way",
            f"measure a second {other} there, or fit with and without it",
        )


def few_cells(rows: Measurements) -> Iterator[Finding]:
    """So few cells that an interval is mostly Student's t."""
    n_cells = len(rows.frame[["N", "V"]].drop_duplicates())
    along_one = min(rows.frame["N"].nunique(), rows.frame["V"].nunique()) < 2
    if along_one or not N_PARAMETERS < n_cells < LEAST_CELLS:
        return
    freedom = n_cells - N_PARAMETERS
    yield Finding(
        "warning",
        "few-cells",
        "the grid",
        f"{n_cells} cells for the {N_PARAMETERS} parameters of the simplest law, {LEAST_CELLS} or more expected",
        f"with {freedom} cell{'s' * (freedom > 1)} to spare a 95% interval is {student_t(0.95, freedom):.1f} standard "
        "errors to each side, and few laws can be compared",
        "measure more cells: `vlmlaw law next` says which",
    )


def few_questions(rows: Measurements) -> Iterator[Finding]:
    """So few questions that the error of a cell is as uncertain as the grid is wide."""
    frame = rows.frame
    error, questions = frame["error"].to_numpy(dtype=float), frame["n_questions"].to_numpy(dtype=float)
    binomial = np.sqrt(np.clip(error * (1 - error), 0, None) / np.where(questions > 0, questions, np.nan))
    se = frame["error_se"].to_numpy(dtype=float)
    se = np.where(np.isfinite(se), se, binomial)
    if not np.isfinite(se).any() or len(error) < 3:
        return
    noise = float(np.nanmedian(se))
    means = frame.groupby(["N", "V"])["error"].mean().to_numpy(dtype=float)
    change = float(np.ptp(means))
    if not 0 < change < SHOWN_AT * noise:
        return
    variance = float(np.median(error * (1 - error)))
    wanted = variance / (change / (2 * SHOWN_AT)) ** 2
    yield Finding(
        "warning",
        "few-questions",
        "the grid",
        f"the error changes by {change:.3f} over the grid, and that of a cell has a standard error of {noise:.3f}",
        f"a change below {SHOWN_AT:g} standard errors may be chance alone",
        f"ask about {_round_up(wanted):,} questions of each cell, take the mean of several benchmarks, or add seeds",
    )


def confounded(rows: Measurements) -> Iterator[Finding]:
    """Another column that changes with N, or with V, and hardly otherwise."""
    for name, value in _other_columns(rows.frame).items():
        cells = pd.DataFrame({"N": rows.frame["N"], "V": rows.frame["V"], "value": value}).drop_duplicates()
        cells = cells[cells["value"].notna()]
        if cells["value"].nunique() < 2:
            continue
        for column, what in (("N", "size"), ("V", "visual-token count")):
            if cells[column].nunique() > 1 and _change_together(cells, column, named=_is_recipe(name)):
                other = "V" if column == "N" else "N"
                yield Finding(
                    "warning",
                    "confounded",
                    f"column {name}",
                    f"{name} changes with {column} ({_examples(cells, column)})",
                    f"what the {what} does cannot be told from what {name} does, and the exponent of {column} is that "
                    "of both together",
                    f"measure two {what}s at one {name}, or fit each {name} by itself (--where '{name}=...'), which "
                    f"leaves the effect of {other}",
                )


def _other_columns(frame: pd.DataFrame) -> dict[str, pd.Series]:
    """What else is said of the cells: recipes, methods, and the families in names of models; no label, no cost."""
    found: dict[str, pd.Series] = {}
    method = frame["compressor"].astype(str)
    found["compressor"] = method.where(~method.str.lower().isin(WHOLE))
    for name in frame:
        if name in COLUMNS or name in ("line", "cell"):
            continue
        column, plain = frame[name], str(name).lower().replace(" ", "_").replace("-", "_")
        numeric = pd.api.types.is_numeric_dtype(column)
        if MODEL.search(plain) and not numeric:
            found[str(name)] = column.map(lambda text: _family(str(text)))
        elif RECIPE.search(plain) or not numeric:
            found[str(name)] = column
    return found


# What stands for a size in names such as Ours-S and PaliGemma-large.
SIZE_WORD = re.compile(r"[-_ ](xxs|xs|s|m|l|xl|xxl|nano|tiny|mini|small|base|medium|large|huge|giant)\b", re.IGNORECASE)


def _is_recipe(name: str) -> bool:
    plain = name.lower().replace(" ", "_").replace("-", "_")
    return bool(RECIPE.search(plain) or MODEL.search(plain)) or name == "compressor"


def _family(name: str) -> str:
    """A model's name up to its size: "Qwen2.5-VL" of "Qwen2.5-VL-7B-Instruct"."""
    without = SIZE_WORD.sub("", name_without_size(name))
    shared = next((i for i, (a, b) in enumerate(zip(name, without, strict=False)) if a != b), len(without))
    return without[:shared].strip(" -_(") or without


def _change_together(cells: pd.DataFrame, column: str, *, named: bool) -> bool:
    """Whether a column says, of most cells, which value they have; of values that are no mere labels of the levels."""
    counts = pd.crosstab(cells[column], cells["value"])
    if not named and counts.shape[1] >= counts.shape[0]:
        return False  # a label of the level, such as a size's nickname
    several = counts[counts.sum(axis=1) > 1]
    if len(several) > 1:
        wrong = several.to_numpy().sum() - several.sum(axis=0).max()
        left = several.to_numpy().sum() - several.max(axis=1).sum()
        return bool(wrong > 0 and 1 - left / wrong >= TOGETHER)
    level = np.log(cells[column].to_numpy(dtype=float))
    if pd.api.types.is_numeric_dtype(cells["value"]) and (cells["value"] > 0).all():
        return bool(abs(np.corrcoef(level, np.log(cells["value"].to_numpy(dtype=float)))[0, 1]) >= LINEAR)
    if counts.shape[1] >= counts.shape[0]:
        return False
    return _explained(level, cells["value"].astype(str).to_numpy()) >= TOGETHER


def _explained(level: Array, value: Array) -> float:
    """The share of the variance of a level that lies between the values."""
    means = pd.Series(level).groupby(value).transform("mean").to_numpy()
    return float(((means - level.mean()) ** 2).sum() / ((level - level.mean()) ** 2).sum())


def _examples(cells: pd.DataFrame, column: str) -> str:
    """The values with their levels, such as "clip at 0.5 B, 4 B; siglip at 7 B"."""
    parts = []
    for value, rows in list(cells.groupby("value", sort=False))[:3]:
        levels = sorted(rows[column].unique())
        shown = ", ".join(_level(column, x) for x in levels[:3]) + (", ..." if len(levels) > 3 else "")
        parts.append(f"{value:g} at {shown}" if isinstance(value, float) else f"{value} at {shown}")
    return "; ".join(parts) + ("; ..." if cells["value"].nunique() > 3 else "")


def _level(column: str, value: float) -> str:
    return format_size(value) if column == "N" else f"{value:.4g}"


def _round_up(value: float) -> int:
    """A count with two digits, rounded up."""
    step = 10 ** max(int(np.floor(np.log10(max(value, 1.0)))) - 1, 0)
    return int(np.ceil(value / step) * step)


DESIGN_CHECKS: tuple[Check, ...] = (narrow_span, lone_cells, few_cells, few_questions, confounded)
