"""The tables of the page as headers and rows of text, from the analysis and the measurements."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from vlmlaw.laws.table import ALL_KINDS
from vlmlaw.report import phrasing
from vlmlaw.report.clock import clock_of, name_of, timed_question_tokens
from vlmlaw.report.run_files import Cell, Training
from vlmlaw.report.study import Study, Suite

MAX_BUDGETS = 6


@dataclass(frozen=True)
class Table:
    """A table of text. `left`: columns of words, aligned to the left; `mark`: rows in bold, which `marked` explains."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: Sequence[int] = (0,)
    mark: Sequence[int] = ()
    marked: str = ""
    caption: str = ""
    links: Sequence[str] = ()  # of the first column


def recommended(suite: Suite, study: Study) -> Table:
    """The recommended cell, at budgets where it changes."""
    caption = f"The cell to buy for a budget of FLOPs: {study.cost.name}, Q = {study.question_tokens:g}"
    return _recommended(suite.frontier(study), study, budget="FLOPs", caption=caption)


def recommended_by_time(suite: Suite, study: Study) -> Table | None:
    """The recommended cell for a measured time, where that changes it; None without measured times."""
    clock = clock_of(suite, study)
    if clock is None:
        return None
    caption = f"The cell to buy for a time: {name_of(clock)}, Q = {timed_question_tokens(suite, study):g}"
    unit = "ms" if "ms" in clock.name.split("_") else clock.name
    return _recommended(suite.frontier(study, clock), study, budget=unit, caption=caption)


def _recommended(frontier: pd.DataFrame, study: Study, *, budget: str, caption: str) -> Table:
    changes = frontier[frontier[["N", "V"]].ne(frontier[["N", "V"]].shift()).any(axis=1)]
    if len(changes) > MAX_BUDGETS:
        caption += f"; {MAX_BUDGETS} of the {len(changes)} budgets at which the best cell changes"
        changes = changes.iloc[np.unique(np.linspace(0, len(changes) - 1, MAX_BUDGETS).round().astype(int))]
    rows = [
        [
            phrasing.si(row["budget"]),
            study.name_of(row["N"]),
            f"{row['V']:g}",
            f"{phrasing.error(row['error'])} {phrasing.ends(row)}",
            ", ".join(f"{v:g}" for v in row["flat"]),
        ]
        for row in changes.to_dict("records")
    ]
    return Table([budget, "LLM", "V", "predicted error", "as good"], rows, left=(1, 3, 4), caption=caption)


def law_comparison(suite: Suite, study: Study) -> Table:
    """The fitted laws of a suite, with AICc, weight, error on unseen cells and rho."""
    rows = [
        [
            law["law"] + (f" (at its bound: {law['at_bound']})" if law["at_bound"] else ""),
            phrasing.number(law["delta"]),
            phrasing.number(law["weight"], 2),
            phrasing.number(law["loso"], 2),
            phrasing.number(law["loto"], 2),
            phrasing.number(law["rho"]),
            law["gated"],
        ]
        for law in suite.analysis["laws"]
    ]
    marked = [i for i, law in enumerate(suite.analysis["laws"]) if law["law"] == suite.analysis["law"]]
    return Table(
        ["law", "ΔAICc", "weight", "error on unseen N", "on unseen V", "ρ", "gated out"],
        rows,
        left=(0, 6),
        mark=marked,
        marked="the chosen law",
        caption=suite.analysis["why"],
    )


def parameters(suite: Suite, study: Study) -> Table:
    """The parameters of the law of a suite with their intervals."""
    rows = []
    for row in suite.analysis["summary"]:
        held = row["at_bound"] or row["se"] is None
        se, interval = ("at its bound", "") if held else (phrasing.number(row["se"], 2), phrasing.ends(row))
        rows.append([row["parameter"], phrasing.number(row["estimate"], 4), se, interval, row["meaning"]])
    law, level = suite.analysis, phrasing.percent(study.level, 0)
    caption = f"{law['law']}: {law['formula']}, N in billions; intervals at {level}"
    return Table(
        ["parameter", "estimate", "standard error", "interval", "meaning"], rows, left=(0, 3, 4), caption=caption
    )


def rho_methods(suite: Suite) -> Table:
    """rho and its interval by every method, and averaged over the laws."""
    rows = [[i["method"], phrasing.estimate(i), phrasing.ends(i)] for i in suite.analysis["rho_intervals"]]
    average = suite.analysis["average"]
    if average:
        rows.append(["average over laws", phrasing.number(average["rho"]), f"± {phrasing.number(average['se'], 2)}"])
    return Table(["method", "ρ", "interval"], rows, left=(0, 2), caption="ρ by every method")


