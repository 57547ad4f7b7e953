"""Comparison of compressors: their errors at each V, their laws, and the best one at each budget.

There is a comparison if several compressors were measured in the same cells. Intervals are error +- z se over the test
questions; they do not include the noise between trainings.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from vlmlaw.laws.table import ALL_KINDS, MEAN_OF_SUITES
from vlmlaw.report import phrasing
from vlmlaw.report.figures import style
from vlmlaw.report.study import Study
from vlmlaw.report.tables import Table

OWN, ELASTIC, AT_INFERENCE = "trained at each V", "one training for every V", "applied at inference"
WAYS = (OWN, ELASTIC, AT_INFERENCE)
SHORT = {OWN: "at each V", ELASTIC: "for every V", AT_INFERENCE: "at inference"}  # in tables
BASELINE = {OWN: "average", ELASTIC: "average", AT_INFERENCE: "average_at_inference"}  # plain pooling of each way
LOWER, HIGHER, ALIKE = "a lower error with", "a higher one with", "not told apart"
UNJUDGED = "not judged, for want of standard errors,"
MARKS = "osD^vP*X<>hdp"


@dataclass(frozen=True, eq=False)
class Comparison:
    """The rows of whole suites, averaged over seeds, with the training way and the cost (FLOPs) of each.

    frame: suite, N, V, compressor, way, error, error_se, cost; a row for each suite and cell. cost_name describes the
    cost.
    """

    frame: pd.DataFrame
    cost_name: str

    @property
    def suites(self) -> list[str]:
        return list(dict.fromkeys(self.frame["suite"]))

    def of(self, suite: str, way: str | None = None) -> pd.DataFrame:
        rows = self.frame[self.frame["suite"] == suite]
        return rows if way is None else rows[rows["way"] == way]

    @property
    def color_of(self) -> dict[str, tuple[str, str]]:
        """A colour and a mark for each compressor, the same in every panel."""
        import seaborn as sns

        names = list(dict.fromkeys(self.frame["compressor"]))
        palette = [color for i, color in enumerate(sns.color_palette("colorblind", 10).as_hex()) if i != 7]  # 7 is grey
        return {name: (palette[i % len(palette)], MARKS[i % len(MARKS)]) for i, name in enumerate(names)}


def compare(study: Study) -> Comparison | None:
    """The comparison of a study, or None if no two compressors share cells."""
    table = study.measurements
    if not table.compressors_share_cells:
        return None
    whole = table.frame[(table.frame["kind"] == ALL_KINDS) & (table.frame["suite"] != MEAN_OF_SUITES)]
    whole = whole.assign(way=_ways(whole), cost=_costs(whole, study))
    keys = ["suite", "N", "V", "compressor", "way"]
    grouped = whole.groupby(keys, sort=False)
    frame = grouped.agg(
        error=("error", "mean"),
        error_se=("error_se", lambda se: np.sqrt((se**2).sum(skipna=False)) / len(se)),
        cost=("cost", "first"),
    ).reset_index()
    order = {way: place for place, way in enumerate(WAYS)}
    frame = frame.assign(rank=frame["way"].map(order)).sort_values(["suite", "rank", "compressor", "N", "V"])
    measured = "llm_flops" in whole
    name = "FLOPs of LLM, compressor, projector and pass over the question" if measured else study.cost.name
    return Comparison(frame.drop(columns="rank").reset_index(drop=True), name)


def _ways(rows: pd.DataFrame) -> pd.Series:
    """How the compressor of each row was trained, by the name of its training: one of OWN, ELASTIC, AT_INFERENCE."""
    named = rows["training"] != ""
    pairs = zip(rows["compressor"], rows["training"], strict=True)
    foreign = named & np.array([f"_{name}_" not in training for name, training in pairs])
    shared = rows.groupby(["training", "compressor"])["V"].transform("nunique") > 1
    has_v = rows["training"].str.contains(r"_v\d+_")
    return pd.Series(
        np.select([foreign, named & (shared | ~has_v)], [AT_INFERENCE, ELASTIC], default=OWN), index=rows.index
    )


def _costs(rows: pd.DataFrame, study: Study) -> "pd.Series | np.ndarray":
    if {"llm_flops", "compressor_flops"} <= set(rows.columns):
        return rows["llm_flops"] + rows["compressor_flops"]
    return study.cost.of(rows["N"], rows["V"])


def interval(error: float, se: float, *, level: float) -> tuple[float, float]:
    """The normal interval of an error with this standard error, clipped to [0, 1]."""
    z = NormalDist().inv_cdf(0.5 + level / 2)
    return max(error - z * se, 0.0), min(error + z * se, 1.0)


def _shown(rows: pd.DataFrame, *, level: float) -> str:
    if rows.empty:
        return ""
    row = rows.iloc[0]
    if np.isnan(row["error_se"]):
        return phrasing.error(row["error"])
    lower, upper = interval(row["error"], row["error_se"], level=level)
    return f"{phrasing.error(row['error'])} [{phrasing.error(lower)}, {phrasing.error(upper)}]"


# --------------------------------------------------------------------------- tables


def errors(found: Comparison, suite: str, study: Study) -> list[Table]:
    """The errors of a suite, a table for each size: a row for each compressor, a column for each V.

    A size at which one compressor alone was measured compares nothing and has no table.
    """
    tables = []
    rows = found.of(suite)
    for n, of_size in rows.groupby("N"):
        tokens = sorted(of_size["V"].unique())
        lines, least = [], of_size.groupby("V")["error"].min()
        for (way, name), of_name in of_size.groupby(["way", "compressor"], sort=False):
            cells = []
            for v in tokens:
                here = of_name[of_name["V"] == v]
                best = len(here) and here["error"].iloc[0] == least[v]
                cells.append(_shown(here, level=study.level) + (" ◂" if best else ""))
            lines.append([str(name), SHORT[str(way)], *cells])
        if len(lines) < 2:
            continue
        caption = f"{suite}, {study.name_of(float(n))}: error with its {phrasing.percent(study.level, 0)} interval"  # type: ignore[arg-type]
        header = ["compressor", "weights", *(f"V = {v:g}" for v in tokens)]
        tables.append(Table(header, lines, left=(0, 1), caption=f"{caption}; ◂ the least at that V"))
    return tables


def laws(found: Comparison, suite: str, study: Study) -> Table:
    """The law of each compressor, or the reason why it has none."""
    ways = dict(zip(found.frame["compressor"], found.frame["way"].map(SHORT), strict=True))
    fits = [part for part in study.law["fits"] if part["suite"] == suite and part["kind"] == ALL_KINDS]
    alone = str(study.law["provenance"]["options"].get("where", {}).get("compressor", ""))  # where one was selected
    rows = []
    for part in fits:
        name = str(part.get("compressor") or alone)
        star = min(part["v_star"], key=lambda row: abs(row["question_tokens"] - study.question_tokens))
        at = star["question_tokens"]
        rows.append(
            [
                name,
                ways.get(name, ""),
                part["law"],
                phrasing.rho(part["rho"]).removeprefix("ρ = "),
                phrasing.advice(part["rho"]),
                phrasing.best(part["rho"], star, at=at).removeprefix("V* = "),
                phrasing.percent(part["r_squared"], 0),
            ]
        )
    for group in study.law["skipped"]:
        if group["suite"] == suite and group["kind"] == ALL_KINDS and group.get("compressor"):
            why = [phrasing.NOTHING, str(group["why"]).partition(";")[0], "", "", ""]
            rows.append([group["compressor"], ways.get(group["compressor"], ""), *why])
    header = ["compressor", "weights", "law", "ρ", "so", "V*", "R²"]
    return Table(header, rows, left=(0, 1, 2, 3, 4, 5), caption=f"{suite}: the law of each compressor")


def winners(found: Comparison, suite: str, study: Study) -> Table:
    """The measured cell of least error at each budget where it changes, and the compressors not told apart from it."""
    rows = found.of(suite)
    lines = []
    for budget, best, affordable in _steps(rows):
        difference = affordable["error"] - best["error"]
        noise = np.hypot(affordable["error_se"], best["error_se"])
        z = NormalDist().inv_cdf(0.5 + study.level / 2)
        is_other = affordable["compressor"] != best["compressor"]
        as_good = affordable[(difference <= z * noise) & is_other]
        named = [f"{name} ({of['V'].min():g})" for name, of in as_good.groupby("compressor", sort=False)]
        is_known = bool(noise[is_other].notna().all())  # where it is not, nothing is shown to be worse
        lines.append(
            [
                phrasing.si(budget),
                study.name_of(best["N"]),
                str(best["compressor"]),
                f"{best['V']:g}",
                _shown(best.to_frame().T, level=study.level),
                ", ".join(named) or ("none" if is_known else "not known: no standard errors"),
            ]
        )
    header = ["FLOPs", "LLM", "compressor", "V", "error", "not told apart from it (fewest V)"]
    caption = f"{suite}: the measured cell of least error at each budget; {found.cost_name}"
    return Table(header, lines, left=(1, 2, 4, 5), caption=caption)


def _steps(rows: pd.DataFrame) -> list[tuple[float, pd.Series, pd.DataFrame]]:
    """A tuple (budget, best cell, affordable cells) for each cost at which the best affordable cell changes."""
    steps: list[tuple[float, pd.Series, pd.DataFrame]] = []
    for budget in sorted(rows["cost"].unique()):
        affordable = rows[rows["cost"] <= budget]
        best = affordable.loc[affordable["error"].idxmin()]
        if not steps or best.name != steps[-1][1].name:
            steps.append((float(budget), best, affordable))
    return steps


@dataclass(frozen=True)
class Difference:
    """Error of a compressor minus that of plain pooling: the mean over `n_cells` common cells, with its interval.

    lower, upper: nan where a standard error is not known.
    """

    suite: str
    compressor: str
    way: str
    beside: str
    n_cells: int
    mean: float
    lower: float
    upper: float

    @property
    def verdict(self) -> str:
        if np.isnan(self.lower):
            return UNJUDGED
        return LOWER if self.upper < 0 else HIGHER if self.lower > 0 else ALIKE


def _difference_text(difference: Difference) -> str:
    if np.isnan(difference.lower):
        return f"{difference.mean:+.3f}"
    return f"{difference.mean:+.3f} [{difference.lower:+.3f}, {difference.upper:+.3f}]"


def differences(found: Comparison, suite: str, *, level: float) -> list[Difference]:
    """Every compressor compared with average pooling trained in the same way; an elastic one with `average`.

    The two errors of a pair are treated as independent although the questions are the same, so intervals are wide.
    """
    rows, z = found.of(suite), NormalDist().inv_cdf(0.5 + level / 2)
    made = []
    for (way, name), own in rows.groupby(["way", "compressor"], sort=False):
        beside = BASELINE[str(way)]
        pairs = own.merge(rows[rows["compressor"] == beside], on=["N", "V"], suffixes=("", "_base"))
        if name in BASELINE.values() or pairs.empty:
            continue
        mean = float((pairs["error"] - pairs["error_base"]).mean())
        variance = (pairs["error_se"] ** 2 + pairs["error_se_base"] ** 2).sum(skipna=False)  # nan if one is not known
        noise = z * float(np.sqrt(variance)) / len(pairs)
        made.append(Difference(suite, str(name), str(way), beside, len(pairs), mean, mean - noise, mean + noise))
    return made


def beside_pooling(found: Comparison, study: Study) -> Table:
    """A row for each compressor: its error minus that of plain pooling, in each suite."""
    of_suite = {suite: differences(found, suite, level=study.level) for suite in found.suites}
    of_name: dict[str, dict[str, Difference]] = {}
    for suite, those in of_suite.items():
        for one in those:
            of_name.setdefault(one.compressor, {})[suite] = one
    lines = []
    for name, by_suite in of_name.items():
        any_suite = next(iter(by_suite.values()))
        cells = [_difference_text(by_suite[suite]) if suite in by_suite else phrasing.NOTHING for suite in found.suites]
        lines.append([name, SHORT[any_suite.way], any_suite.beside, str(any_suite.n_cells), *cells])
    level = phrasing.percent(study.level, 0)
    caption = (
        f"error less plain pooling's in the same cells, their mean with its {level} interval; below zero is better"
    )
    return Table(["compressor", "weights", "beside", "cells", *found.suites], lines, left=(0, 1, 2), caption=caption)


def sentences(found: Comparison, study: Study) -> list[str]:
    """The findings of the comparison as sentences, each chosen by the numbers that it states."""
    said = []
    for suite in found.suites:
        names = [str(best["compressor"]) for _, best, _ in _steps(found.of(suite))]
        counted = sorted({name: names.count(name) for name in names}.items(), key=lambda item: (-item[1], item[0]))
        winners = phrasing.listed([f"{name} at {count}" for name, count in counted])
        if len(names) == 1:
            said.append(f"{suite}: one cell has the least error at every budget; its compressor is {names[0]}.")
        else:
            said.append(
                f"{suite}: the cell of least error changes at {len(names)} budgets; its compressor is "
                f"{winners} of them."
            )
        judged = differences(found, suite, level=study.level)
        parts = [
            f"{verdict} {phrasing.listed(those)}"
            for verdict in (LOWER, HIGHER, ALIKE, UNJUDGED)
            if (those := [one.compressor for one in judged if one.verdict == verdict])
        ]
        if parts:
            said.append(f"{suite}, beside plain average pooling in the same cells: {'; '.join(parts)}.")
    if found.frame["error_se"].notna().any():
        said.append(
            "Intervals are of the test questions: two cells of one V are asked the same ones, so the difference of two "
            "is surer than their intervals suggest, and what another seed of the training would do is in none of them."
        )
    return said


# --------------------------------------------------------------------------- figures


def draw_errors(axes: Axes, found: Comparison, suite: str, way: str, n: float, *, level: float) -> None:
    """Draw error against V with intervals for the compressors of one way at one size; the others in grey behind."""
    rows, z = found.of(suite), NormalDist().inv_cdf(0.5 + level / 2)
    rows = rows[rows["N"] == n]
    for _, of_name in rows[rows["way"] != way].groupby("compressor"):
        axes.plot(of_name["V"], of_name["error"], color=style.QUIET, alpha=0.28, linewidth=0.9, zorder=1)
    for name, of_name in rows[rows["way"] == way].groupby("compressor", sort=False):
        color, mark = found.color_of[str(name)]
        axes.errorbar(
            of_name["V"],
            of_name["error"],
            yerr=z * of_name["error_se"].fillna(0.0),
            color=color,
            marker=mark,
            markersize=5,
            linewidth=1.3,
            elinewidth=1.0,
            label=style.shortened(str(name), 28),
            zorder=3,
        )
    style.token_axis(axes, sorted(rows["V"].unique()))
    axes.set_ylabel("error")
    axes.legend(fontsize=7.6, handlelength=1.6, labelspacing=0.25)


def draw_budget(axes: Axes, found: Comparison, suite: str) -> None:
    """Draw each cell's error against its cost, and the least error at each budget; its compressors are in colour."""
    rows = found.of(suite)
    steps = _steps(rows)
    winners = list(dict.fromkeys(str(best["compressor"]) for _, best, _ in steps))
    others = rows[~rows["compressor"].isin(winners)]
    if len(others):
        axes.plot(others["cost"], others["error"], ".", color=style.QUIET, markersize=4, alpha=0.5, label="others")
    for name in winners:
        color, mark = found.color_of[name]
        own = rows[rows["compressor"] == name]
        axes.plot(own["cost"], own["error"], mark, color=color, markersize=4.6, label=style.shortened(name, 28))
    budgets = [budget for budget, _, _ in steps] + [float(rows["cost"].max()) * 1.15]
    least = [best["error"] for _, best, _ in steps]
    axes.step(budgets, [*least, least[-1]], where="post", color=style.ACCENT, linewidth=1.4, zorder=1)
    axes.legend(fontsize=7.6, handlelength=1.2, labelspacing=0.25)
    low, high = float(rows["cost"].min()) / 1.15, float(rows["cost"].max()) * 1.2
    style.log_axis(axes, "x", style.decades(low, high), phrasing.si)
    axes.set(xlabel="FLOPs for a question on an image", ylabel="error", xlim=(low, high))


def shown_size(found: Comparison) -> float:
    """The size N that the figure shows: the one with the most compressors, the largest of several."""
    counts = found.frame.groupby("N")["compressor"].nunique()
    return float(counts[counts == counts.max()].index.max())


def ways_of(found: Comparison) -> Sequence[str]:
    """The training ways that occur in the comparison, in the order of WAYS."""
    present = set(found.frame["way"])
    return [way for way in WAYS if way in present]
