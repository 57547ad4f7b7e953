"""Panels on the reliability of the law: the measured grid, predictions, residuals, and profiles of rho and D."""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from vlmlaw.laws.statistics import student_t
from vlmlaw.report import phrasing
from vlmlaw.report.figures import style
from vlmlaw.report.figures.curves import by_size, points
from vlmlaw.report.study import Study, Suite


def grid(axes: Axes, suite: Suite, study: Study) -> None:
    """Draw the mean error of each cell over its seeds; cells that were not measured are hatched."""
    table = suite.rows.pivot_table(index="N", columns="V", values="error", aggfunc="mean").sort_index(ascending=False)
    shown = table.map(lambda x: "" if np.isnan(x) else phrasing.error(x))
    sns.heatmap(
        table,
        ax=axes,
        annot=shown,
        fmt="",
        cmap=style.error_colors(),
        linewidths=1.5,
        linecolor=style.PAPER,
        cbar=False,
        annot_kws={"fontsize": 8.3},
    )
    for row, column in np.argwhere(table.isna().to_numpy()):
        place = Rectangle(
            (column, row), 1, 1, facecolor="none", edgecolor=style.QUIET, hatch="////", linewidth=0, label="missing"
        )
        axes.add_patch(place)
    held_out = set(suite.rows.loc[suite.rows["held_out"], "N"])
    names = [style.shortened(study.size_of(n).name) + (" *" if n in held_out else "") for n in table.index]
    axes.set_yticklabels(names, rotation=0)
    axes.set_xticklabels([f"{v:g}" for v in table.columns], rotation=0)
    axes.tick_params(length=0)
    axes.set(xlabel="visual tokens V", ylabel="LLM size" + (" (* held out)" if held_out else ""))


def measured_against_predicted(axes: Axes, suite: Suite, study: Study) -> None:
    """Draw the measured error of each cell against the law's; those held out hollow, with the interval of a new one."""
    for size, color, _, _ in by_size(suite, study):
        cells = [cell for cell in suite.analysis["cells"] if cell["N"] == size.n and not cell["held_out"]]
        axes.plot(
            [cell["predicted"] for cell in cells],
            [cell["error"] for cell in cells],
            style.size_mark(size.rank),
            color=color,
            markeredgecolor=style.PAPER,
            markeredgewidth=0.6,
            markersize=5.4,
            zorder=3,
        )
    held = suite.analysis["hold_out"]
    for cell in held["cells"] if held else []:
        rank = study.size_of(cell["N"]).rank
        color, mark = style.size_colors(len(study.sizes))[rank], style.size_mark(rank)
        axes.plot([cell["lower"], cell["upper"]], [cell["error"]] * 2, color=color, linewidth=1.1, alpha=0.6)
        axes.plot(
            cell["predicted"], cell["error"], mark, markersize=5.4, color=style.PAPER, markeredgecolor=color, zorder=4
        )
    low = min(axes.get_xlim()[0], axes.get_ylim()[0])
    high = max(axes.get_xlim()[1], axes.get_ylim()[1])
    axes.plot([low, high], [low, high], color=style.QUIET, linewidth=0.9, zorder=1)
    axes.set(xlabel="predicted error", ylabel="measured error", xlim=(low, high), ylim=(low, high))
    if held:
        unseen = phrasing.held_out(suite.analysis, lambda n: style.shortened(study.size_of(n).name))
        style.remark(axes, f"{unseen} unseen, off by {phrasing.percent(held['mean_relative_error'], 2)} on average")


def residuals_against_tokens(axes: Axes, suite: Suite, study: Study) -> None:
    """Draw measured minus predicted error against V."""
    _residuals(axes, suite, study, by="V")
    style.token_axis(axes, sorted(suite.rows["V"].unique()))


def residuals_against_size(axes: Axes, suite: Suite, study: Study) -> None:
    """Draw measured minus predicted error against N."""
    _residuals(axes, suite, study, by="N")
    style.log_axis(axes, "x", [size.n for size in study.sizes], lambda x: style.shortened(study.size_of(x).name, 10))
    axes.set_xlabel("LLM size N")


def _residuals(axes: Axes, suite: Suite, study: Study, *, by: str) -> None:
    """Draw measured minus predicted error with ±1 standard error, over a band of the residual standard deviation."""
    sigma = suite.fit.sigma
    axes.axhspan(-sigma, sigma, color=style.NEUTRAL, alpha=0.13, linewidth=0)
    axes.axhline(0, color=style.QUIET, linewidth=0.9)
    for size, color, rows, held_out in by_size(suite, study):
        left = rows.assign(error=rows["error"] - suite.fit.predict(size.n, rows["V"].to_numpy()))
        # Points of one V would hide one another: spread them a little.
        spread = 1.035 ** (size.rank - (len(study.sizes) - 1) / 2) if by == "V" else 1.0
        points(axes, left, rows[by] * spread, color, mark=style.size_mark(size.rank), held_out=held_out)
    axes.set_ylabel("measured − predicted error")
    style.remark(axes, f"± {phrasing.number(sigma, 2)}")