def d_profile(suite: Suite) -> Table:
    """The profile of D: exponents and rho at each fixed D."""
    rows = [
        [phrasing.number(row[name], 3) for name in ("D", "alpha", "beta", "rho", "delta_aicc")]
        for row in suite.analysis["d_profile"]
    ]
    caption = "The paper's form A·N^−α·V^−β + D with D held: α and β follow it, ρ hardly does"
    return Table(["D", "α", "β", "ρ", "ΔAICc"], rows, left=(), caption=caption)


def best_tokens(suite: Suite) -> Table:
    """V* with its interval and flat region for each Q; no rows where neither size nor tokens lower the error."""
    rows = [
        [
            f"{row['question_tokens']:g}",
            phrasing.v_star(row).removeprefix("V* = "),
            phrasing.span(row["flat_lower"], row["flat_upper"]),
        ]
        for row in ([] if phrasing.gains_nothing(suite.rho) else suite.analysis["v_star"])
    ]
    return Table(["Q", "V*", "as good"], rows, left=(1, 2), caption="V*(Q), at any fixed budget")


def held_out(suite: Suite, study: Study) -> Table:
    """Measured and predicted errors of the cells held out of the fit."""
    held = suite.analysis["hold_out"]
    rows = [
        [
            study.name_of(cell["N"]),
            f"{cell['V']:g}",
            phrasing.error(cell["error"]),
            phrasing.error(cell["predicted"]),
            phrasing.ends(cell),
            phrasing.percent(cell["relative_error"]),
            "yes" if cell["inside"] else "no",
        ]
        for cell in (held["cells"] if held else [])
    ]
    header = ["LLM", "V", "measured", "predicted", "interval", "deviation", "inside"]
    unseen = phrasing.held_out(suite.analysis, study.name_of) if held else ""
    return Table(header, rows, left=(0, 4, 6), caption=f"{unseen}, predicted without having been seen")


def kinds(suite: Suite, study: Study) -> Table:
    """Error of each kind of question at the fewest and the most tokens for the largest size, and for the smallest."""
    low, high = suite.v_range
    n = suite.rows["N"].max()
    rows = []
    knows_unread = any(_knows_unread(kind.rows) for kind in study.kinds[suite.label])
    for kind in study.kinds[suite.label]:
        ends = [kind.rows[(kind.rows["N"] == n) & (kind.rows["V"] == v)] for v in (low, high)]
        smallest = kind.rows[(kind.rows["N"] == kind.rows["N"].min()) & (kind.rows["V"] == high)]
        questions = kind.rows["n_questions"].max()
        rho = kind.analysis["rho"] if kind.analysis else None
        rows.append(
            [
                kind.name,
                phrasing.whole(questions),
                *(_with_se(part) for part in ends),
                _with_se(smallest),
                *([phrasing.percent(_mean_unread(kind.rows))] if knows_unread else []),
                phrasing.rho(rho).removeprefix("ρ = ") if kind.analysis else "no law",
            ]
        )
    largest, least = study.name_of(n), study.name_of(suite.rows["N"].min())
    header = ["kind", "questions", f"{largest}, V = {low:g}", f"{largest}, V = {high:g}", f"{least}, V = {high:g}"]
    header += ["replies not read", "ρ"] if knows_unread else ["ρ"]
    return Table(header, rows, left=(0, len(header) - 1), caption="Error ± standard error, mean over seeds")


def _knows_unread(rows: pd.DataFrame) -> bool:
    """Whether the share of unread replies is known: of benchmarks that the project itself judged."""
    return "unread" in rows and pd.api.types.is_numeric_dtype(rows["unread"]) and bool(rows["unread"].notna().any())


def _mean_unread(rows: pd.DataFrame) -> float:
    return float(rows["unread"].mean()) if _knows_unread(rows) else np.nan


def _with_se(rows: pd.DataFrame) -> str:
    if rows.empty:
        return "missing"
    se = np.sqrt((rows["error_se"] ** 2).sum()) / len(rows) if rows["error_se"].notna().all() else np.nan
    return phrasing.error(rows["error"].mean()) + ("" if np.isnan(se) else f" ± {phrasing.error(se)}")


