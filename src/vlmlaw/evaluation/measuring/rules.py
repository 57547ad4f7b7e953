"""Rules that send some questions to one cell and the others to another, by suite, kind or image size; if one holds.

A rule is chosen on four fifths of the images and judged on the fifth that it has not seen, five times, beside a single
cell that was chosen in the same way. It holds if it is cheaper there and not worse.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from vlmlaw.evaluation.measuring.decide import Decision
from vlmlaw.evaluation.measuring.paired import Interval, Paired

FOLDS = 5
LEAST = 20  # questions of a group
SAVING = 0.05  # of the cost, below which a rule is not worth its trouble


@dataclass(frozen=True)
class Rule:
    """Which cell takes which questions, what it saves on questions that it was not chosen on, and how it errs there."""

    by: str
    cells: Mapping[str, str]
    saving: float
    difference: Interval  # of its error to the single cell's

    def holds(self, *, worse_by: float) -> bool:
        return len(set(self.cells.values())) > 1 and self.saving >= SAVING and self.difference.upper <= worse_by


def rules(judged: pd.DataFrame, decision: Decision) -> list[Rule]:
    """The rules that hold, the one that saves most first."""
    first = judged.drop_duplicates("question").set_index("question")
    pixels = first.height * first.width
    splits = {"kind": first.kind.replace("", "other"), "suite": first.suite}
    if (pixels > 0).any():
        middle = pixels[pixels > 0].median()
        side = np.sqrt(middle)
        words = np.where(pixels > middle, f"above {side:.0f} x {side:.0f} px", f"to {side:.0f} x {side:.0f} px")
        splits["image size"] = pd.Series(words, index=first.index)
    found = []
    for by, group in splits.items():
        counts = group.value_counts()
        if len(counts) > 1 and counts.min() >= LEAST:
            rule = _judged_rule(judged, group, by, decision)
            found += [rule] if rule.holds(worse_by=decision.wishes.worse_by) else []
    return sorted(found, key=lambda rule: -rule.saving)


def _judged_rule(judged: pd.DataFrame, group: pd.Series, by: str, decision: Decision) -> Rule:
    lost = judged.pivot(index="question", columns="cell", values="lost")
    cluster = judged.drop_duplicates("question").set_index("question").cluster.loc[lost.index]
    group, cost = group.loc[lost.index], pd.Series(decision.cost)
    codes = pd.factorize(cluster)[0]
    fold = np.random.default_rng(0).permutation(codes.max() + 1)[codes] % FOLDS
    parts = []
    for k in range(FOLDS):
        seen, new = lost[fold != k], lost[fold == k]
        single = _cheapest(seen, cost, decision.wishes.worse_by)
        taken = {name: _cheapest(rows, cost, decision.wishes.worse_by) for name, rows in seen.groupby(group[fold != k])}
        chosen = [taken.get(name, single) for name in group[fold == k]]
        by_rule = new.to_numpy()[np.arange(len(new)), new.columns.get_indexer(chosen)]
        parts.append(
            pd.DataFrame(
                {
                    "rule": by_rule,
                    "single": new[single],
                    "saved": cost[single] - cost[chosen].to_numpy(),
                    "of": cost[single],
                },
                index=new.index,
            )
        )
    both = pd.concat(parts).loc[lost.index]
    long = pd.concat(
        pd.DataFrame(
            {
                "question": lost.index,
                "cell": name,
                "lost": both[name].to_numpy(),
                "weight": 1.0,
                "cluster": cluster.to_numpy(),
            }
        )
        for name in ("rule", "single")
    )
    difference = Paired.of(long).difference("rule", "single", level=decision.wishes.level)
    final = {str(name): _cheapest(rows, cost, decision.wishes.worse_by) for name, rows in lost.groupby(group)}
    return Rule(by, final, float(both.saved.sum() / both.of.sum()), difference)


def _cheapest(lost: pd.DataFrame, cost: pd.Series, worse_by: float) -> str:
    """The cheapest cell whose error on these questions is at most `worse_by` above the least."""
    error = lost.mean()
    return str(cost[error[error <= error.min() + worse_by].index].idxmin())
