"""The claims of the page and their limits: every sentence is chosen by the numbers that it states."""

import numpy as np
import pandas as pd

from vlmlaw.laws.table import ALL_KINDS
from vlmlaw.report import phrasing
from vlmlaw.report.study import Study, Suite

SATURATED = 0.01  # an error near which a power law ends
HARDLY_MOVES = 0.05  # in error
MOST_MISSING = 8  # cells that a sentence names


def headline(suite: Suite, study: Study) -> str:
    """The main result for a suite in one sentence."""
    side, level = phrasing.side(suite.rho), phrasing.percent(study.level, 0)
    if suite.rho is not None and suite.rho.get("infinite"):
        return str(suite.analysis["verdict"][0])
    if side == "size":
        return f"Error falls faster with LLM size than with visual tokens, shown at the {level} level."
    if side == "tokens":
        return f"Error falls faster with visual tokens than with LLM size, shown at the {level} level."
    if suite.rho is None or suite.index_fit is None or max(suite.index_fit.gains) <= 0:
        return str(suite.analysis["verdict"][0])
    estimate, bounded = suite.rho["estimate"], suite.rho["lower"] is not None or suite.rho["upper"] is not None
    lean = "a larger LLM" if estimate is None or estimate > 1 else "more visual tokens"
    doubt = f"the {level} interval of ρ contains 1" if bounded else f"any ρ agrees with them at the {level} level"
    return f"The cells lean to {lean}, but {doubt}."


def contrast(study: Study) -> list[str]:
    """For each suite, whether rho > 1 or rho < 1 is shown; for each pair of suites, whether their intervals overlap."""
    found = [_shown(suite, study) for suite in study.suites]
    known = [suite for suite in study.suites if suite.rho is not None and not phrasing.gains_nothing(suite.rho)]
    for i, first in enumerate(known):
        for second in known[i + 1 :]:
            verb = (
                "do not overlap: the two differ" if _apart(first, second) else "overlap: these cells do not part them"
            )
            found.append(f"The intervals of ρ of {first.label} and {second.label} {verb}.")
    return found


def _shown(suite: Suite, study: Study) -> str:
    """Whether rho is shown to be above or below 1, by the default interval and by every other method."""
    side = phrasing.side(suite.rho)
    relation = {"size": "ρ > 1", "tokens": "ρ < 1"}.get(side)
    level = phrasing.percent(study.level, 0)
    if phrasing.gains_nothing(suite.rho):
        return f"{suite.label}: error falls neither with LLM size nor with visual tokens, so there is no ρ."
    if relation is None:
        return f"{suite.label}: neither ρ > 1 nor ρ < 1 is shown at the {level} level ({phrasing.rho(suite.rho)})."
    sentence = f"{suite.label}: {relation} is shown at the {level} level ({phrasing.rho(suite.rho)})"
    against = [i for i in suite.analysis["rho_intervals"] if phrasing.side(i) != side]
    if against:
        methods = phrasing.listed([f"{i['method']} {phrasing.ends(i)}" for i in against])
        return f"{sentence}, but not by every method: {methods}."
    shares = any(word in i["method"] for i in suite.analysis["rho_intervals"] for word in ("size", "shared noise"))
    return f"{sentence}, by every method that was tried" + (
        "." if shares else ", all of which take cells as independent."
    )


def _apart(first: Suite, second: Suite) -> bool:
    ends = []
    for suite in (first, second):
        assert suite.rho is not None
        lower, upper = suite.rho["lower"], suite.rho["upper"]
        if suite.rho.get("infinite"):
            lower = upper = np.copysign(np.inf, suite.rho["infinite"])
        ends.append((-np.inf if lower is None else lower, np.inf if upper is None else upper))
    return max(ends[0][0], ends[1][0]) > min(ends[0][1], ends[1][1])


def seed_noise(suite: Suite) -> tuple[float, int] | None:
    """Pooled standard deviation of the error between seeds of a cell, and the number of cells with several seeds."""
    rows = pd.concat([suite.rows, suite.others])
    groups = rows.groupby(["N", "V", "compressor"])["error"]
    table = pd.DataFrame({"variance": groups.var(ddof=1), "n": groups.size()})
    table = table[table["n"] > 1]
    if table.empty:
        return None
    freedom = table["n"] - 1
    return float(np.sqrt((table["variance"] * freedom).sum() / freedom.sum())), len(table)


def limits(study: Study, *, is_miniature: bool) -> list[str]:
    """The limits of these results, one sentence each."""
    found = [_seeds(suite) for suite in study.suites]
    n_sizes = len({n for suite in study.suites for n in suite.fit.cells.sizes})
    if n_sizes < 5:
        found.append(
            f"The laws are fitted to {phrasing.plural(n_sizes, 'size')}: few to tell the noise that cells of one "
            "language model share from the law. The intervals allow for it; those by profile and Fieller do not."
        )
    found += [sentence for suite in study.suites for sentence in (*_wrong_way(suite), *_poor_kinds(suite, study))]
    found += [_missing(suite, study) for suite in study.suites if suite.missing]
    if is_miniature:
        found += [
            "The contrast is partly built into the questions: reasoning asks for facts that the LLM must store, and "
            "reading varies how many letters one visual token must carry. The miniature shows that the method finds "
            "such a contrast, not how large it is in real vision-language models.",
            _drawn_once(study),
        ]
    return found


