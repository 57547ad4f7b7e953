"""Sentences and tables of a measurement of released models, for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vlmlaw.evaluation.backends.interface import TRAINED_HERE
from vlmlaw.evaluation.measuring.conclude import Conclusions
from vlmlaw.evaluation.measuring.decide import Blind
from vlmlaw.evaluation.measuring.family_law import FamilyLaw
from vlmlaw.evaluation.measuring.law_check import LawCheck
from vlmlaw.report.tables import Table


def cells_table(found: Conclusions) -> Table:
    """Every measured cell: tokens as counted, error with its interval, times."""
    decision, level = found.decision, found.decision.wishes.level
    rows, mark = [], []
    for row in found.measured.table.to_dict("records"):
        error = found.paired.error(row["cell"], level=level)
        least, most = row["v_least"], row["v_most"]
        spread = f" ({least:.0f}-{most:.0f})" if np.isfinite([least, most]).all() and least != most else ""
        rows.append(
            [
                row["model"],
                row["budget"],
                _visual_tokens(row["n_visual_tokens"], counted=row["v_source"] == "counted") + spread,
                _number(row["n_text_tokens"], 0),
                _number(row["n_generated_tokens"], 1),
                f"{row['error']:.3f}",
                f"{row['error_se']:.3f}",
                f"{error.lower:.3f}-{error.upper:.3f}",
                _number(row["first_token_ms"], 0),
                _number(row["total_ms"], 0),
                _number(row["total_ms_p95"], 0),
            ]
        )
        if row["cell"] == decision.good_enough:
            mark.append(len(rows) - 1)
    head = ["model", "asked", "V", "Q", "G", "error", "se", f"{level:.0%}", "first ms", "ms", "p95"]
    n = found.paired.n_questions
    caption = (
        f"{n} questions on {found.paired.n_clusters} images, judged by {found.metric}; se clustered by image. V, Q, G: "
        "visual, text and generated tokens, means as counted, with the least and most V of an image; a question mark "
        "where V was not counted. Times: medians, "
        "and the 95th percentile of a whole reply."
    )
    return Table(head, rows, left=(0, 7), mark=mark, marked="the cell to take", caption=caption)


def pairs_table(found: Conclusions) -> Table:
    """Every other cell beside the best one: how sure the difference is."""
    decision, paired = found.decision, found.paired
    b, rows = decision.best, []
    for a in (cell for cell in paired.cells if cell != b):
        apart = paired.difference(a, b, level=decision.wishes.level)
        more = paired.questions_to_tell(a, b, level=decision.wishes.level)
        rows.append(
            [
                a,
                f"{apart.value:+.3f}",
                f"{apart.lower:+.3f} to {apart.upper:+.3f}",
                f"{decision.bound[a]:.3f}",
                f"{decision.confidence[a]:.0%}",
                "told apart" if apart.excludes_zero else ("the same" if not np.isfinite(more) else f"{more:,.0f}"),
                _cost(decision.cost[a]),
            ]
        )
    wishes = decision.wishes
    head = [
        f"beside {decision.best}",
        "difference",
        f"{wishes.level:.0%} interval",
        "worse by at most",
        f"not worse by {wishes.worse_by:g}",
        "questions more",
        wishes.cost,
    ]
    caption = (
        'Paired differences of the error. "Worse by at most" and the confidence hold for all cells at once, against '
        f'whichever cell is truly best. "Questions more": how many would tell the two apart ({wishes.level:.0%}, power '
        "80 %) were they as different as measured."
    )
    return Table(head, rows, left=(0, 2, 5), caption=caption)


def answer(found: Conclusions) -> list[str]:
    """What to take, in a few sentences; the first one is the answer."""
    decision, wishes = found.decision, found.decision.wishes
    error = dict(zip(found.paired.cells, found.paired.errors_K.tolist(), strict=True))
    blind = set(found.measured.table.cell[found.measured.table.budget == "0"])
    cost, n = decision.cost, found.paired.n_questions
    best = f"{decision.best} (error {error[decision.best]:.3f}, {_cost(cost[decision.best])} {wishes.cost})"
    good = decision.good_enough
    if error[decision.best] == 1:
        return [
            f"No cell is right in any of the {n} questions, so there is nothing to choose among. Look at `said` in "
            "questions.csv: the metric or the instruction may not be that of these answers, or the models too small."
        ]
    if good is None:
        closest = min(decision.bound, key=lambda cell: decision.bound[cell])
        lines = [
            f"No cell can be called as good as the best within {wishes.worse_by:g} at {wishes.level:.0%} confidence "
            f"from {n} questions; the least that can be said is of {closest}: at most {decision.bound[closest]:.3f} "
            f"worse. Ask more questions, or allow more by --worse-by. The best as measured is {best}."
        ]
    else:
        lines = [
            f"Take {good}: error {error[good]:.3f}, {_cost(cost[good])} {wishes.cost}. It is the cheapest that is not "
            f"worse than the best by more than {wishes.worse_by:g} (confidence {decision.confidence[good]:.1%})."
        ]
        if good in blind:
            lines.append("It is not shown the image, which gains nothing here that these questions could show.")
        if good != decision.best:
            lines.append(f"The best as measured is {best}.")
    lines.append(f"Front of error against {decision.unit}: {', '.join(decision.front)}.")
    return lines + _limit(found, error)


def _limit(found: Conclusions, error: dict[str, float]) -> list[str]:
    decision, limit = found.decision, found.decision.wishes.limit_ms
    if limit is None:
        return []
    if decision.best_fitting is None:
        fastest = found.measured.table.sort_values("total_ms_p95").iloc[0]
        return [
            f"Nothing fits {limit:g} ms in 95 of 100 replies; the fastest is {fastest.cell} with "
            f"{fastest.total_ms_p95:.0f} ms."
        ]
    chosen = decision.best_fitting
    tail = ""
    if decision.beside_best is not None:
        apart = decision.beside_best
        tail = f", {apart.value:+.3f} beside the best ({apart.lower:+.3f} to {apart.upper:+.3f})"
    return [
        f"Within {limit:g} ms (95 of 100 replies) fit {len(decision.fitting)} of {len(decision.bound)} cells; the best "
        f"of them is {chosen}, error {error[chosen]:.3f}{tail}."
    ]


def further(found: Conclusions) -> list[str]:
    """What else the questions say: without the image, of a perfect router, of a rule."""
    lines = [_blind(one) for one in found.blind]
    routed, wishes = found.routed, found.decision.wishes
    if routed.best_cost > 0:
        lines.append(
            f"A perfect router, which knows the cheapest right cell of each question, would err in {routed.error:.3f} "
            f"at {_cost(routed.cost)} {wishes.cost}; at the error of the best cell it would need "
            f"{_cost(routed.cost_at_best_error)} in place of {_cost(routed.best_cost)}. No router does better, and "
            "part of that is luck."
        )
    for rule in found.rules:
        taken = "; ".join(f"{name}: {cell}" for name, cell in rule.cells.items())
        lines.append(
            f"A rule by {rule.by} holds on images that it was not chosen on: {taken}. It saves {rule.saving:.0%} of "
            f"the {wishes.cost} of a single cell, for a difference in error of {rule.difference.value:+.3f} "
            f"({rule.difference.lower:+.3f} to {rule.difference.upper:+.3f})."
        )
    if not found.rules:
        lines.append("No rule by kind, suite or image size saves anything that holds on images it was not chosen on.")
    return lines


def _blind(one: Blind) -> str:
    if one.right_without == 0:
        return f"{one.model} is right in none without the image; the image decides {one.gained:.0%} ({one.cell})."
    of_right = f"of what was right without it, {one.lost:.0%} is wrong with it"
    if one.right_without == 1:
        return f"{one.model} is right in all without the image: these questions need none; {of_right} ({one.cell})."
    return (
        f"{one.model} is right in {one.right_without:.0%} without the image. Of the rest the image decides "
        f"{one.gained:.0%} ({one.cell}); {of_right}."
    )


def loads_table(found: Conclusions) -> Table | None:
    """Cells under several questions at a time; None where none was put under load."""
    rows = [
        [
            load.cell,
            str(load.concurrency),
            f"{load.requests_per_second:.3g}",
            "" if load.tokens_per_second != load.tokens_per_second else f"{load.tokens_per_second:.3g}",
            _number(load.first_token_ms, 0),
            _number(load.total_ms, 0),
            _number(load.total_ms_p95, 0),
        ]
        for load in found.measured.loads
    ]
    head = ["cell", "at a time", "requests/s", "tokens/s", "first ms", "ms", "p95"]
    caption = (
        "Under load: as one reply ends the next question is sent. Questions come again, so a server's prefix cache "
        "makes it faster than with new images."
    )
    return Table(head, rows, left=(0,), caption=caption) if rows else None


def laws(found: Conclusions) -> list[str]:
    """The law of each family, and why the others have none. It is second to the measured cells."""
    lines = []
    for law in found.laws:
        _, a, b, d = law.coefficients
        low, high = law.gain_of_size
        line = (
            f"{law.family}: logit(1 - error) = c {a:+.2f} ln N {b:+.2f} ln V {d:+.3f} (ln V)^2 over {law.n_cells} "
            f"cells, off by {law.rms:.3f} (rms). Gain of an e-fold of N: {low:.2f} to {high:.2f} (95 %)"
        )
        line += "." if law.family == TRAINED_HERE else ", of this catalogue: its sizes differ in data and recipe, too."
        if law.peak is not None and law.peak_interval is not None:
            line += (
                f" More tokens come to hurt: the least error is at V = {law.peak:.0f} "
                f"({law.peak_interval[0]:.0f} to {law.peak_interval[1]:.0f})."
            )
        else:
            line += f" No V between the fewest and the most is surely the best: the law's error {_course(law)}."
        lines.append(line)
    lines += [_check(check, found.decision.wishes.cost) for check in found.checks]
    return [*lines, *(f"{why[:1].upper()}{why[1:]}." for why in found.without_law)]


def _course(law: FamilyLaw) -> str:
    """How the law's error goes along the measured V, where no peak of the score is sure."""
    few, many = law.slope(min(law.v)) > 0, law.slope(max(law.v)) > 0
    courses = {
        (True, True): "falls to the most tokens",
        (False, False): "rises from the fewest tokens on",
        (True, False): "falls and then rises, which may be chance",
        (False, True): "rises and then falls",
    }
    return courses[few, many]


