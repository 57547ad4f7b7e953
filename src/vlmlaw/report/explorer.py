"""The budget explorer of the page: what the reader's browser needs to recommend a cell at any budget.

The errors that a law predicts, and their intervals, do not depend on the cost: they are computed here for every
candidate cell and go to the page at full precision. The browser (templates/explorer.js) prices the cells and chooses
among them as `vlmlaw.laws.recommend` does, so that its numbers are those of the Python API to the last printed digit.
"""

import json
import re
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
from markupsafe import Markup

from vlmlaw.errors import UserError
from vlmlaw.laws.analysis import plain
from vlmlaw.laws.costs import PUBLISHED_PASS, ColumnCost
from vlmlaw.laws.optimum import candidate_cells
from vlmlaw.laws.result import LawFit
from vlmlaw.report.study import Study, Suite

# A column is a cost of an answer where a word of its name says so, and none says that it is a cost of training.
COST_WORDS = {
    "ms",
    "milliseconds",
    "seconds",
    "latency",
    "ttft",
    "joules",
    "wh",
    "usd",
    "eur",
    "cost",
    "price",
    "flops",
}
NOT_OF_AN_ANSWER = {"train", "training", "wall", "cpu", "budget"}
FLOPS_OF_PARTS = ("llm_flops", "compressor_flops", "vision_flops")  # columns of the workflow's measurements.csv


def explorer_data(study: Study) -> dict[str, Any]:
    """The data of the explorer as plain values: for each suite its candidate cells, laws, costs and measured cells."""
    options = study.options
    return plain(
        {
            "level": study.level,
            "tolerance": options["flat_tolerance"],
            "question_tokens": study.question_tokens,
            "generated_tokens": options["generated_tokens"],
            "vision_flops": options["vision_flops"],
            "question_pass": options["question_pass"],
            "pass_tokens": options.get("pass_tokens"),
            "published_pass": PUBLISHED_PASS,
            "suites": [_suite(suite, study) for suite in study.suites],
        }
    )


def _suite(suite: Suite, study: Study) -> dict[str, Any]:
    fit, options = suite.fit, study.options
    sizes = options["sizes"] or sorted(suite.rows["N"].unique())
    tokens = options["tokens"] or sorted(suite.rows["V"].unique())
    cells = candidate_cells(fit, sizes=sizes, tokens=tokens, cost=study.cost)
    n, v = cells["N"].to_numpy(), cells["V"].to_numpy()
    costs = [
        {"name": cost.name, "unit": _unit(cost.name), "of": cost.of(n, v)}
        for name in _cost_columns(suite)
        if (cost := _column_cost(name, suite, study)) is not None
    ]
    return {
        "label": suite.label,
        "n": n,
        "v": v,
        "size": [study.size_of(x).name for x in n],
        "laws": [_law(each, n, v, level=study.level) for each in (fit, *fit.rivals)],
        "costs": costs,
        "measured": [
            {"n": key[0], "v": key[1], "error": rows["error"].mean(), "size": study.size_of(key[0]).name}  # type: ignore[index]
            for key, rows in suite.rows.groupby(["N", "V"])
        ],
        "errors": [fit.cells.error.min(), fit.cells.error.max()],
        "sizes": [fit.cells.sizes[0], fit.cells.sizes[-1]],
        "tokens": [fit.cells.token_counts[0], fit.cells.token_counts[-1]],
    }


def _law(fit: LawFit, n: np.ndarray, v: np.ndarray, *, level: float) -> dict[str, Any]:
    """The errors of a law at the cells. Each interval is computed by itself, as `recommend` does: the last digits of a
    quantile depend on the cells that it is looked for with."""
    bands = [
        fit.predict_interval([a], [b], level=level, new_measurement=False).iloc[0] for a, b in zip(n, v, strict=True)
    ]
    return {
        "name": fit.law.name,
        "formula": fit.law.formula,
        "error": fit.predict(n, v),
        "lower": [band["lower"] for band in bands],
        "upper": [band["upper"] for band in bands],
    }


def _cost_columns(suite: Suite) -> list[str]:
    """The columns that hold a cost of an answer; first the sum of the FLOPs of all parts, where the table has them."""
    words = {str(name): set(re.split(r"[^a-z0-9]+", str(name).lower())) for name in suite.rows.columns}
    found = [name for name, has in words.items() if has & COST_WORDS and not has & NOT_OF_AN_ANSWER and "+" not in name]
    parts = [name for name in FLOPS_OF_PARTS if name in suite.rows]
    return ["+".join(parts), *found] if len(parts) > 1 else found


def _column_cost(name: str, suite: Suite, study: Study) -> ColumnCost | None:
    """The cost by a column of the suite's rows; None if the column is no cost above 0."""
    try:
        return ColumnCost.from_table(replace(study.measurements, frame=suite.rows), name)
    except UserError:
        return None


def _unit(name: str) -> str:
    return "FLOPs" if name.lower().endswith("flops") else name


def script_json(data: Any) -> Markup:
    """JSON for a <script> element: without "<" it can end neither the element nor begin a comment.

    >>> print(script_json({"name": "</script><!--"}))
    {"name": "\\u003c/script>\\u003c!--"}
    """
    return Markup(json.dumps(data, allow_nan=False).replace("<", "\\u003c"))


@cache
def plotting_library() -> Markup:
    """The JavaScript of Vega, Vega-Lite and Vega-Embed in one piece, from the installed package vl-convert-python."""
    import vl_convert

    text: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return Markup(text.replace("</script", "<\\/script").replace("<!--", "<\\!--"))
