"""Style of all figures: colours of the sizes, axes with plain ticks, and figures without global state."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import matplotlib as mpl
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, ListedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

# Each stands for a CSS variable of the page, so that a figure follows the light or dark theme of the reader.
INK = "#222226"
QUIET = "#6f6f78"
GRID = "#e4e4e9"
PAPER = "#fefefd"
ACCENT = "#c2410c"  # the frontier and every optimum; no size has it
ON_ERROR = "#262626"  # lines and text on `error_colors`, the same in both themes
NEUTRAL = "#5b7083"  # marks that belong to no size

# Markers of matplotlib, each with its path in a box from -6 to 6.
MARK_PATHS = {
    "o": "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0Z",
    "s": "M-3.6-3.6H3.6V3.6H-3.6Z",
    "^": "M0-4.4L4.4 3.6H-4.4Z",
    "D": "M0-4.8L4.8 0L0 4.8L-4.8 0Z",
    "v": "M0 4.4L4.4-3.6H-4.4Z",
}

PANEL_INCHES = (4.5, 3.35)
LEAST_TICK_DISTANCE = 0.065  # share of an axis below which two labels would touch
LETTER, FEW_LETTERS = 0.019, 5  # the share that a letter takes of a label with more letters than these


def size_colors(n_sizes: int, *, dark: bool = False) -> list[str]:
    """A colour for each size, the smallest first: viridis, which is readable for the colour-blind and in grey.

    The largest size stands out most: darkest on light paper, lightest on dark paper.
    """
    first, last = (0.36, 0.97) if dark else (0.80, 0.04)
    places = np.linspace(first, last, n_sizes) if n_sizes > 1 else [last]
    return [to_hex(mpl.colormaps["viridis"](place)) for place in places]


def size_mark(rank: int) -> str:
    """The marker of matplotlib of the size of this rank: beside its colour, for whoever cannot tell colours apart."""
    return [*MARK_PATHS][rank % len(MARK_PATHS)]


def mark_path(rank: int) -> str:
    """The same mark as the path of an SVG about the origin, for a legend of the page."""
    return MARK_PATHS[size_mark(rank)]


def error_colors() -> Colormap:
    """The colour map of an error over the plane, light enough for dark lines and text."""
    return ListedColormap(mpl.colormaps["mako_r"](np.linspace(0.03, 0.52, 256)), name="error")


@contextmanager
def look() -> Iterator[None]:
    """Context manager with the settings under which every figure is drawn and saved."""
    settings = {
        **sns.axes_style("ticks"),
        **sns.plotting_context("paper"),
        "figure.constrained_layout.use": True,
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "savefig.facecolor": "none",
        "font.size": 9.5,
        "axes.labelsize": 9.5,
        "axes.titlesize": 10.5,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "xtick.labelsize": 8.8,
        "ytick.labelsize": 8.8,
        "legend.fontsize": 8.8,
        "legend.frameon": False,
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans"],
        "axes.edgecolor": QUIET,
        "axes.linewidth": 0.8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": GRID,
        "grid.linewidth": 0.7,
        "axes.axisbelow": True,
        "lines.linewidth": 1.7,
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.titlecolor": INK,
        "xtick.color": QUIET,
        "ytick.color": QUIET,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "xtick.major.width": 0.8,
        "ytick.major.width": 0.8,
        "svg.fonttype": "none",  # text stays text: it can be searched, read aloud and copied
        "svg.hashsalt": "vlmlaw",  # the same figure is the same bytes
        "hatch.linewidth": 0.6,
    }
    with mpl.rc_context(settings):
        yield


def new_figure(n_rows: int, n_columns: int, *, inches: tuple[float, float] = PANEL_INCHES) -> tuple[Figure, np.ndarray]:
    """A figure of panels (n_rows, n_columns), each of this many inches; call it under `look`."""
    figure = Figure(figsize=(inches[0] * n_columns, inches[1] * n_rows), layout="constrained")
    return figure, figure.subplots(n_rows, n_columns, squeeze=False)


def log_axis(axes: Axes, which: str, ticks: Sequence[float], text: Callable[[float], str] = "{:g}".format) -> None:
    """Make the axis `which` (x or y) logarithmic, with plain labels at those of these ticks that fit."""
    axes.set(**{f"{which}scale": "log"})
    axis = axes.xaxis if which == "x" else axes.yaxis
    longest = max((len(text(tick)) for tick in ticks), default=0)
    distance = max(LEAST_TICK_DISTANCE, LETTER * longest) if which == "x" and longest > FEW_LETTERS else None
    axis.set_major_locator(FixedLocator(list(thinned(ticks, distance=distance or LEAST_TICK_DISTANCE))))
    axis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))
    axis.set_minor_locator(NullLocator())


def thinned(ticks: Sequence[float], *, distance: float = LEAST_TICK_DISTANCE) -> list[float]:
    """Ticks whose labels do not touch on a logarithmic axis: the first, the last, and those between that fit."""
    ordered = sorted({float(tick) for tick in ticks})
    if len(ordered) < 3:
        return ordered
    span = np.log(ordered[-1] / ordered[0])
    kept = [ordered[0]]
    for tick in ordered[1:-1]:
        far_from_last = np.log(ordered[-1] / tick) >= distance * span
        if np.log(tick / kept[-1]) >= distance * span and far_from_last:
            kept.append(tick)
    return [*kept, ordered[-1]]


def decades(low: float, high: float) -> list[float]:
    """Powers of ten within a range, every third of one where it is short."""
    steps = [1.0] if high / low >= 1e3 else [1.0, 3.0] if high / low >= 30 else [1.0, 2.0, 5.0]
    exponents = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    found = [step * 10.0**exponent for exponent in exponents for step in steps]
    inside = [value for value in found if low * 0.999 <= value <= high * 1.001]
    return inside if len(inside) > 1 else [x for x in MaxNLocator(4).tick_values(low, high) if low <= x <= high]


def shortened(text: str, most: int = 16) -> str:
    """A name that has room on an axis: with its middle left out where it is longer than `most` letters.

    >>> shortened("Qwen2.5-VL-7B-Instruct", 12), shortened("7B", 12)
    ('Qwen2.5…ruct', '7B')
    """
    if len(text) <= most:
        return text
    tail = most * 2 // 5
    return f"{text[: most - tail - 1]}…{text[len(text) - tail :]}"


def token_axis(axes: Axes, counts: Sequence[float], *, label: str = "visual tokens V") -> None:
    """Make the x axis one of visual tokens: logarithmic, with plain labels at those of these counts that fit."""
    log_axis(axes, "x", counts)
    axes.set_xlabel(label)


def remark(axes: Axes, text: str, *, color: str = INK) -> None:
    """Write a short text above a panel at the right."""
    axes.set_title(text, loc="right", fontsize=9.0, fontweight="normal", color=color)


def say_instead(axes: Axes, text: str) -> None:
    """Write a text into a panel that has no data."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", fontsize=9.0, color=QUIET)
    axes.set(xticks=[], yticks=[])
