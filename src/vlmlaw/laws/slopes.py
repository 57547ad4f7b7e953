"""How fast the error of each published model and method falls with its visual tokens: beta, and the page of them."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import logit

from vlmlaw.laws.published import TABLES, WHOLE
from vlmlaw.laws.statistics import student_t
from vlmlaw.laws.table import Measurements, read_measurements

READING = "textvqa"  # the one benchmark of reading that most tables have
PAGE = "docs/trade-offs.md"


@dataclass(frozen=True)
class Slope:
    """beta of logit(error) = c - alpha ln N - beta ln V over the cells of one method, with its interval at 95 %.

    lower and upper are NaN where the cells are as many as the parameters. reading: beta on TextVQA alone, or NaN.
    """

    table: str
    model: str
    method: str
    tokens: tuple[float, ...]
    n_cells: int
    beta: float
    lower: float
    upper: float
    reading: float


def slopes(name: str) -> list[Slope]:
    """The slope of each method in a published table that has it at two token counts or more.

    >>> [(slope.method, round(slope.beta, 3)) for slope in slopes("sglang_qwen3vl")]
    [('evs', 0.129)]
    """
    table = read_measurements(name)
    return [slope for method, rows in _methods(table) if (slope := _slope(name, method, rows))]


def _methods(table: Measurements) -> Iterator[tuple[str, pd.DataFrame]]:
    for method, rows in table.frame.groupby("compressor", sort=False):
        if method != WHOLE:
            yield str(method), rows


def _slope(name: str, method: str, rows: pd.DataFrame) -> Slope | None:
    keys = ["N", "V"] + (["model"] if "model" in rows else [])
    cells = rows.pivot_table(index=keys, columns="suite", values="error").dropna(axis=1)
    if cells.empty or cells.index.get_level_values("V").nunique() < 2:
        return None
    n, v = (cells.index.get_level_values(key).to_numpy(dtype=float) for key in ("N", "V"))
    beta, spread = _least_squares(n, v, cells.mean(axis=1).to_numpy())
    reading = _least_squares(n, v, cells[READING].to_numpy())[0] if READING in cells else np.nan
    models = list(dict.fromkeys(rows["model"])) if "model" in rows else [TABLES[name].model]
    return Slope(
        table=name,
        model=" and ".join(models) if len(models) < 3 else f"{models[0]} to {models[-1]}",
        method=method or TABLES[name].method,
        tokens=tuple(sorted(set(v))),
        n_cells=len(cells),
        beta=beta,
        lower=beta - spread,
        upper=beta + spread,
        reading=reading,
    )


def _least_squares(n: np.ndarray, v: np.ndarray, error: np.ndarray) -> tuple[float, float]:
    """beta and half of its interval's width, NaN without a degree of freedom."""
    sizes = [np.log(n)] if np.unique(n).size > 1 else []
    design = np.column_stack([np.ones(len(v)), *sizes, np.log(v)])
    target = logit(error)
    found, *_ = np.linalg.lstsq(design, target, rcond=None)
    free = len(v) - design.shape[1]
    if free < 1:
        return -float(found[-1]), np.nan
    variance = float(((target - design @ found) ** 2).sum()) / free
    se = np.sqrt(variance * np.linalg.inv(design.T @ design)[-1, -1])
    return -float(found[-1]), student_t(0.95, free) * float(se)


def render_page() -> str:
    """The page of slopes as Markdown, as it stands in PAGE."""
    found = [slope for name in TABLES for slope in slopes(name)]
    head = "| model | method | V | cells | beta | 95 % | on TextVQA | table |\n|---|---|---|---|---|---|---|---|"
    rows = "\n".join(_row(slope) for slope in found)
    about = "\n".join(
        f"| `{name}` | {table.about} | {table.source} | {table.caveat} |" for name, table in TABLES.items()
    )
    return _PAGE.format(table="\n".join([head, rows]), about=about)


def _row(slope: Slope) -> str:
    tokens = [f"{v:g}" for v in slope.tokens]
    shown = ", ".join(tokens) if len(tokens) <= 4 else f"{tokens[0]} to {tokens[-1]}"
    unit = " %" if TABLES[slope.table].unit == "per cent" else ""
    interval = f"{slope.lower:.3f} to {slope.upper:.3f}" if np.isfinite(slope.lower) else "none: too few cells"
    reading = f"{slope.reading:.3f}" if np.isfinite(slope.reading) else ""
    cells = [
        *(slope.model, slope.method, shown + unit, str(slope.n_cells), f"{slope.beta:.3f}", interval),
        *(reading, f"`{slope.table}`"),
    ]
    return f"| {' | '.join(cells)} |"


_PAGE = """\
# beta by model and method

How fast does the error fall with the number of visual tokens? These are measurements that others published, read by
this tool: the page is what `vlmlaw law tables --page` prints, and `vlmlaw law fit NAME` fits a law, or a curve along V,
to any of them, or says why it cannot.

beta is the slope of logit(error) = c - alpha ln N - beta ln V by least squares, over the mean error of the benchmarks
that all cells of a method have (alpha where there are several sizes). With beta = 0.1, ten times the tokens take the
odds of an error down by a factor of 1.26. The interval takes cells as independent, and each is one run: a slope of few
cells says little. A training-free method's curve ends in the model without compression; the curve of a method that was
trained for each V does not.

{table}

Benchmarks, harnesses and ranges of V differ between tables: compare within one. A curve that bends has a steep slope
near few tokens and a flat one near many: FastV and PyramidDrop at 64 of 576 are its steep end.

## Where the numbers stand

The numbers are facts, cited from where they stand; no text, picture or code was taken. They lie in
`src/vlmlaw/laws/published/`.

| table | what it holds | source | read before you compare |
|---|---|---|---|
{about}
"""
