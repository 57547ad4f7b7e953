"""Small multiples: error by kind of question, and the training curves of the cells."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from vlmlaw.report.figures import style
from vlmlaw.report.figures.curves import points
from vlmlaw.report.study import Kind, Study

MAX_POINTS = 60  # of a training curve, each the mean over equally many steps


def error_of_kind(kind: Kind, study: Study) -> Callable[[Axes], None]:
    """A function that draws the error of a kind against V for each size, with its law if it has one."""

    def draw(axes: Axes) -> None:
        colors = style.size_colors(len(study.sizes))
        v = np.geomspace(kind.rows["V"].min(), kind.rows["V"].max(), 80)
        for size in study.sizes:
            rows = kind.rows[kind.rows["N"] == size.n].sort_values("V")
            if rows.empty:
                continue
            color, held_out = colors[size.rank], bool(rows["held_out"].all())
            if kind.fit is None:
                mean = rows.groupby("V")["error"].mean()
                axes.plot(mean.index, mean, color=color, linewidth=1.0, alpha=0.7)
            else:
                line = (0, (4, 2)) if held_out else "-"
                axes.plot(v, kind.fit.predict(size.n, v), color=color, linewidth=1.3, linestyle=line)
            points(axes, rows, rows["V"], color, mark=style.size_mark(size.rank), held_out=held_out)
        style.token_axis(axes, style.thinned(sorted(kind.rows["V"].unique()), distance=0.1), label="V")
        axes.set(ylabel="error", ylim=(-0.02, max(1.0, kind.rows["error"].max()) * 1.02))

    return draw


def binned(history: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Step and loss of a training, averaged over at most MAX_POINTS bins of equally many steps."""
    table = pd.DataFrame(history, columns=["step", "loss"])
    width = max(1, int(np.ceil(len(table) / MAX_POINTS)))
    return table.groupby(np.arange(len(table)) // width).mean()


def training_curves(cells: Sequence[Any], study: Study) -> Callable[[Axes], None]:
    """A function that draws loss against step for these cells, coloured by size."""

    def draw(axes: Axes) -> None:
        names = [size.name for size in study.sizes]
        colors = dict(zip(names, style.size_colors(len(names)), strict=True))
        curves = [binned(cell.history).assign(size=cell.size, cell=cell.name) for cell in cells]
        sns.lineplot(
            pd.concat(curves, ignore_index=True),
            x="step",
            y="loss",
            hue="size",
            hue_order=[name for name in names if any(cell.size == name for cell in cells)],
            palette=colors,
            units="cell",
            estimator=None,
            legend=False,
            linewidth=1.2,
            ax=axes,
        )
        axes.set(xlabel="step", ylabel="loss", ylim=(0, None), xlim=(0, None))

    return draw