def _drawn_once(study: Study) -> str:
    if study.experiment.get("grid", {}).get("pretrain_each_seed"):
        return "The pictures and texts were drawn once: noise between data sets is in no interval here."
    return (
        "Each language model was pretrained once, with one seed, and the pictures were drawn once: noise between "
        "pretrainings and between data sets is in no interval here."
    )


def _seeds(suite: Suite) -> str:
    noise = seed_noise(suite)
    if noise is None:
        return (
            f"{suite.label}: no cell was measured with several seeds, so noise between trainings is known only as part "
            f"of the residuals (standard deviation {phrasing.number(suite.fit.sigma, 2)})."
        )
    deviation, n_cells = noise
    return (
        f"{suite.label}: error differs between seeds of one cell with a standard deviation of "
        f"{phrasing.number(deviation, 2)} ({phrasing.plural(n_cells, 'cell')} with several seeds); the law's residuals "
        f"have {phrasing.number(suite.fit.sigma, 2)}."
    )


def _wrong_way(suite: Suite) -> list[str]:
    """A sentence on sizes whose error at the most tokens exceeds that at fewer by more than two standard errors."""
    cells = suite.rows.groupby(["N", "V"]).agg(error=("error", "mean"), se=("error_se", "max")).fillna(0.0)
    most, worse, n_sizes = suite.v_range[1], 0, 0
    for _, of_size in cells.reset_index().groupby("N"):
        last, fewer = of_size[of_size["V"] == most], of_size[of_size["V"] < most]
        if last.empty or fewer.empty:
            continue
        n_sizes += 1
        best = fewer.loc[fewer["error"].idxmin()]
        worse += bool(last["error"].iloc[0] - best["error"] > 2 * np.hypot(last["se"].iloc[0], best["se"]))
    if not worse:
        return []
    return [
        f"{suite.label}: in {worse} of {phrasing.plural(n_sizes, 'size')} the error at V = {most:g} is higher than at "
        "fewer tokens, which raises ρ. Long prefixes that were trained too briefly are one cause."
    ]


def _poor_kinds(suite: Suite, study: Study) -> list[str]:
    moving = {kind.name: np.ptp(kind.rows.groupby(["N", "V"])["error"].mean()) for kind in study.kinds[suite.label]}
    still = [name for name, spread in moving.items() if spread < HARDLY_MOVES]
    solved = [kind.name for kind in study.kinds[suite.label] if kind.rows["error"].min() < SATURATED]
    found = []
    if still:
        says = "this kind says" if len(still) == 1 else "these kinds say"
        found.append(
            f"{suite.label}: error on {phrasing.listed(still)} moves by less than {HARDLY_MOVES:g} over the whole "
            f"grid: {says} little about size or tokens."
        )
    if solved:
        found.append(
            f"{suite.label}: {phrasing.listed(solved)} fell below an error of {SATURATED:g} in some cells, near the "
            "floor where a power law ends."
        )
    return found


def _missing(suite: Suite, study: Study) -> str:
    places = [f"{study.name_of(n)} with V = {v:g}" for n, v in suite.missing]
    shown = places[:MOST_MISSING] + ([f"{len(places) - MOST_MISSING} more"] if len(places) > MOST_MISSING else [])
    return f"{suite.label}: {phrasing.plural(len(places), 'cell')} missing and not fitted: {phrasing.listed(shown)}."


def what_was_run(study: Study) -> dict[str, str]:
    """The grid in numbers: cells, sizes, token counts, compressors, seeds and questions."""
    frame = study.measurements.frame
    whole = frame[frame["kind"] == ALL_KINDS] if (frame["kind"] == ALL_KINDS).any() else frame
    compressors = [name for name in dict.fromkeys(whole["compressor"]) if name]
    seeds = sorted({seed for seed in whole["seed"] if seed})
    facts = {
        "cells": phrasing.whole(whole.drop_duplicates(["N", "V", "compressor", "seed"]).shape[0]),
        "LLM sizes": ", ".join(size.name + (" (held out)" if size.held_out else "") for size in study.sizes),
        "visual tokens": ", ".join(f"{v:g}" for v in sorted(whole["V"].unique())),
    }
    if compressors:
        facts["compressors"] = ", ".join(compressors)
    if seeds:
        facts["seeds"] = ", ".join(seeds)
    asked = whole.groupby("suite")["n_questions"].max().dropna()
    if len(asked):
        facts["questions a cell"] = ", ".join(f"{suite} {phrasing.whole(n)}" for suite, n in asked.items())
    return facts


def cost(study: Study) -> str:
    """The FLOPs to read one image with one question, in one sentence; "" if the table has no FLOPs."""
    frame = study.measurements.frame
    if not {"llm_flops", "vision_flops", "compressor_flops"} <= set(frame.columns):
        return ""
    llm, rest = frame["llm_flops"], frame["compressor_flops"]
    vision = frame["vision_flops"].dropna()
    if llm.dropna().empty or rest.dropna().empty or vision.empty:
        return ""
    encoder = f"{phrasing.si(vision.min())} in every cell"
    if vision.nunique() > 1:
        encoder = f"{phrasing.si(vision.min())} to {phrasing.si(vision.max())}"
    return (
        f"To read one image with one question takes the LLM {phrasing.si(llm.min())} to {phrasing.si(llm.max())} "
        f"FLOPs, compressor and projector {phrasing.si(rest.min())} to {phrasing.si(rest.max())}, and the encoder "
        f"{encoder}. The frontier counts the LLM alone unless the law's options say otherwise."
    )
