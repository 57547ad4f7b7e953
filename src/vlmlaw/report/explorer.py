"""The budget explorer of the page: what the reader's browser needs to recommend a cell at any budget.

The errors that a law predicts, and their intervals, do not depend on the cost: they are computed here for every
candidate cell and go to the page at full precision. The browser (templates/explorer_decision.js) prices the cells,
blends suites by weight and chooses among cells and compressors as `vlmlaw.laws.recommend`, `Blend` and
`recommend_among` do, so that its numbers are those of the Python API to the last printed digit.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from vlmlaw.errors import UserError
from vlmlaw.laws.analysis import plain
from vlmlaw.laws.costs import PUBLISHED_PASS, ColumnCost
from vlmlaw.laws.result import LawFit
from vlmlaw.laws.table import ALL_KINDS
from vlmlaw.report.clock import cost_columns
from vlmlaw.report.study import Study, Suite
from vlmlaw.report.templates_version import TEMPLATES

FLOPS_OF_PARTS = ("llm_flops", "compressor_flops", "vision_flops")  # columns of the workflow's measurements.csv


def explorer_parts(
    study: Study,
    others: Mapping[str, Study] | None = None,
    *,
    name: str = "",
    of: tuple[str, str] = ("compressor", "compressors"),
) -> dict[str, Any]:
    """What templates/explorer.html takes as `explorer`: the data and the scripts, ready for their elements.

    others, name: as for `explorer_data`. of: what the reader may choose among, in the singular and in the plural.
    """
    code = [(TEMPLATES / name).read_text(encoding="utf-8") for name in ("explorer_decision.js", "explorer.js")]
    return {
        "whose": of[0],
        "counts": f"Which {of[1]} count",
        "data": script_json(explorer_data(study, others, name=name)),
        "library": plotting_library(),
        "code": Markup("\n".join(code)),
    }


def explorer_data(study: Study, others: Mapping[str, Study] | None = None, *, name: str = "") -> dict[str, Any]:
    """The data of the explorer as plain values: suites, and the cells and laws of each compressor of each table.

    others: further tables by their names, each with its own laws, among which the reader may choose; `name` is then
    that of the page's own table. Suites of one name are taken to ask the same questions.
    """
    several = bool(others)
    series = [
        part for key, each in {name: study, **(others or {})}.items() for part in _series(each, key if several else "")
    ]
    labels = list(dict.fromkeys(label for part in series for label in part["suites"]))
    return plain(
        {
            "level": study.level,
            "tolerance": study.options["flat_tolerance"],
            "question_tokens": study.question_tokens,
            "generated_tokens": study.options["generated_tokens"],
            "published_pass": PUBLISHED_PASS,
            "several": several,
            "suites": labels,
            "series": [part | {"suites": [part["suites"].get(label) for label in labels]} for part in series],
        }
    )


def _series(study: Study, table: str) -> list[dict[str, Any]]:
    """The series of a study, one for each compressor with a law of its own; first the one that its page is about."""
    by_compressor: dict[str, list[Suite]] = {study.suites[0].compressor: []}
    for suite in study.fitted or study.suites:
        by_compressor.setdefault(suite.compressor, []).append(suite)
    return [
        {
            "label": " · ".join(dict.fromkeys(part for part in (table, compressor) if part)),
            "cost": {name: study.options.get(name) for name in ("vision_flops", "question_pass", "pass_tokens")},
            **_cells(suites, study),
            "suites": {_label(suite, table): _suite(suite, suites, study) for suite in suites},
        }
        for compressor, suites in by_compressor.items()
    ]


def _label(suite: Suite, table: str) -> str:
    """The suite's name; where the table does not name it, with the table's, since other tables ask other questions."""
    if table and suite.name == ALL_KINDS:
        return table
    return suite.label.removesuffix(f" · {suite.compressor}") if suite.compressor else suite.label


def _grid(suites: Sequence[Suite], study: Study) -> tuple[np.ndarray, np.ndarray]:
    """N and V of every candidate cell of any of the suites."""
    n = study.options["sizes"] or sorted({x for suite in suites for x in suite.rows["N"]})
    v = study.options["tokens"] or sorted({x for suite in suites for x in suite.rows["V"]})
    grid = np.meshgrid(np.asarray(n, dtype=float), np.asarray(v, dtype=float), indexing="ij")
    return grid[0].ravel(), grid[1].ravel()


def _cells(suites: Sequence[Suite], study: Study) -> dict[str, Any]:
    """The candidate cells of a series, and their measured costs over the rows of all suites."""
    n, v = _grid(suites, study)
    rows = pd.concat([suite.rows for suite in suites])
    return {"n": n, "v": v, "size": [study.name_of(x) for x in n], "costs": _costs(rows, n, v, study)}


def _suite(suite: Suite, suites: Sequence[Suite], study: Study) -> dict[str, Any]:
    fit = suite.fit
    n, v = _grid(suites, study)
    own_n, own_v = _grid([suite], study)
    alone = (replace(fit, rivals=()), *fit.rivals)  # `report` has the interval that includes the choice among them
    return {
        "candidates": {"sizes": sorted(set(own_n)), "tokens": sorted(set(own_v))},
        "report": _law(fit, n, v, level=study.level),
        "laws": [_law(each, n, v, level=study.level) for each in alone],
        "costs": _costs(suite.rows, n, v, study),
        "measured": [
            {"n": key[0], "v": key[1], "error": rows["error"].mean(), "size": study.name_of(key[0])}  # type: ignore[index]
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


def _costs(rows: pd.DataFrame, n: np.ndarray, v: np.ndarray, study: Study) -> list[dict[str, Any]]:
    """The measured costs of an answer at the cells; first the sum of the FLOPs of all parts, where the table has them.

    A column that is no cost above 0 is left out.
    """
    names = cost_columns(rows)
    parts = [name for name in FLOPS_OF_PARTS if name in rows]
    table, found = replace(study.measurements, frame=rows), []
    for name in ["+".join(parts), *names] if len(parts) > 1 else names:
        try:
            cost = ColumnCost.from_table(table, name)
        except UserError:
            continue
        unit = "FLOPs" if name.lower().endswith("flops") else name
        found.append({"name": name, "unit": unit, "of": cost.of(n, v)})
    return found


def script_json(data: Any) -> Markup:
    """JSON for a <script> element: without "<" it can neither end the element nor begin a comment.

    >>> print(script_json({"name": "</script><!--"}))
    {"name": "\\u003c/script>\\u003c!--"}
    """
    text = json.dumps(data, allow_nan=False, ensure_ascii=False)  # templating replaces what it finds as it is
    return Markup(text.replace("<", "\\u003c"))


@cache
def plotting_library() -> Markup:
    """The JavaScript of Vega, Vega-Lite and Vega-Embed in one piece, from the installed package vl-convert-python."""
    import vl_convert

    text: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return Markup(text.replace("</script", "<\\/script").replace("<!--", "<\\!--"))
