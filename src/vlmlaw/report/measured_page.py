"""The page of a measurement of released models: one self-contained HTML file, measured cells first."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes

from vlmlaw.evaluation.measuring.conclude import Conclusions
from vlmlaw.evaluation.thumbnail import MOST_PIXELS
from vlmlaw.report import measured_words as words
from vlmlaw.report import phrasing, provenance
from vlmlaw.report.figures import gallery, style, svg
from vlmlaw.report.measured_explained import MOST_CELLS, explained_groups
from vlmlaw.report.page import Block, theme_colors
from vlmlaw.report.templating import environment
from vlmlaw.runtime.git import commit
from vlmlaw.runtime.whole_files import whole_file

WIDE = 8  # costs that differ by more than this factor stand on a logarithmic axis
LARGE_NUMBER = 1e5  # from which costs have a prefix, as 3 G
LABEL_HEIGHT, LABEL_WIDTH = 0.05, 0.022  # of a label on the cost figure, and of each of its letters: of the axes


def write_measured_page(found: Conclusions, out: Path, *, facts: Mapping[str, str]) -> None:
    """Write the page to the file `out`; `facts` say what was asked, of whom and how."""
    templates = environment()
    models = list(dict.fromkeys(found.measured.table.model))
    sizes = {"light": style.size_colors(len(models)), "dark": style.size_colors(len(models), dark=True)}
    groups, pictures = explained_groups(found.measured.explained)
    page = templates.get_template("measured.html").render(
        title="Which model, at how many visual tokens?",
        facts=facts,
        answer=words.answer(found),
        cautions=words.cautions(found),
        cells=words.cells_table(found),
        pairs=words.pairs_table(found),
        loads=words.loads_table(found),
        further=words.further(found),
        least=words.least_table(found),
        laws=words.laws(found),
        filled=words.filled_tables(found),
        explained=groups,
        pictures=pictures,
        pixels=MOST_PIXELS,
        most_cells=MOST_CELLS,
        models=models,
        blocks=_blocks(found, models),
        commit=commit(),
        versions=provenance.versions(),
        style=Markup(templates.get_template("page.css").render(sizes=sizes)),
    )
    with whole_file(out) as partial_file:
        partial_file.write_text(page, encoding="utf-8")


def _blocks(found: Conclusions, models: list[str]) -> list[Block]:
    """The figures as SVG."""
    color = dict(zip(models, style.size_colors(len(models)), strict=True))
    css = theme_colors()
    css |= {color[model]: f"var(--size-{rank})" for rank, model in enumerate(models)}
    unit = found.decision.unit
    pictures: list[tuple[str, str, str, Any]] = [
        (
            "tokens",
            "Error against visual tokens",
            f"Points are measured, with {found.decision.wishes.level:.0%} intervals clustered by image; V is counted, "
            "and V = 0 is the question without its image. Intervals of differences are narrower: the cells answer the "
            "same questions.",
            partial(_against_tokens, found=found, color=color),
        ),
        (
            "cost",
            "Error against cost",
            "Cells are marked with the V that was asked for, where there is room. The line joins the cells than which "
            f"none is both cheaper and better. Cost: {unit}.",
            partial(_against_cost, found=found, color=color),
        ),
    ]
    blocks = []
    with style.look():
        for name, title, caption, draw in pictures:
            text = gallery.as_svg(gallery.draw_panels([gallery.Panel("", draw)], n_columns=1))
            drawing = Markup(svg.inline(text, name=name, title=title, colors=css))
            blocks.append(Block(name=name, title=title, caption=caption, panels=[("", drawing)], of_sizes=True))
    return blocks


def _rows(found: Conclusions) -> list[dict[str, Any]]:
    level = found.decision.wishes.level
    rows = found.measured.table.to_dict("records")
    return [
        {str(k): v for k, v in row.items()} | {"ends": found.paired.error(row["cell"], level=level)} for row in rows
    ]


def _point(axes: Axes, x: float, row: dict[str, Any], color: str, *, mark: str) -> None:
    axes.plot([x, x], [row["ends"].lower, row["ends"].upper], color=color, linewidth=0.9, alpha=0.6)
    axes.plot([x], [row["error"]], color=color, marker=mark, markersize=5)


def _against_tokens(axes: Axes, *, found: Conclusions, color: Mapping[str, str]) -> None:
    rows = [row for row in _rows(found) if math.isfinite(row["n_visual_tokens"])]  # a server may not count
    for rank, (model, own) in enumerate(color.items()):
        line = [(row["n_visual_tokens"], row) for row in rows if row["model"] == model]
        axes.plot([x for x, _ in line], [row["error"] for _, row in line], color=own, linewidth=1.3)
        for x, row in line:
            _point(axes, x, row, own, mark=style.size_mark(rank))
    shown = sorted({round(row["n_visual_tokens"]) for row in rows if row["n_visual_tokens"] > 0}) or [1]
    axes.set_xscale("symlog", base=2, linthresh=shown[0])
    axes.set_xticks([0, *_apart(shown)])
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.minorticks_off()
    axes.set_xlabel("visual tokens V, as counted")
    axes.set_ylabel("error")


def _apart(ticks: Sequence[int]) -> list[float]:
    """Ticks above 0 whose labels do not touch on a symlog axis of base 2 that is linear from 0 to the first of them."""
    doublings = math.log2(ticks[-1] / ticks[0])
    linear = 2.0  # so many doublings are as long as the linear part
    return (
        style.thinned(ticks, distance=style.LEAST_TICK_DISTANCE * (1 + linear / doublings)) if doublings else [*ticks]
    )


def _against_cost(axes: Axes, *, found: Conclusions, color: Mapping[str, str]) -> None:
    cost, rows = found.decision.cost, {row["cell"]: row for row in _rows(found)}
    front = [rows[cell] for cell in found.decision.front]
    axes.plot([cost[row["cell"]] for row in front], [row["error"] for row in front], color=style.ACCENT, linewidth=1.2)
    mark = {model: style.size_mark(rank) for rank, model in enumerate(color)}
    for cell, row in rows.items():
        _point(axes, cost[cell], row, color[row["model"]], mark=mark[row["model"]])
    least, most = min(cost.values()), max(cost.values())
    if 0 < WIDE * least < most:
        text = phrasing.si if most >= LARGE_NUMBER else "{:g}".format
        style.log_axis(axes, "x", style.decades(least / 1.1, most * 1.1), text)
    _mark_budgets(axes, {cell: (cost[cell], rows[cell]) for cell in dict.fromkeys([*found.decision.front, *rows])})
    axes.set_xlabel(found.decision.unit + (" (logarithmic)" if axes.get_xscale() == "log" else ""))
    axes.set_ylabel("error")


def _mark_budgets(axes: Axes, cells: Mapping[str, tuple[float, dict[str, Any]]]) -> None:
    """Write the V of each cell beside its point, in this order, where no other V stands yet."""
    to_axes = (axes.transData + axes.transAxes.inverted()).transform
    placed: list[tuple[float, float, int]] = []
    for x, row in cells.values():
        left, bottom = to_axes((x, row["error"]))
        n = len(row["budget"])
        if all(
            abs(bottom - other) > LABEL_HEIGHT or left > at + LABEL_WIDTH * m or at > left + LABEL_WIDTH * n
            for at, other, m in placed
        ):
            placed.append((left, bottom, n))
            axes.annotate(row["budget"], (x, row["error"]), xytext=(4, 4), textcoords="offset points", fontsize=8)
