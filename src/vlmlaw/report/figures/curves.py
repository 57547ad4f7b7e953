"""Panels that show the law itself: error against V, error against FLOPs with the frontier, V*(Q), and a contour."""

from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from vlmlaw.laws.costs import CostModel
from vlmlaw.laws.intervals import rho_interval
from vlmlaw.laws.ratio import v_star_of_interval
from vlmlaw.report import phrasing
from vlmlaw.report.clock import against_flops, clock_of, name_of, timed_question_tokens
from vlmlaw.report.figures import style
from vlmlaw.report.study import Size, Study, Suite


def points(
    axes: Axes, rows: pd.DataFrame, x: "pd.Series | np.ndarray", color: str, *, mark: str, held_out: bool
) -> None:
    """Draw measured errors with ±1 standard error, one point for each seed; hollow if held out of the fit."""
    axes.errorbar(
        x,
        rows["error"],
        yerr=rows["error_se"].fillna(0.0),
        fmt=mark,
        markersize=4.6,
        color=color,
        markerfacecolor=style.PAPER if held_out else color,
        markeredgecolor=color if held_out else style.PAPER,
        markeredgewidth=1.3 if held_out else 0.6,
        elinewidth=1.1,
        zorder=3,
    )


def by_size(suite: Suite, study: Study) -> list[tuple[Size, str, pd.DataFrame, bool]]:
    """Each size measured in the suite with its colour, its rows, and whether they are held out."""
    colors = style.size_colors(len(study.sizes))
    found = []
    for size in study.sizes:
        rows = suite.rows[suite.rows["N"] == size.n]
        if len(rows):
            found.append((size, colors[size.rank], rows, bool(rows["held_out"].all())))
    return found


def error_against_tokens(axes: Axes, suite: Suite, study: Study) -> None:
    """Draw measured and predicted error against V for each size."""
    low, high = suite.v_range
    v = np.geomspace(low, high, 160)
    for size, color, rows, held_out in by_size(suite, study):
        axes.plot(v, suite.fit.predict(size.n, v), color=color, linestyle=(0, (4, 2)) if held_out else "-")
        points(axes, rows, rows["V"], color, mark=style.size_mark(size.rank), held_out=held_out)
        other = suite.others[suite.others["N"] == size.n]
        axes.plot(other["V"], other["error"], "x", color=color, markersize=5.5, markeredgewidth=1.5)
    style.token_axis(axes, sorted(suite.rows["V"].unique()))
    axes.set_ylabel("error")
    style.remark(axes, phrasing.rho(suite.rho))


def error_against_flops(axes: Axes, suite: Suite, study: Study) -> None:
    """Draw error against the cost of an answer, with the frontier and its band."""
    _against_cost(axes, suite, study, cost=study.cost, frontier=suite.frontier(study))
    axes.set_xlabel(f"LLM FLOPs for an answer, {study.cost.name} (Q = {study.question_tokens:g})")


def error_against_time(axes: Axes, suite: Suite, study: Study) -> None:
    """Draw error against the measured time of an answer, with the frontier of the timed cells."""
    clock = clock_of(suite, study)
    assert clock is not None
    _against_cost(axes, suite, study, cost=clock, frontier=suite.frontier(study, clock))
    axes.set_xlabel(f"{style.shortened(name_of(clock), 40)} (Q = {timed_question_tokens(suite, study):g})")


def _against_cost(axes: Axes, suite: Suite, study: Study, *, cost: CostModel, frontier: pd.DataFrame) -> None:
    for size, color, rows, held_out in by_size(suite, study):
        mark = style.size_mark(size.rank)
        points(axes, rows, cost.of(rows["N"], rows["V"]), color, mark=mark, held_out=held_out)
    costs = cost.of(suite.rows["N"], suite.rows["V"])
    low, high = np.nanmin(costs) / 1.2, max(np.nanmax(costs), frontier["budget"].max()) * 1.2
    steps = pd.concat([frontier, frontier.tail(1).assign(budget=high)])
    axes.fill_between(
        steps["budget"], steps["lower"], steps["upper"], step="post", color=style.ACCENT, alpha=0.2, linewidth=0
    )
    axes.step(steps["budget"], steps["error"], where="post", color=style.ACCENT, linewidth=1.5)
    style.remark(axes, f"— least predicted error, {phrasing.percent(study.level, 0)} band", color=style.ACCENT)
    style.log_axis(axes, "x", style.decades(low, high), phrasing.si)
    axes.set(ylabel="error", xlim=(low, high))


