"""Everything that follows from a measurement, for whatever shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from vlmlaw.evaluation.measuring.cells import Cell
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
from vlmlaw.evaluation.measuring.law_check import LawCheck, check_law
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
    checks: Sequence[LawCheck]  # of the laws


def conclude(measured: Measured, wishes: Wishes, *, metric: str) -> Conclusions:
    """Draw the conclusions. Raises UserError for a cost that was not measured."""
    paired = Paired.of(measured.judged)
    decision = decide(paired, measured.table, wishes)
    judged, cells = with_whole_cells(measured.judged, measured.cells)
    laws, without_law = family_laws(judged, cells)
    cost = {cell.name: decision.cost.get(cell.name, decision.cost.get(_own(cell).name, np.nan)) for cell in cells}
    checks = [check_law(law, judged, cost, level=wishes.level) for law in laws]
    return Conclusions(
        measured=measured,
        metric=metric,
        paired=paired,
        decision=decision,
        blind=blind_facts(measured.judged),
        routed=perfect_router(measured.judged, decision),
        least=least_tokens(judged),
        rules=rules(measured.judged, decision),
        laws=laws,
        without_law=without_law,
        checks=[check for check in checks if check is not None],
    )


def with_whole_cells(judged: pd.DataFrame, cells: Sequence[Cell]) -> tuple[pd.DataFrame, list[Cell]]:
    """Judged rows in which a model with a compressor has also the cells without an image and with all of its tokens.

    Whatever the compressor, these are the model's own, and were asked once.
    """
    frames, all_cells = [judged[~judged.cell.isin({cell.name for cell in cells if cell.model.compressor})]], [*cells]
    for model in dict.fromkeys(cell.model for cell in cells if cell.model.compressor):
        rows = {budget: judged[judged.cell == _own(Cell(model, budget)).name] for budget in (0, None)}
        lent = {b: r.assign(cell=Cell(model, b).name, model=model.name) for b, r in rows.items() if len(r)}
        all_cells += [Cell(model, budget) for budget in lent]
        frames += [*(lent[b] for b in (0,) if b in lent), judged[judged.model == model.name]]
        frames += [lent[b] for b in (None,) if b in lent]
    return pd.concat(frames, ignore_index=True), all_cells


def _own(cell: Cell) -> Cell:
    """The same cell of the model without a compressor."""
    return Cell(replace(cell.model, name=cell.model.own_name, compressor=""), cell.budget)
