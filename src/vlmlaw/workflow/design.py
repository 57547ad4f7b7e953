"""Choose cells while a grid runs, in rounds of proposals; each round is a file that the next one starts from.

A round is a job and a checkpoint of Snakemake: it reads the measurements of the cells chosen so far and writes which
come next (`workflow/proposal.py`), or why they are enough. Stages that read all cells read those of the last round.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmlaw.errors import UserError
from vlmlaw.experiment.experiment import Experiment
from vlmlaw.experiment.training_costs import training_costs, trainings_of
from vlmlaw.workflow.attempts import DONE, UNRECOVERABLE, cause_of, given_hash, read_attempts
from vlmlaw.workflow.lineage import Lineage
from vlmlaw.workflow.reads import evaluations_of, stage_1_reads, training_of
from vlmlaw.workflow.stage import Read

if TYPE_CHECKING:
    from vlmlaw.workflow.stage import Stage

FOLDER = "cells/design"


class Design:
    """The rounds of an experiment's design, read from its results folder."""

    def __init__(self, experiment: Experiment):
        self.experiment = experiment
        self.stages: dict[str, Stage] = {}
        self._read: dict[Path, tuple[tuple[int, int], dict[str, Any]]] = {}

    def require(self, number: int) -> None:
        """Do nothing; the workflow replaces it by a function that tells Snakemake that a job needs this round."""

    def round(self, number: int) -> dict[str, Any]:
        """Return what a round wrote. Raises UserError if it is not there."""
        self.require(number)
        path = Path(self.experiment.results) / FOLDER / f"{number}.json"
        try:
            status = path.stat()
            key = (status.st_mtime_ns, status.st_size)
            known = self._read.get(path)
            if known is None or known[0] != key:
                known = self._read[path] = (key, json.loads(path.read_text(encoding="utf-8")))
            return known[1]
        except (OSError, ValueError) as error:
            raise UserError(
                f"{path} cannot be read ({error}); expected what a round of the design wrote. `snakemake --cores all` "
                "makes it."
            ) from error

    def rounds(self) -> Iterator[dict[str, Any]]:
        """Yield every round up to the one that stops."""
        number = 0
        while True:
            found = self.round(number)
            yield found
            if found["stop"]:
                return
            number += 1

    @property
    def last(self) -> int:
        """The number of the round that stops."""
        return sum(1 for _ in self.rounds()) - 1

    def chosen(self, *, before: int | None = None) -> list[str]:
        """Return the cells of all rounds, or of those before one, without those that cannot be measured."""
        last = self.last if before is None else before - 1
        names = self.round(last)["cells"] if last >= 0 else []
        return [name for name in names if not self.missing_because(name)]

    def missing(self, *, before: int) -> dict[str, str]:
        """Return the cells of the rounds before one that cannot be measured, and why."""
        names = self.round(before - 1)["cells"] if before else []
        return {name: why for name in names if (why := self.missing_because(name))}

    def so_far(self) -> dict[str, Any] | None:
        """Return the last round that is there, whether it stops or not; None before the first."""
        last = None
        try:
            for found in self.rounds():
                last = found
        except UserError:
            return last
        return last

    def missing_because(self, name: str) -> str:
        """Return why no attempt at this cell can succeed with the present settings and code; "" if one may.

        The last attempt at one of its jobs has said so. After any other failure the next run tries again.
        """
        for read in self._jobs_of(name):
            stage = self.stages[read.rule]
            attempts = read_attempts(stage.log_of(self.experiment.results, read.wildcards))
            if attempts and (cause := cause_of(attempts[-1])) in UNRECOVERABLE:
                if attempts[-1].given == self._given_to(read):
                    words = attempts[-1].message.strip().splitlines()
                    return f"{cause}: {words[0]}" if words else cause
            elif attempts and cause_of(attempts[-1]) != DONE:
                return ""
        return ""

    def _jobs_of(self, name: str) -> list[Read]:
        cell = self.experiment.cells[name]
        training = self.experiment.training_of(cell)
        return [
            *stage_1_reads(self.experiment, training),
            training_of(training),
            *evaluations_of(self.experiment, cell),
        ]

    def _given_to(self, read: Read) -> str:
        stage = self.stages[read.rule]
        lineage = self._lineage
        settings = stage.params["settings"](read.wildcards)
        return given_hash(settings, lineage.code(*read.job), lineage.upstream(*read.job))

    @cached_property
    def _lineage(self) -> Lineage:
        return Lineage(self.stages)

    # Inputs of a round.

    def settings_of_round(self, number: int) -> str:
        """Return as JSON what a round's proposal depends on beside the measurements."""
        asked = self.experiment.design
        assert asked is not None
        limit, unit = asked.limit
        data = {
            "until": asked.until,
            "budget": asked.budget.strip(),
            "limit": limit / 100 if unit == "%" else limit,
            "limit_is_share": unit == "%",
            "width": asked.width,
            "cells_at_once": asked.cells_at_once,
            "level": self.experiment.law.get("level", 0.95),
            "missing": self.missing(before=number),
        }
        if asked.flops is not None:
            data |= {"flops": asked.flops, "question_tokens": asked.question_tokens}
        return json.dumps(data, sort_keys=True)

    @cached_property
    def grid_hash(self) -> str:
        """Hash of the cells to choose from and their costs."""
        costs, unit = training_costs(self.experiment)
        cells = {name: trainings_of(self.experiment, cell) for name, cell in self.experiment.cells.items()}
        text = json.dumps([cells, {k: f"{v:.6g}" for k, v in costs.items()}, unit, self.experiment.grid.held_out])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def design_of(experiment: Experiment) -> Design | None:
    """Return the design of an experiment; None if it has none."""
    return None if experiment.design is None else Design(experiment)