def time_against_flops(axes: Axes, suite: Suite, study: Study) -> None:
    """Draw the measured time of each cell against the law's cost, and the time if every FLOP took as long."""
    clock = clock_of(suite, study)
    assert clock is not None
    cells, colors = against_flops(suite, study, clock), style.size_colors(len(study.sizes))
    for n, rows in cells.groupby("N"):
        size = study.size_of(float(n))  # type: ignore[arg-type]
        rows = rows.sort_values("V")
        axes.plot(rows["flops"], rows["time"], color=colors[size.rank], linewidth=1.0)
        axes.plot(rows["flops"], rows["time"], style.size_mark(size.rank), color=colors[size.rank], markersize=4.6)
    least = (cells["time"] / cells["flops"]).min()
    ends = np.array([cells["flops"].min(), cells["flops"].max()])
    axes.plot(ends, least * ends, color=style.NEUTRAL, linewidth=1.2, linestyle=(0, (4, 2)), zorder=1)
    for which, low, high in (("x", *ends), ("y", min(least * ends[0], cells["time"].min()), cells["time"].max())):
        style.log_axis(axes, which, style.decades(low / 1.2, high * 1.2), phrasing.si)
    style.remark(axes, "- - time in proportion to 2N(Q + V)", color=style.NEUTRAL)
    axes.set(
        xlabel=f"2N(Q + V) FLOPs (Q = {timed_question_tokens(suite, study):g})",
        ylabel=style.shortened(name_of(clock), 40),
    )


def best_tokens(axes: Axes, suite: Suite, study: Study) -> None:
    """Draw V* against Q: in closed form with the interval of rho if the law has one, else at the analysed points."""
    if phrasing.gains_nothing(suite.rho):
        style.say_instead(axes, "error falls neither with size\nnor with tokens: no V is the best")
        return
    stars = pd.DataFrame(suite.analysis["v_star"])
    least, most = suite.v_range
    q = np.linspace(0, float(stars["question_tokens"].max()), 240)
    other = [replace(study.cost, question_tokens=x).other_tokens for x in q]
    axes.fill_between(
        stars["question_tokens"], stars["flat_lower"], stars["flat_upper"], color=style.NEUTRAL, alpha=0.13, linewidth=0
    )
    if suite.index_fit is not None:
        rho = rho_interval(suite.index_fit, level=study.level)
        best = [v_star_of_interval(rho, x) for x in other]
        middle, lower, upper = np.clip([(v.estimate, v.lower, v.upper) for v in best], least, most).T
        axes.fill_between(q, lower, upper, color=style.ACCENT, alpha=0.2, linewidth=0)
        axes.plot(q, middle, color=style.ACCENT)
    axes.plot(stars["question_tokens"], stars["v_star"], "o", color=style.ACCENT, markersize=4.5)
    style.log_axis(axes, "y", sorted(suite.rows["V"].unique()))
    axes.set_ylim(least / 1.12, most * 1.12)
    axes.set(xlabel="question tokens Q", ylabel="best visual tokens V*")
    style.remark(axes, phrasing.best(suite.rho, suite.v_star(study), at=study.question_tokens))


def contour(axes: Axes, suite: Suite, study: Study) -> None:
    """Draw the predicted error over (N, V) with lines of equal cost, and the best V where the cells bound it."""
    (v_low, v_high), n = suite.v_range, suite.rows["N"]
    v, n_grid = np.geomspace(v_low, v_high, 90), np.geomspace(n.min(), n.max(), 90)
    predicted = suite.fit.predict(n_grid[:, None], v[None, :])
    levels = _levels(predicted)
    filled = axes.contourf(v, n_grid, predicted, levels=levels, cmap=style.error_colors())
    lines = axes.contour(v, n_grid, predicted, levels=levels, colors="white", linewidths=0.6, alpha=0.7)
    if axes.figure is not None:
        bar = axes.figure.colorbar(filled, ax=axes, pad=0.02, aspect=28)
        bar.add_lines(lines)
        bar.set_label("predicted error")
        bar.outline.set_visible(False)  # type: ignore[operator]
    axes.plot(suite.rows["V"], suite.rows["N"], "o", color=style.ON_ERROR, markersize=2.6, clip_on=False)
    if not (phrasing.is_open(suite.rho) or phrasing.gains_nothing(suite.rho)):
        axes.axvline(suite.v_star(study)["v_star"], color=style.ACCENT, linewidth=2.2)
    style.token_axis(axes, sorted(suite.rows["V"].unique()))
    style.log_axis(axes, "y", [size.n for size in study.sizes], lambda x: style.shortened(study.size_of(x).name))
    axes.set(ylabel="LLM size N", xlim=(v_low, v_high), ylim=(n.min(), n.max()))
    axes.grid(False)
    _iso_costs(axes, v, n_grid, study)  # last: its labels turn with the lines, as the axes show them


def _iso_costs(axes: Axes, v: np.ndarray, n: np.ndarray, study: Study) -> None:
    """Draw dashed lines of equal cost, each labelled where it crosses the diagonal, so that no two labels meet."""
    costs = study.cost.of(n[:, None], v[None, :])
    levels = np.geomspace(costs.min(), costs.max(), 6)[1:-1]
    lines = axes.contour(v, n, costs, levels=levels, colors=style.ON_ERROR, linewidths=0.9, linestyles="dashed")
    crossed = [int(np.argmin(abs(np.diagonal(costs) - level))) for level in levels]
    axes.clabel(
        lines,
        levels,
        fmt=lambda level: f"{phrasing.si(level)}FLOPs",
        manual=[(v[place], n[place]) for place in crossed],
        fontsize=7.8,
        inline_spacing=3,
    )


def _levels(predicted: np.ndarray) -> np.ndarray:
    """About nine round contour levels that cover the predictions."""
    from matplotlib.ticker import MaxNLocator

    return np.asarray(MaxNLocator(nbins=9).tick_values(float(predicted.min()), float(predicted.max())))
