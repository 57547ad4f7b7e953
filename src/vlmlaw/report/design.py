"""How the cells of a design were chosen, in words: for the page and for the index of its cells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlmlaw.report import phrasing
from vlmlaw.report.tables import Table

ASKED = {
    "side": "on which side of 1 rho lies",
    "rho": "rho, as narrowly as the budget allows",
    "best": "which cell is the best to deploy within {flops:.3g} FLOPs an answer",
}
HOURS = "GPU-hours"


def amount(cost: float, found: Mapping[str, Any]) -> str:
    """A cost in words."""
    return (
        f"{_number(cost, found)} {HOURS}" if found["unit"] == HOURS else f"{_number(cost, found)} % of the grid's cost"
    )


def _number(cost: float, found: Mapping[str, Any]) -> str:
    """A cost in hours, or in percent of the grid's."""
    value = cost if found["unit"] == HOURS else 100 * cost / found["whole"]
    return phrasing.whole(value) if value >= 1000 else f"{value:.3g}"


def sentences(found: Mapping[str, Any]) -> list[str]:
    """What was asked, what was measured for it, what was not, and why it stopped; `found` is a round as written."""
    n_grid = len(found["cells"]) + len(found["not_chosen"])
    whole = f" (the whole grid: {amount(found['whole'], found)})" if found["unit"] == HOURS else ""
    n_measured = len(found["measured"])
    said = [
        f"The question was {ASKED[found['until']].format_map(found)}. {n_measured} of the grid's {n_grid} cells "
        f"{'was' if n_measured == 1 else 'were'} measured, one after the other, those first that tell most for their "
        f"cost: {amount(found['spent'], found)}, within a budget of {amount(found['limit'], found)}{whole}.",
        f"It stopped because {found['stop']}." if found["stop"] else "It goes on.",
        *(f"{state.rstrip('.')}." for state in found["states"]),
    ]
    said += [f"{cell} is missing: {why}." for cell, why in found["missing"].items()]
    held_out = [cell for cell in found["held_out"] if cell in found["not_chosen"]]
    others = [cell for cell in found["not_chosen"] if cell not in held_out]
    if others:
        said.append(f"Not measured, since it stopped before: {', '.join(others)}.")
    if held_out:
        said.append(f"Not measured, since they are held out of the law (grid.held_out): {', '.join(held_out)}.")
    return said


def steps(found: Mapping[str, Any]) -> Table:
    """The cells in the order in which they were chosen, with what each cost and was to narrow."""
    rows, total = [], 0.0
    for step in found["steps"]:
        total += step["cost"]
        cells = ", ".join(name + (" (missing)" if name in found["missing"] else "") for name in step["cells"])
        costs = [_number(step["cost"], found), _number(total, found)]
        rows.append([str(step["round"]), cells, *costs, f"{step['width']:.2f}"])
    cost = f"cost, {HOURS}" if found["unit"] == HOURS else "cost, % of the grid's"
    header = ["round", "cells", cost, "so far", "expected error"]
    caption = (
        "In which order the cells were chosen; expected error: the standard error that was expected of the answer "
        "after the round, as a share of that before it"
    )
    return Table(header, rows, left=(1,), caption=caption)


def index_of_cells(found: Mapping[str, Any]) -> str:
    """The index of a design's cells as Markdown."""
    made = steps(found)
    lines = ["# The cells", "", *(f"- {line}" for line in sentences(found)), ""]
    lines += ["| " + " | ".join(made.header) + " |", "|" + "---|" * len(made.header)]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in made.rows]
    cards = [f"- [{name}]({name}/README.md)" for name in found["measured"]]
    return "\n".join([*lines, "", *cards]) + "\n"
