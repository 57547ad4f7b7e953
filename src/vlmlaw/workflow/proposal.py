"""One round of a design: choose the cells to train next from the measurements so far, or say why these are enough.

The order does not depend on the budget, so a larger budget continues where a smaller one stopped. Nor does a harder
question change it: the interval of `rho` is narrowed only when its side of 1 is known. The first round takes as many
cells as a law needs, because no measurement could change their choice.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vlmlaw.errors import UserError
from vlmlaw.evaluation.measurements import collect
from vlmlaw.experiment.experiment import Experiment
from vlmlaw.experiment.training_costs import HOURS, training_costs, trainings_of
from vlmlaw.laws.best_cell import Deployment, best_cell_sentence
from vlmlaw.laws.design import MIN_CELLS, Plan, next_cells
from vlmlaw.laws.replicates import collapse_questions
from vlmlaw.laws.table import ALL_KINDS, Measurements, read_measurements
from vlmlaw.runtime.whole_files import whole_file
from vlmlaw.training.settings import CellSettings

PER_LETTER = {"k": 1e-6, "m": 1e-3, "b": 1.0, "t": 1e3}
NEAR = 0.03  # relative distance within which a rounded size stands for a measured one


def propose(cells: Path, out: Path, *, experiment: Experiment, asked: Mapping[str, Any], before: Path | None) -> None:
    """Write a round to `out`; `asked` is what `Design.settings_of_round` returns, `before` the last round's file."""
    first: dict[str, Any] = {"round": -1, "cells": [], "steps": []}
    earlier: dict[str, Any] = json.loads(before.read_text(encoding="utf-8")) if before else first
    state = _State(experiment, asked, cells, tuple(earlier["cells"]))
    plan, why = state.proposal()
    steps = earlier["steps"] + [{"round": earlier["round"] + 1} | step for step in plan]
    names = [name for step in plan for name in step["cells"]]
    chosen = [*earlier["cells"], *names]
    found = {
        "round": earlier["round"] + 1,
        "stop": why,
        "until": asked["until"],
        "budget": asked["budget"],
        "limit": state.limit,
        "unit": state.unit,
        "whole": sum(state.costs.values()),
        "spent": state.spent + sum(step["cost"] for step in plan),
        "next": names,
        "cells": chosen,
        "measured": [name for name in chosen if name not in asked["missing"]],
        "missing": asked["missing"],
        "not_chosen": [name for name in experiment.cells if name not in chosen],
        "held_out": state.held_out,
        "steps": steps,
        "states": state.sentences,
    }
    found |= {name: asked[name] for name in ("flops", "question_tokens") if name in asked}
    with whole_file(out) as partial:
        partial.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


