"""The plan of an experiment with `models:`, and the choice between the two kinds of plan."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlmlaw.errors import UserError
from vlmlaw.experiment.catalogue import MODELS, Catalogue
from vlmlaw.workflow.lineage import Lineage
from vlmlaw.workflow.model_stages import ASK, MEMORY_MB, gpus_to_ask, model_stages_of
from vlmlaw.workflow.plan import Plan, plain_wildcards
from vlmlaw.workflow.resources import Needs
from vlmlaw.workflow.stage import Read

BYTES_PER_MB = 1e6
WEIGHTS_IN_MEMORY = 1.3  # memory over the files' size, with what a library holds while it reads them
OF_GRIDS = ("models", "cells", "law", "report")  # stages of dvc.yaml, whose results a file with `models:` does not make


def plan_of(config: Mapping[str, Any], *, source: str = "experiment") -> Plan:
    """Return the plan of an experiment file with `models:` or trained cells. Raises UserError for a wrong file."""
    return ModelsPlan(config, source=source) if MODELS in config else Plan(config, source=source)


class ModelsPlan(Plan):
    """What Snakemake's rules need of an experiment whose models exist already."""

    def __init__(self, config: Mapping[str, Any], *, source: str = "experiment"):
        if os.environ.get("DVC_STAGE") in OF_GRIDS:
            raise UserError(
                f"{source} asks models that are there (`models:`), and this stage of dvc.yaml records cells that are "
                "trained. Give it a file and a stage of its own, by `dvc stage add` as docs/measure.md shows, and run "
                "`dvc repro` with that stage's name."
            )
        self.catalogue = Catalogue.from_mapping(config, source=source)
        self.experiment: Any = self.catalogue
        self.results, self.compute = self.catalogue.results, self.catalogue.compute
        self.design = None  # released models cost no training, so all cells are asked
        self.stages = model_stages_of(self.catalogue)
        self.lineage = Lineage(self.stages)

    def constraints(self) -> dict[str, str]:
        """Return the pattern of each wildcard."""
        own = self.catalogue
        names = {
            "model": own.models,
            "budget": own.budgets,
            "benchmark": [one.name for one in own.evaluation.benchmarks],
        }
        return {name: "|".join(map(re.escape, values)) for name, values in names.items()}

    def own_constraints(self, rule: str) -> dict[str, str]:
        return {}

    def resources(self, rule: str) -> dict[str, Any]:
        """Memory, minutes and GPUs; memory and minutes double with each attempt, up to the experiment's limits."""
        stage = self.stages[rule]
        asked: dict[str, Any] = {
            "mem_mb": Needs.doubling(stage.memory_mb, most=self.compute.max_memory_mb),
            "runtime": Needs.doubling(stage.minutes, most=self.compute.max_minutes),
        }
        if rule == ASK:
            asked |= {"mem_mb": self._memory_mb, "gpu": lambda w: gpus_to_ask(self.catalogue, plain_wildcards(w))}
        own = {name: lambda w, part=part: part(plain_wildcards(w)) for name, part in stage.resources.items()}
        return {**asked, **own}

    def _memory_mb(self, wildcards: Any, attempt: int = 1) -> int:
        files = self.catalogue.files_of(wildcards.model)
        weights = sum(Path(file).stat().st_size for file in files if file.endswith(".safetensors"))
        megabytes = MEMORY_MB + round(WEIGHTS_IN_MEMORY * weights / BYTES_PER_MB)
        return Needs.doubling(megabytes, most=self.compute.max_memory_mb)(wildcards, attempt)

    def threads(self, rule: str, workflow: Any) -> Any:
        return self.compute.threads if rule == ASK else 1

    def priority(self, rule: str) -> Any:
        return 0

    @property
    def data_files(self) -> list[str]:
        return []

    @property
    def model_files(self) -> list[str]:
        return []

    @property
    def law_files(self) -> list[str]:
        return self.files(Read("fit_law"))

    @property
    def targets(self) -> list[str]:
        """The page of each benchmark, and the table. A law is a target of its own: few grids have enough sizes."""
        pages = [Read("judge_models", {"benchmark": one.name}) for one in self.catalogue.evaluation.benchmarks]
        return [self.files(read)[0] for read in [Read("collect_models"), *pages]]

    @property
    def evaluations(self) -> list[str]:
        return []

    @property
    def cards(self) -> list[str]:
        return []

    @property
    def budget(self) -> str:
        return ""

    def failed(self) -> str:
        return ""
