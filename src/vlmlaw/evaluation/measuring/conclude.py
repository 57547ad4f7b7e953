"""Everything that follows from a measurement, for whatever shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from vlmlaw.evaluation.measuring.decide import (
    Blind,
    Decision,
    Routed,
    Wishes,
    blind_facts,
    decide,
    least_tokens,
    perfect_router,
)
from vlmlaw.evaluation.measuring.family_law import FamilyLaw, family_laws
from vlmlaw.evaluation.measuring.paired import Paired
from vlmlaw.evaluation.measuring.rules import Rule, rules
from vlmlaw.evaluation.measuring.run import Measured


@dataclass(frozen=True)
class Conclusions:
    """A measurement with what follows from it."""

    measured: Measured
    metric: str
    paired: Paired
    decision: Decision
    blind: Sequence[Blind]
    routed: Routed
    least: pd.DataFrame
    rules: Sequence[Rule]
    laws: Sequence[FamilyLaw]
    without_law: Sequence[str]  # families, and why


def conclude(measured: Measured, wishes: Wishes, *, metric: str) -> Conclusions:
    """Draw the conclusions. Raises UserError for a cost that was not measured."""
    paired = Paired.of(measured.judged)
    decision = decide(paired, measured.table, wishes)
    laws, without_law = family_laws(measured.judged, measured.cells)
    return Conclusions(
        measured=measured,
        metric=metric,
        paired=paired,
        decision=decision,
        blind=blind_facts(measured.judged),
        routed=perfect_router(measured.judged, decision),
        least=least_tokens(measured.judged),
        rules=rules(measured.judged, decision),
        laws=laws,
        without_law=without_law,
    )