@dataclass(frozen=True, eq=False)
class _State:
    """The measurements so far, and the cells that are left to choose from."""

    experiment: Experiment
    asked: Mapping[str, Any]
    folder: Path
    chosen: tuple[str, ...]

    @cached_property
    def costs(self) -> dict[str, float]:
        """The cost of each training of the grid, corrected by the hours that finished trainings took."""
        costs, unit = training_costs(self.experiment)
        done = {self.experiment.training_of(self.experiment.cells[name]).name for name in self.measured}
        took = {name: hours for name in sorted(done) if unit == HOURS and (hours := self._hours_of(name))}
        ratio = sum(took.values()) / sum(costs[name] for name in took) if took else 1.0
        return {name: took.get(name, cost * ratio) for name, cost in costs.items()}

    def _hours_of(self, training: str) -> float:
        account = json.loads((self.folder / training / "training.json").read_text(encoding="utf-8"))
        return float(account.get("gpu_hours") or 0.0)

    @property
    def unit(self) -> str:
        return training_costs(self.experiment)[1]

    @property
    def limit(self) -> float:
        """The budget in the unit of the costs; a share counts from the whole grid's cost."""
        limit = float(self.asked["limit"])
        return limit * sum(self.costs.values()) if self.asked["limit_is_share"] else limit

    @property
    def paid(self) -> set[str]:
        return {one for name in self.chosen for one in trainings_of(self.experiment, self.experiment.cells[name])}

    @property
    def spent(self) -> float:
        """The cost of all chosen cells, including those that could not be measured."""
        return sum(self.costs[name] for name in self.paid)

    @property
    def measured(self) -> list[str]:
        return [name for name in self.chosen if name not in self.asked["missing"]]

    @property
    def held_out(self) -> list[str]:
        """Cells that the law is not fitted to, so that a design learns nothing from them."""
        held_out = self.experiment.grid.held_out
        return [name for name, cell in self.experiment.cells.items() if cell.size == held_out]

    @cached_property
    def table(self) -> Measurements | None:
        """The measurements in the form that the law reads; None before the first."""
        if not self.measured:
            return None
        files = [self.folder / name / file for name in self.measured for file in self.experiment.evaluations]
        with tempfile.TemporaryDirectory() as folder:
            collect(files, Path(folder) / "measured.csv", held_out=None)
            return collapse_questions(read_measurements(Path(folder) / "measured.csv"))

    @cached_property
    def sentences(self) -> list[str]:
        """A sentence about what is known of each question; filled by `proposal`."""
        return []

    def proposal(self) -> tuple[list[dict[str, Any]], str]:
        """Return the steps to take next, each with its cells and cost, or why there are none."""
        open_groups = False
        for compressor in dict.fromkeys(cell.compressor for cell in self.experiment.cells.values()):
            grid = self._candidates(compressor)
            if not _tells_a_law(grid):
                continue
            left = grid[~grid["chosen"]]
            few = max(0, MIN_CELLS - int(grid["measured"].sum()))
            for name, table in self._groups(compressor):
                plan = self._plan(name, table, grid, n_cells=few or self.asked["cells_at_once"])
                if plan is None:  # settled
                    continue
                open_groups = True
                if steps := self._steps(plan, left):
                    return self._affordable(steps)
        if open_groups:
            return [], "every cell that can tell is measured, and the question is still open"
        if not self.sentences:
            return [], f"no compressor has {MIN_CELLS} cells of two sizes and two token counts, which a law needs"
        return [], "what was asked is known"

    def _plan(self, name: str, table: Measurements | None, grid: pd.DataFrame, *, n_cells: int) -> Plan | None:
        """Return what to measure for one group of measurements; None once its question is settled."""
        from vlmlaw.laws.verdict import ratio_sentence

        level, cells = self.asked["level"], None if table is None else table.cells()
        options: dict[str, Any] = {"budget": np.inf, "level": level, "n_cells": n_cells}
        left, deploy = grid[~grid["chosen"]], self.deployment
        if deploy is not None:
            plan = next_cells(cells, left, until="best", deploy=deploy, deployable=grid, **options)
        else:
            plan = next_cells(cells, left, until="side", **options)
            if plan.settled and self.asked["until"] == "rho":
                plan = next_cells(cells, left, until="rho", width=self.asked["width"], **options)
        about = "too few cells for a law yet" if plan.rho is None else ratio_sentence(plan.rho)
        if plan.best is not None and deploy is not None:
            about = best_cell_sentence(plan.best, deploy)
        self.sentences.append(f"{name}: {about}{' This is settled.' if plan.settled else ''}")
        return None if plan.settled else plan

    @property
    def deployment(self) -> Deployment | None:
        """What the best cell is asked for; None where another question is asked."""
        if self.asked["until"] != "best":
            return None
        return Deployment(self.asked["flops"], self.asked["question_tokens"])

    def _steps(self, plan: Plan, left: pd.DataFrame) -> list[dict[str, Any]]:
        """Return the plan's cells in steps; cells that cost nothing more join the step that pays for them."""
        steps: list[dict[str, Any]] = []
        for place, row in plan.cells.iterrows():
            names = list(left["names"].iloc[int(place)])  # type: ignore[call-overload]
            if row["cost"] > 0 or not steps:
                steps.append({"cells": names, "cost": float(row["cost"]), "width": float(row["width"])})
            else:
                steps[-1]["cells"] += names
        return steps

    def _affordable(self, steps: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], str]:
        """Return the first steps that the budget covers. Raises UserError if it does not cover a law at all."""
        whole = sum(step["cost"] for step in steps)
        if not self.chosen and whole > self.limit * (1 + 1e-9):
            raise UserError(
                f"design.budget is {self.asked['budget']}, which does not cover the first {len(steps)} trainings that "
                f"a law needs: they cost {self.amount(whole)}. Give that much or more."
            )
        taken, total = [], self.spent
        for step in steps:
            total += step["cost"]
            if total > self.limit * (1 + 1e-9):
                break
            taken.append(step)
        if taken:
            return taken, ""
        used = self.amount(self.spent)
        return [], (
            f"the next cell, {steps[0]['cells'][0]}, would cost {self.amount(steps[0]['cost'])}, and {used} of the "
            f"budget of {self.amount(self.limit)} are used"
        )

    def amount(self, cost: float) -> str:
        """Return a cost in words."""
        return f"{cost:.4g} GPU-hours" if self.unit == HOURS else f"{100 * cost:.4g} % of the grid's cost"

    def _groups(self, compressor: str) -> list[tuple[str, Measurements | None]]:
        """Return the measurements that get a law of their own: those of each suite of this compressor."""
        table = self.table
        if table is None or compressor not in set(table.frame["compressor"]):
            return [(compressor, None)]
        own = table.select(compressor=compressor)
        groups = [group for group in own.groups if group["kind"] == ALL_KINDS] or own.groups
        return [(f"{compressor}, {group['suite']}", own.select(**group)) for group in groups]

    def _candidates(self, compressor: str) -> pd.DataFrame:
        """Return the cells of a compressor that may be chosen, one row for all seeds of a size and V."""
        by_place: dict[tuple[str, int], list[CellSettings]] = {}
        for name, cell in self.experiment.cells.items():
            if cell.compressor == compressor and name not in self.held_out:
                by_place.setdefault((cell.size, cell.n_visual_tokens or 0), []).append(cell)
        n_of = sizes_in_billions(self.experiment, self.table)
        rows = []
        for (size, n_tokens), cells in by_place.items():
            needed = {one: self.costs[one] for cell in cells for one in trainings_of(self.experiment, cell)}
            unpaid = {one: cost for one, cost in needed.items() if one not in self.paid}
            names = [cell.name for cell in cells]
            chosen, measured = (any(name in some for name in names) for some in (self.chosen, self.measured))
            rows.append((n_of[size], float(n_tokens), sum(needed.values()), unpaid, names, chosen, measured))
        return pd.DataFrame(rows, columns=["N", "V", "cost", "trainings", "names", "chosen", "measured"])


def _tells_a_law(grid: pd.DataFrame) -> bool:
    return len(grid) >= MIN_CELLS and grid["N"].nunique() > 1 and grid["V"].nunique() > 1


def sizes_in_billions(experiment: Experiment, table: Measurements | None) -> dict[str, float]:
    """Return N in billions of each size: as measured, or from a name such as 7b or 147k, or from the model's shape."""
    frame = None if table is None else table.frame
    found: dict[str, float] = {}
    if frame is not None and "size" in frame:
        found = dict(zip(frame["size"].map(str), frame["N"].map(float), strict=True))
    for size in {cell.size for cell in experiment.cells.values()} - set(found):
        named = re.findall(r"(\d+(?:\.\d+)?)([kmbt])(?![a-z])", size.lower())
        n = float(named[-1][0]) * PER_LETTER[named[-1][1]] if named else experiment.n_params_estimate(size) / 1e9
        near = [] if frame is None else [float(x) for x in frame["N"].unique() if abs(x / n - 1) < NEAR]
        found[size] = min(near, key=lambda x, n=n: abs(x - n)) if near else n  # type: ignore[misc]
    return found