def filled_tables(found: Conclusions) -> list[Table]:
    """Of each law, its models by V: measured errors, and for what is not measured the law's, with an interval."""
    tables, level = [], found.decision.wishes.level
    for law in found.laws:
        sizes = dict(sorted(zip(law.models, law.n, strict=True), key=lambda pair: pair[1]))
        columns, rows = law.columns(), []
        for model, n in sizes.items():
            row = [model]
            for v in columns:
                error, (low, high) = law.measured(model, v), law.interval(n, v, level=level)
                row.append(f"~{law.error(n, v):.3f} ({low:.3f}-{high:.3f})" if error is None else f"{error:.3f}")
            rows.append(row)
        caption = (
            f"{law.family}: errors as measured, and with ~ what the law expects of cells that are not measured, with "
            f"the {level:.0%} interval of such a cell. Measure one before you take it; `vlmlaw law next` says which "
            "first."
        )
        tables.append(Table(["model", *(f"V\u00a0=\u00a0{v:.0f}" for v in columns)], rows, caption=caption))
    return tables


def _check(check: LawCheck, cost: str) -> str:
    ranking, measured = check.beside_ranking, check.beside_measured
    return (
        f"{check.family}: within each of {check.n_limits} limits of {cost} the law, fitted on other images, chose "
        f"better than a ranking of the models at their fewest tokens {_times(check.better)}, as well "
        f"{_times(check.same)}, worse {_times(check.worse)}: {ranking.value:+.3f} in error ({ranking.lower:+.3f} to "
        f"{ranking.upper:+.3f}). Beside a choice by the measured errors themselves: {measured.value:+.3f} "
        f"({measured.lower:+.3f} to {measured.upper:+.3f})."
    )


