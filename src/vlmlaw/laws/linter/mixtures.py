"""Checks of rows that are no copies of one cell, because a column that no law reads tells them apart.

Rows of a dev and of a test split, of two prompts or of two families in one cell would be averaged as if they were
repeats. Which of them is meant, or whether each has a law, nobody but the author of the table can say.
"""

import re
from collections.abc import Iterator

import pandas as pd

from vlmlaw.laws.linter.values import MAX_PLACES, Check, Finding
from vlmlaw.laws.names import is_score_like, plain_name
from vlmlaw.laws.replicates import collapse_questions
from vlmlaw.laws.table import COLUMNS, Measurements

MOST_LEVELS = 20  # a column with more values than these labels rows, as the number of a question does
_SPLITS = re.compile(r"((eval|data|dataset|benchmark|test)_)?(split|partition|fold)(_name)?")
_SETTINGS = re.compile(
    r"prompt|template|shots?(_|$)|step|epoch|iter|ckpt|checkpoint|family|series|model|llm|backbone|tower|encoder|recipe"
    r"|language|temperature|decoding|precision|quant|dtype|version|release|resolution|stage|tune"
)
_LABELS = re.compile(
    r"(^|_)(id|idx|index|no|question|sample|image|example|item|line|row|gpu|host|seed|time|date)s?(_|$)"
)
_MEASURED = re.compile(
    r"latency|memory|(^|_)(ms|gb|s|seconds)$|flops|throughput|tokens|cost|hours|price|ttft|ratio|params"
    r"|correct|right|hits|count|total"
)


def mixed_cells(rows: Measurements) -> Iterator[Finding]:
    """Rows of one cell that a further column tells apart, as a split or a prompt does."""
    frame = rows.frame
    keys = ["N", "V", "compressor", "seed", "training"]
    twins = frame[frame.duplicated(keys, keep=False)]
    if twins.empty:
        return
    for name in _factors(twins, of_questions=len(collapse_questions(rows)) < len(rows)):
        apart = twins.groupby(keys, dropna=False)[name].nunique()
        if apart.max() < 2:
            continue
        cell = twins.set_index(keys).loc[[apart.idxmax()]]
        shown = ", ".join(f"{row[name]} in line {row['line']}" for _, row in cell.head(MAX_PLACES).iterrows())
        value = twins[name].iloc[-1]
        n_cells = int((apart > 1).sum())
        yield Finding(
            "error",
            "mixed-cells",
            f"column {name}",
            f"the rows of {n_cells} cell{'s' * (n_cells > 1)} differ in {name} ({shown})",
            "averaged as copies of a cell, they would be the law of neither",
            f"take one (--where '{name}={value}'), a law for each (--column 'kind={name}'), or, if they are repeats, "
            f"say so (--column 'seed={name}')",
        )
        return


def mixed_splits(rows: Measurements) -> Iterator[Finding]:
    """Cells measured on different splits of a benchmark, each cell on one."""
    frame = rows.frame
    for name in frame:
        if name in COLUMNS or not _SPLITS.fullmatch(plain_name(name)) or frame[name].nunique() < 2:
            continue
        shown = ", ".join(map(str, frame[name].drop_duplicates().head(MAX_PLACES)))
        yield Finding(
            "error",
            "mixed-splits",
            f"column {name}",
            f"its values are {shown}",
            "splits ask other questions, so that cells of one cannot be compared with those of another",
            f"take one (--where '{name}={frame[name].iloc[-1]}'), or a law for each (--column 'kind={name}')",
        )


def _factors(frame: pd.DataFrame, *, of_questions: bool) -> list[str]:
    """Further columns with a few values, each in several cells: what was done, not what was measured.

    of_questions: the rows are a cell's questions, whose topics and kinds are averaged rightly; only settings count.
    """
    found = []
    for name in frame:
        plain = plain_name(name)
        if (
            name in (*COLUMNS, "line", "note")
            or _SPLITS.fullmatch(plain)
            or _LABELS.search(plain)
            or _MEASURED.search(plain)
        ):
            continue
        is_setting = bool(_SETTINGS.search(plain))
        numbers = pd.to_numeric(frame[name], errors="coerce")
        if not is_setting and (of_questions or (numbers.notna().all() and (numbers % 1).any())):
            continue
        if is_score_like(str(name)) or not 2 <= frame[name].nunique() <= MOST_LEVELS:
            continue
        cells = frame[["N", "V", name]].drop_duplicates()[name].value_counts()
        if (cells > 1).sum() > 1:
            found.append(str(name))
    return found


MIXTURE_CHECKS: tuple[Check, ...] = (mixed_splits, mixed_cells)