def every_cell(study: Study, suite: Suite) -> Table:
    """All measured rows of a suite."""
    measured = pd.concat([suite.rows, suite.others]).sort_values(["N", "V", "compressor", "seed"])
    knows_unread, some_held_out = _knows_unread(measured), bool(measured["held_out"].any())
    rows = [
        [
            study.name_of(row.N),
            f"{row.V:g}",
            row.compressor or phrasing.NOTHING,
            row.seed or phrasing.NOTHING,
            phrasing.error(row.error),
            phrasing.error(row.error_se),
            *([phrasing.percent(row.unread)] if knows_unread else []),
            *(["held out" if row.held_out else ""] if some_held_out else []),
        ]
        for row in measured.itertuples()
    ]
    unread = ["replies not read"] if knows_unread else []
    header = ["LLM", "V", "compressor", "seed", "error", "se", *unread, *(["the law"] if some_held_out else [])]
    return Table(
        header, rows, left=(0, 2, 6 + len(unread)), caption=f"{suite.label}: error of each row, se its standard error"
    )


def compressors(suite: Suite, study: Study) -> Table | None:
    """Cells measured with several compressors, each compared with the compressor of the law; None without any."""
    if suite.others.empty:
        return None
    rows = []
    for (n, v, name), other in suite.others.groupby(["N", "V", "compressor"]):
        base = suite.rows[(suite.rows["N"] == n) & (suite.rows["V"] == v)]
        difference = round(other["error"].mean() - base["error"].mean(), 3) if len(base) else np.nan
        sign = "+" if difference > 0 else ""  # of the rounded difference: 0.000 has none
        rows.append(
            [
                study.name_of(n),
                f"{v:g}",
                str(name),
                _with_se(other),
                _with_se(base),
                phrasing.NOTHING if np.isnan(difference) else sign + phrasing.error(difference + 0.0).replace("-", "−"),
            ]
        )
    base_name = str(suite.rows["compressor"].iloc[0])
    header = ["LLM", "V", "compressor", "error", base_name, "difference"]
    return Table(header, rows, left=(0, 2), caption="Other compressors in the same cells")


def cost(study: Study) -> Table | None:
    """Parameters with and without embeddings, and FLOPs by part; None if the table lacks them."""
    frame = study.measurements.frame
    wanted = ["n_params_total", "n_text_tokens", "llm_flops", "vision_flops", "compressor_flops"]
    if any(name not in frame for name in wanted):
        return None
    first = frame[frame["kind"] == ALL_KINDS].drop_duplicates(["N", "V", "compressor"])
    averaged = "kept_tokens" in first and (first["kept_tokens"].astype(float) - first["V"]).abs().max() > 0.01
    rows = [
        [
            study.name_of(row.N),
            f"{row.V:g}",
            *([phrasing.NOTHING if np.isnan(row.kept_tokens) else f"{row.kept_tokens:g}"] if averaged else []),
            row.compressor or phrasing.NOTHING,
            phrasing.whole(row.N * 1e9),
            phrasing.whole(row.n_params_total),
            phrasing.si(2e9 * row.N * (row.V + row.n_text_tokens)),
            phrasing.si(row.llm_flops),
            phrasing.si(row.compressor_flops),
            phrasing.si(row.vision_flops),
            phrasing.si(row.llm_flops + row.compressor_flops + row.vision_flops),
        ]
        for row in first.sort_values(["N", "V", "compressor"]).itertuples()
    ]
    header = ["LLM", "V", *(["kept"] if averaged else []), "compressor", "N", "with embeddings"]
    header += ["2N(Q+V)", "LLM", "+ compressor", "+ encoder", "all"]
    q = study.measured_question_tokens
    caption = "Parameters of the LLM, and FLOPs to read one image with one question"
    caption += "" if q is None else f" (Q = {q:g})"
    return Table(header, rows, left=(0, 3 if averaged else 2), caption=caption)


def trainings(others: Sequence[Training], cells: Sequence[Cell], *, links: Sequence[str] = ()) -> Table:
    """Last loss, steps, time and memory of every training; `links` lead to their folders."""
    rows = [
        [
            training.name,
            phrasing.number(training.last_loss),
            phrasing.whole(training.steps),
            phrasing.seconds(training.wall_seconds),
            phrasing.seconds(training.cpu_seconds),
            f"{training.peak_memory_mib:.0f} MiB",
        ]
        for training in [*others, *cells]
    ]
    header = ["training", "last loss", "steps", "wall time", "CPU time", "peak memory"]
    return Table(header, rows, caption="Each links to its folder, with resolved settings", links=links)