def least_table(found: Conclusions) -> Table:
    """For each model, the share of questions by the least V at which they are right."""
    order = list(dict.fromkeys(found.least.budget))
    order = [name for name in order if name != "never"] + ["never"]
    wide = found.least.pivot(index="model", columns="budget", values="share")[order]
    wide = wide.loc[[*dict.fromkeys(found.least.model)]]  # as they were asked
    rows = [
        [str(model), *(_share(value) for value in row)] for model, row in zip(wide.index, wide.to_numpy(), strict=True)
    ]
    return Table(["model", *order], rows, caption="Share of the questions by the least V at which they are right")


def cautions(found: Conclusions) -> Sequence[str]:
    """What to know before the numbers are trusted."""
    return [
        *found.measured.warnings,
        *(f"{cell} is left out: {why}" for cell, why in found.measured.incomplete.items()),
    ]


def _number(value: float | None, digits: int) -> str:
    return "" if value is None or value != value else f"{value:.{digits}f}"


def _visual_tokens(value: float, *, counted: bool) -> str:
    """V of a cell; with a question mark where it is not counted, and alone where it is not known at all."""
    return _number(value, 0) + ("" if counted and np.isfinite(value) else "?")


def _cost(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def _times(n: int) -> str:
    return {0: "never", 1: "once"}.get(n, f"{n} times")


def _share(value: float) -> str:
    return "" if value != value else f"{value:.0%}"