def profile_of_rho(axes: Axes, suite: Suite, study: Study) -> None:
    """Draw the misfit against rho; the interval is where it stays under the line."""
    rho, table = suite.rho, pd.DataFrame(suite.analysis["rho_profile"])
    if rho is None or table.empty:
        style.say_instead(axes, "this law has no single ρ")
        return
    if rho.get("infinite"):
        style.say_instead(axes, phrasing.rho(rho))
        return
    table = table.sort_values("rho")
    limit = student_t(study.level, suite.fit.degrees_of_freedom) ** 2
    axes.plot(table["rho"], table["f"], color=style.INK)
    axes.axhline(limit, color=style.QUIET, linewidth=0.9, linestyle=(0, (3, 2)))
    low, high = float(table["rho"].iloc[0]), float(table["rho"].iloc[-1])
    # If the profile is unbounded, show the part in which it bends.
    far = 4 * max(2.0, *(abs(rho[name] or 0.0) for name in ("estimate", "lower", "upper")))
    low, high = max(low, -far) if rho["lower"] is None else low, min(high, far) if rho["upper"] is None else high
    inside = [low if rho["lower"] is None else rho["lower"], high if rho["upper"] is None else rho["upper"]]
    margin = 0.04 * (max(high, inside[1]) - min(low, inside[0]))
    low, high = min(low, inside[0] - margin), max(high, inside[1] + margin)  # the interval may reach beyond the profile
    axes.axvspan(*inside, color=style.ACCENT, alpha=0.14, linewidth=0)
    if rho["estimate"] is not None:
        axes.axvline(rho["estimate"], color=style.ACCENT, linewidth=1.6)
    if low < 1 < high:
        axes.axvline(1, color=style.QUIET, linewidth=0.9)
        axes.annotate(" ρ = 1", (1, limit * 2.3), color=style.QUIET, fontsize=8.5)
    axes.set(xlabel="ρ", ylabel="misfit (F statistic)", ylim=(0, limit * 3), xlim=(low, high))
    text = f"{phrasing.percent(study.level, 0)} interval: {phrasing.ends(rho)}"
    paper = {"facecolor": style.PAPER, "edgecolor": "none", "pad": 1.5}
    axes.text(0.5, 0.965, text, transform=axes.transAxes, ha="center", va="top", fontsize=9, bbox=paper)


def profile_of_d(axes: Axes, suite: Suite, study: Study) -> None:
    """Draw the misfit against a fixed irreducible error D, which hardly changes it."""
    table = pd.DataFrame(suite.analysis["d_profile"])
    if table.empty:
        style.say_instead(axes, "an error of 0 leaves no D to profile")
        return
    axes.plot(table["D"], table["delta_aicc"], "o-", color=style.INK, markersize=3.5)
    axes.axhline(2, color=style.QUIET, linewidth=0.9, linestyle=(0, (3, 2)))
    axes.set_xscale("symlog", linthresh=0.25)
    _d_ticks(axes, table)
    axes.set(xlabel="D held at (below 0: unphysical)", ylabel="ΔAICc of A·N^−α·V^−β + D")


def exponents_against_d(axes: Axes, suite: Suite, study: Study) -> None:
    """Draw alpha, beta and rho against a fixed D: alpha and beta depend on it, rho hardly does."""
    table = pd.DataFrame(suite.analysis["d_profile"])
    if table.empty:
        style.say_instead(axes, "an error of 0 leaves no D to profile")
        return
    if not (table[["rho", "alpha", "beta"]] > 0).any(axis=None):
        style.say_instead(axes, "no exponent is above 0")
        return
    for name, letter, line in (("rho", "ρ", "-"), ("alpha", "α", (0, (4, 2))), ("beta", "β", (0, (1, 1.5)))):
        color = style.ACCENT if name == "rho" else style.INK
        positive = table[table[name] > 0]  # the axis is logarithmic
        if len(positive):
            axes.plot(positive["D"], positive[name], linestyle=line, color=color, label=letter)
    axes.set_yscale("log")
    axes.set_xscale("symlog", linthresh=0.25)
    _d_ticks(axes, table)
    low, high = axes.get_ylim()
    style.log_axis(axes, "y", style.decades(low, high))
    axes.set(xlabel="D held at", ylabel="exponents and their ratio")
    axes.legend(loc="best", ncols=3, handlelength=1.6)


def _d_ticks(axes: Axes, table: pd.DataFrame) -> None:
    ticks = [-5.0, -1.0, -0.2, 0.0, 0.2]
    axes.set_xticks([tick for tick in ticks if table["D"].min() <= tick <= max(table["D"].max(), 0.0)])
    axes.minorticks_off()
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", "−"))
