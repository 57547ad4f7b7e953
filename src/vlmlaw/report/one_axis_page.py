"""The page of a table with one size, or one number of visual tokens: the error along the other axis.

Such a table has no law in N and V, so there is no budget to explore: the page has what `vlmlaw law fit` says of each
group of cells, its figure, its cells, and what the linter finds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes

from vlmlaw.laws.cells import format_size
from vlmlaw.report import phrasing, provenance
from vlmlaw.report.figures import gallery, style, svg
from vlmlaw.report.page import theme_colors
from vlmlaw.report.tables import Table
from vlmlaw.report.templating import environment
from vlmlaw.runtime.git import commit
from vlmlaw.runtime.whole_files import whole_file

SMALL_INCHES = (3.2, 2.5)  # of a panel among several
AXES = {"V": "visual tokens V", "N": "LLM size N"}


@dataclass(frozen=True)
class Group:
    """Cells of one suite and compressor along one axis: what is said of them, their figure and their table."""

    label: str
    sentence: str
    curve: str
    drawing: Markup
    cells: Table


def write_one_axis(analysis: Mapping[str, Any], out: Path, *, law: Path, measurements: Path, title: str = "") -> None:
    """Write the page of an analysis without a law in N and V to the file `out`."""
    templates = environment()
    page = templates.get_template("one_axis.html").render(
        title=title or "Error along one axis",
        groups=_groups(analysis["axes"]),
        lint=analysis["lint"],
        skipped=_skipped(analysis["skipped"]),
        words=phrasing,
        origin=analysis["provenance"],
        law=law,
        measurements=measurements,
        commit=commit(),
        versions=provenance.versions(),
        style=Markup(templates.get_template("page.css").render(sizes={"light": [], "dark": []})),
    )
    with whole_file(out) as partial_file:
        partial_file.write_text(page, encoding="utf-8")


def draw_one_axis_figures(analysis: Mapping[str, Any], folder: Path, *, formats: Sequence[str]) -> None:
    """Write to `folder` every figure that a workflow declared before it was known that there is no law.

    Error against tokens is drawn where that is the axis; every other figure is a note.
    """
    tokens = [group for group in analysis["axes"] if group["axis"] == "V" and phrasing.is_whole_suite(group)]
    panels = [
        gallery.Panel(phrasing.label(group, with_compressor=True), partial(draw_curve, group=group)) for group in tokens
    ]
    with style.look():
        for name in (*(picture.name for picture in gallery.LAW_PICTURES), "training"):
            drawn = panels if name == "error_against_tokens" else []
            figure = gallery.draw_panels(drawn, n_columns=min(3, len(drawn))) if drawn else gallery.nothing_to_show()
            gallery.write_figure(figure, folder, name, formats=formats)


def _groups(axes: Sequence[Mapping[str, Any]]) -> list[Group]:
    several = phrasing.several_compressors(axes)
    inches = SMALL_INCHES if len(axes) > 2 else style.PANEL_INCHES
    found = []
    with style.look():
        for number, group in enumerate(axes):
            label = phrasing.label(group, with_compressor=several)
            panel = gallery.Panel("", partial(draw_curve, group=group), inches)
            text = gallery.as_svg(gallery.draw_panels([panel], n_columns=1))
            title = f"Error against {AXES[group['axis']]}, {label}"
            drawing = svg.inline(text, name=f"axis{number}", title=title, colors=theme_colors())
            curve = f"{group['law']}: {group['formula']}, x from 0 to 1 over the logarithm of the range"
            found.append(
                Group(
                    label,
                    str(group["sentence"]).partition(" There is no rho")[0],
                    curve,
                    Markup(drawing),
                    _cells(group),
                )
            )
    return found


def _skipped(groups: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, Table]]:
    """Groups without a curve: their labels, why they have none, and their cells."""
    several = phrasing.several_compressors(groups)
    found = []
    for group in groups:
        cells = sorted(group.get("cells", ()), key=lambda cell: (cell["N"], cell["V"]))
        rows = [[format_size(cell["N"]), f"{cell['V']:g}", phrasing.error(cell["error"])] for cell in cells]
        found.append((phrasing.label(group, with_compressor=several), group["why"], Table(["N", "V", "error"], rows)))
    return found


def _place(group: Mapping[str, Any], place: float) -> str:
    return f"{place:g}" if group["axis"] == "V" else format_size(place)


def _cells(group: Mapping[str, Any]) -> Table:
    """The measured cells, in order; the one from which on nothing more is gained is marked, unless it is the first."""
    cells = sorted(group["cells"], key=lambda cell: cell[group["axis"]])
    rows = [
        [_place(group, cell[group["axis"]]), phrasing.error(cell["error"]), phrasing.error(cell["predicted"])]
        for cell in cells
    ]
    mark = [number for number, cell in enumerate(cells) if number and cell[group["axis"]] == group["flat_from"]]
    header = [group["axis"], "measured error", "the curve"]
    return Table(header, rows, left=(), mark=mark, marked="from here on nothing more is gained")


def draw_curve(axes: Axes, group: Mapping[str, Any]) -> None:
    """Draw measured errors along the axis, the chosen curve, and from where on nothing is gained."""
    name = group["axis"]
    cells = sorted(group["cells"], key=lambda cell: cell[name])
    x = np.array([cell[name] for cell in cells])
    axes.plot(x, [cell["predicted"] for cell in cells], color=style.ACCENT)
    axes.plot(x, [cell["error"] for cell in cells], "o", color=style.INK, markersize=4.6)
    if x[0] < group["flat_from"] < x[-1]:
        axes.axvspan(group["flat_from"], x[-1], color=style.NEUTRAL, alpha=0.13, linewidth=0)
    style.log_axis(axes, "x", sorted(set(x.tolist())), lambda value: _place(group, value))
    axes.set(xlabel=AXES[name], ylabel="error")
