"""The card of a published grid: README.md with front matter as the Hugging Face Hub reads it, the fit, the columns."""

import pandas as pd

from vlmlaw import __version__
from vlmlaw.errors import UserError
from vlmlaw.laws.analysis import analyse
from vlmlaw.laws.cells import format_size
from vlmlaw.laws.options import LawOptions
from vlmlaw.laws.table import Measurements

COLUMNS = {
    "cell": "name of the model in this grid",
    "params_b": "N, billions of parameters",
    "visual_tokens": "V, visual tokens of an image",
    "compressor": "how the tokens became V",
    "seed": "seed of the training",
    "training": "the training that made the weights; cells of one name share them",
    "held_out": "not used to fit",
    "suite": "benchmark, or mean of several",
    "kind": "kind of question within the suite",
    "error": "1 - score, as a share of what could be reached",
    "error_se": "standard error of it",
    "n_questions": "questions asked",
    "note": "remark",
}

_CARD = """\
---
pretty_name: "{title}"
tags: [vision-language-models, scaling-laws, evaluation]
configs:
- config_name: default
  data_files: measurements.csv
---

# {title}

{n_rows} measurements of {n_cells} cells: {sizes} by V = {tokens}; suites: {suites}.

Source: {source}

## What a law says

{fit}

Fitted by vlmlaw {version} with its defaults, one law for each suite; anew: `vlmlaw law fit measurements.csv`.

## Files

`measurements.csv` has a row for each cell and suite:

{columns}

`data/` has the same as records of [Every Eval Ever](https://github.com/evaleval/every_eval_ever); `vlmlaw law import`
makes the table of them.
"""


def render_card(table: Measurements, frame: pd.DataFrame, source: str) -> str:
    """The card of a grid: the measurements as read, and as published."""
    sizes = [format_size(float(n)) for n in sorted(frame["params_b"].unique())]
    suites = sorted(frame["suite"].unique()) if "suite" in frame else ["all"]
    cells = [name for name in ("params_b", "visual_tokens", "compressor", "seed") if name in frame]
    return _CARD.format(
        title=f"N by V: {', '.join(sizes) if len(sizes) < 6 else f'{sizes[0]} to {sizes[-1]}'}",
        n_rows=len(frame),
        n_cells=len(frame.drop_duplicates(cells)),
        sizes=", ".join(sizes),
        tokens=", ".join(f"{v:g}" for v in sorted(frame["visual_tokens"].unique())),
        suites=", ".join(map(str, suites)),
        source=source,
        fit=_fit(table),
        version=__version__,
        columns=_columns(frame),
    )


def _columns(frame: pd.DataFrame) -> str:
    rows = [f"| `{name}` | {COLUMNS.get(str(name), 'as measured beside it')} |" for name in frame.columns]
    return "\n".join(["| column | meaning |", "|---|---|", *rows])


def _fit(table: Measurements) -> str:
    """rho and V*(50) of each suite as Markdown, or why there is no law."""
    try:
        result = analyse(table, LawOptions(bootstrap_draws=0, allow_missing=True))
    except UserError as error:
        return f"None: {error}"
    lines = []
    for fit in result["fits"]:
        stars = [row["v_star"] for row in fit["v_star"] if row["question_tokens"] == 50]
        star = f"{stars[0]:.3g}" if stars and stars[0] is not None else ""
        lines.append(f"| {_name(fit)} | {fit['law']} | {_rho(fit['rho'])} | {star} | {fit['n_cells']} |")
    head = ["| suite | law | rho = alpha / beta, 95 % | V* of 50 question tokens | cells |", "|---|---|---|---|---|"]
    curves = [f"- {_name(curve)}: {curve['sentence']}" for curve in result["axes"]]
    return "\n".join([*(head + lines if lines else []), *([""] if lines and curves else []), *curves])


def _name(group: dict[str, str]) -> str:
    parts = [group["suite"], *([group["kind"]] if group["kind"] != "all" else []), group.get("compressor", "")]
    return ", ".join(part for part in parts if part)


def _rho(rho: dict[str, float | None] | None) -> str:
    if rho is None or rho["estimate"] is None:
        return "none"
    low, high = ("∞" if end is None else f"{end:.3g}" for end in (rho["lower"], rho["upper"]))
    return f"{rho['estimate']:.3g} [{'-' * (low == '∞')}{low}, {high}]"
