"""The list of all figures of the report with their titles and captions, and how they are drawn and saved."""

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from vlmlaw.report.clock import clock_of
from vlmlaw.report.figures import curves, multiples, style, trust
from vlmlaw.report.run_files import Cell
from vlmlaw.report.study import Study, Suite
from vlmlaw.report.templates_version import TEMPLATES
from vlmlaw.runtime.whole_files import whole_file

PNG_DPI = 160
LETTERS_PER_INCH = 8  # of a panel's title; a longer one would take the panel's place
METADATA = {"Date": None, "Creator": "vlmlaw"}


@dataclass(frozen=True)
class Panel:
    """One pair of axes: a title and the function that draws it."""

    title: str
    draw: Callable[[Axes], None]
    inches: tuple[float, float] = style.PANEL_INCHES


@dataclass(frozen=True)
class Picture:
    """One figure with panels of every suite, drawn on one sheet in a file and separately on the page."""

    name: str
    title: str
    panels: Callable[[Suite, Study], list[Panel]]
    of_sizes: bool = True  # whether colours stand for sizes, which needs a legend
    optional: bool = False  # whether it is drawn only where there is something to show

    @property
    def caption(self) -> str:
        """The caption, from the file that the report of Snakemake reads too."""
        return caption_of(self.name)


def caption_of(name: str) -> str:
    """The caption of the figure of this name, on one line."""
    return " ".join((TEMPLATES / f"{name}.rst").read_text(encoding="utf-8").split())


PanelFunction = Callable[[Axes, Suite, Study], None]


def _of(*draws: tuple[str, PanelFunction]) -> Callable[[Suite, Study], list[Panel]]:
    """Panels from functions of (axes, suite, study), titled by suite and content."""

    def panels(suite: Suite, study: Study) -> list[Panel]:
        return [
            Panel(_title(suite, study, what), lambda axes, draw=draw: draw(axes, suite, study))  # type: ignore[misc]
            for what, draw in draws
        ]

    return panels


def _title(suite: Suite, study: Study, what: str) -> str:
    """The title of a panel: its suite if there are several, and its content if the title of the figure lacks it."""
    return ": ".join(part for part in (suite.label if len(study.suites) > 1 else "", what) if part)


def _timed(draw: PanelFunction, *, once: bool = False) -> Callable[[Suite, Study], list[Panel]]:
    """One panel for each suite whose cells have a measured time, or `once` for the first alone."""

    def panels(suite: Suite, study: Study) -> list[Panel]:
        if clock_of(suite, study) is None:
            return []
        if once:
            return [Panel("", lambda axes: draw(axes, suite, study))] if suite is study.suites[0] else []
        return _of(("", draw))(suite, study)

    return panels


def _kinds(suite: Suite, study: Study) -> list[Panel]:
    inches = (2.55, 2.15)
    return [Panel(kind.name, multiples.error_of_kind(kind, study), inches) for kind in study.kinds[suite.label]]


LAW_PICTURES = (
    Picture(
        "error_against_tokens",
        "Error against visual tokens",
        _of(("", curves.error_against_tokens)),
    ),
    Picture(
        "error_against_flops",
        "Error against inference FLOPs",
        _of(("", curves.error_against_flops)),
    ),
    Picture(
        "error_against_time",
        "Error against measured time",
        _timed(curves.error_against_time),
        optional=True,
    ),
    Picture(
        "time_against_flops",
        "How far 2N(Q + V) is from the clock",
        _timed(curves.time_against_flops, once=True),
        optional=True,
    ),
    Picture(
        "grid",
        "The measured grid",
        _of(("", trust.grid)),
        of_sizes=False,
    ),
    Picture(
        "best_tokens",
        "How many visual tokens to buy",
        _of(("", curves.best_tokens)),
        of_sizes=False,
    ),
    Picture(
        "contour",
        "Predicted error over size and tokens",
        _of(("", curves.contour)),
        of_sizes=False,
    ),
    Picture(
        "predicted",
        "Measured against predicted error",
        _of(("", trust.measured_against_predicted)),
    ),
    Picture(
        "residuals",
        "What the law leaves unexplained",
        _of(("against V", trust.residuals_against_tokens), ("against N", trust.residuals_against_size)),
    ),
    Picture(
        "profiles",
        "What the cells say about ρ, and what they leave open",
        _of(
            ("profile of ρ", trust.profile_of_rho),
            ("profile of D", trust.profile_of_d),
            ("exponents", trust.exponents_against_d),
        ),
        of_sizes=False,
    ),
    Picture(
        "kinds",
        "Error by kind of question",
        _kinds,
    ),
)


def training_panels(cells: Sequence[Cell], study: Study) -> list[Panel]:
    """Panels of the training loss of every cell, one for each number of visual tokens."""
    counts = sorted({cell.n_visual_tokens or math.inf for cell in cells if cell.history})
    inches = (2.55, 2.15)
    return [
        Panel(
            f"V = {v:g}" if v < math.inf else "every V at once",
            multiples.training_curves([c for c in cells if (c.n_visual_tokens or math.inf) == v and c.history], study),
            inches,
        )
        for v in counts
    ]


def sheet(picture: Picture, study: Study) -> Figure | None:
    """The whole figure: suites side by side if each is one panel, else in rows; None without panels."""
    rows = [panels for suite in study.suites if (panels := picture.panels(suite, study))]
    if not rows:
        return None
    n_columns = min(4, len(rows[0])) if len(rows[0]) > 1 else 2 if len(rows) in (2, 4) else min(3, len(rows))
    panels = [panel for row in rows for panel in row]
    return draw_panels(panels, n_columns=n_columns, legend_of=study if picture.of_sizes else None)


def draw_panels(panels: Sequence[Panel], *, n_columns: int, legend_of: Study | None = None) -> Figure:
    """A figure of these panels, in order; call it under `style.look`."""
    n_rows = math.ceil(len(panels) / n_columns)
    figure, axes = style.new_figure(n_rows, n_columns, inches=panels[0].inches)
    for place, panel in zip(axes.flat, panels, strict=False):
        panel.draw(place)
        place.set_title(style.shortened(panel.title, int(LETTERS_PER_INCH * panel.inches[0])))
    for unused in axes.flat[len(panels) :]:
        unused.set_visible(False)
    if legend_of is not None:
        handles = legend_handles(legend_of)
        figure.legend(handles=handles, loc="outside upper left", ncols=min(len(handles), 3 * n_columns))
    return figure


def legend_handles(study: Study) -> list[Line2D]:
    """The legend: one mark for each size, hollow if it is held out."""
    colors = style.size_colors(len(study.sizes))
    return [
        Line2D(
            [],
            [],
            color=color,
            marker=style.size_mark(size.rank),
            markersize=5,
            markerfacecolor=style.PAPER if size.held_out else color,
            linestyle=(0, (4, 2)) if size.held_out else "-",
            label=size.name + (" (held out)" if size.held_out else ""),
        )
        for size, color in zip(study.sizes, colors, strict=True)
    ]


def draw_figures(
    study: Study, folder: Path, *, formats: Sequence[str] = ("svg",), cells: Sequence[Cell] = (), every: bool = False
) -> list[Path]:
    """Write the figures to `folder`, named by their content, and return the paths.

    A figure without data is left out, or with `every` is written with a note, since a workflow declares its outputs
    beforehand.
    """
    written: list[Path] = []
    with style.look():
        sheets = {picture.name: sheet(picture, study) for picture in LAW_PICTURES}
        for picture in LAW_PICTURES:
            if picture.optional and sheets[picture.name] is None:
                del sheets[picture.name]
        panels = training_panels(cells, study)
        sheets["training"] = draw_panels(panels, n_columns=min(4, len(panels)), legend_of=study) if panels else None
        figures = {name: figure or (nothing_to_show() if every else None) for name, figure in sheets.items()}
        for name, figure in figures.items():
            if figure is not None:
                written += write_figure(figure, folder, name, formats=formats)
    return written


def write_figure(figure: Figure, folder: Path, name: str, *, formats: Sequence[str]) -> list[Path]:
    """Save the figure to `folder` in each format, and return the paths."""
    paths = [folder / f"{name}.{suffix}" for suffix in formats]
    for path, suffix in zip(paths, formats, strict=True):
        with whole_file(path) as partial:
            save(figure, partial, suffix)
    return paths


def nothing_to_show() -> Figure:
    """The figure of what these measurements cannot show, for a workflow that declared its file beforehand."""
    figure = Figure(figsize=style.PANEL_INCHES)
    figure.text(0.5, 0.5, "these measurements have nothing to show here", ha="center")
    return figure


def save(figure: Figure, path: Path, suffix: str) -> None:
    """Save a figure on a white background; the bytes are the same every time."""
    metadata = {"svg": METADATA, "png": {"Software": None}, "pdf": {"CreationDate": None}}[suffix]
    figure.savefig(path, format=suffix, facecolor=style.PAPER, dpi=PNG_DPI, metadata=metadata)


def as_svg(figure: Figure) -> str:
    """The figure as SVG text without a background."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata=METADATA)
    return buffer.getvalue()
