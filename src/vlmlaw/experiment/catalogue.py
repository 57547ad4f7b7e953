"""An experiment file with `models:` in place of sizes and training: released models, a server's, cells, at each V.

Nothing is trained. A cell is a model at a budget of visual tokens; benchmarks are questions of one's own, as in
`evaluation.benchmarks` of other files.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from vlmlaw.errors import UserError
from vlmlaw.evaluation.backends.families import FAMILIES
from vlmlaw.evaluation.backends.interface import MAX, Budget
from vlmlaw.evaluation.backends.released_families import read_release, rule_of
from vlmlaw.evaluation.measuring.cells import Model, plain_name
from vlmlaw.evaluation.measuring.decide import COSTS, Wishes, check_costs
from vlmlaw.evaluation.measuring.job import AskSettings, JudgeSettings, Serving
from vlmlaw.evaluation.measuring.speed_files import check_cells
from vlmlaw.evaluation.metrics import metric_called
from vlmlaw.evaluation.settings import BenchmarkSection
from vlmlaw.experiment.path_checks import check_benchmarks, check_files, check_folders
from vlmlaw.experiment.sections import ReportSettings
from vlmlaw.settings import build, choice, number
from vlmlaw.training.settings import ComputeSettings

MODELS = "models"  # the section by which such a file is known


@dataclass(frozen=True, kw_only=True)
class ModelSection:
    """A model: `endpoint` with its name there, or `checkpoint`, or `cell`."""

    endpoint: str = ""  # of an OpenAI-compatible server, http://127.0.0.1:8000/v1
    model: str = ""  # its name on the server
    checkpoint: str = ""  # a folder, or ID[@REVISION] of the hub
    cell: str = ""  # the folder of a cell that was trained here
    family: str = ""  # of a server's model, where its name does not tell
    params: str = ""  # of a server's model, as 7B, where its name does not tell
    dtype: str = choice("auto", "float32", "bfloat16", "float16", default="auto")  # of a checkpoint
    compressor: str = ""  # of a checkpoint: V by a training-free compressor on its image features, as divprune

    @property
    def kind(self) -> str:
        return next((kind for kind in ("endpoint", "checkpoint", "cell") if getattr(self, kind)), "")


@dataclass(frozen=True, kw_only=True)
class BudgetGrid:
    """Visual tokens for each image; 0, no image, is always asked."""

    visual_tokens: tuple[int | str, ...] = number(least=0, or_word=MAX)


@dataclass(frozen=True, kw_only=True)
class Questions:
    """What is asked."""

    benchmarks: tuple[BenchmarkSection, ...]


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """The sections of an experiment file with `models:`."""

    name: str
    models: Mapping[str, ModelSection]
    grid: BudgetGrid
    evaluation: Questions
    asking: Serving = field(default_factory=Serving)
    decision: JudgeSettings = field(default_factory=JudgeSettings)
    law: Mapping[str, Any] = field(default_factory=dict)
    report: ReportSettings = field(default_factory=ReportSettings)
    compute: ComputeSettings = field(default_factory=ComputeSettings)
    results: str = "results"

    @classmethod
    def from_mapping(cls, mapping: Any, *, source: str = "experiment") -> Catalogue:
        """Build it of a parsed file. Raises UserError for anything in it that cannot run."""
        found = build(cls, mapping, where=source)
        object.__setattr__(found, "results", os.path.normpath(found.results) if found.results else "")
        check_folders(found.results, {"models": found.models}, source)
        check_benchmarks(found.evaluation.benchmarks, source)
        _check_models(found, source)
        _check_questions(found, source)
        _check_decision(found, source)
        return found

    @cached_property
    def budgets(self) -> tuple[str, ...]:
        """The budgets as files have them, the blind one first."""
        given = {str(budget) for budget in self.grid.visual_tokens} | {"0"}
        return tuple(sorted(given, key=lambda text: float("inf") if text == MAX else int(text)))

    @property
    def trainings(self) -> Mapping[str, Any]:
        """None."""
        return {}

    @cached_property
    def cells(self) -> dict[str, tuple[str, str]]:
        """Model and budget of each cell by its name."""
        return {f"{model}_v{budget}": (model, budget) for model in self.models for budget in self.budgets}

    def benchmark(self, name: str) -> BenchmarkSection:
        return next(own for own in self.evaluation.benchmarks if own.name == name)

    def ask_settings(self, model: str, budget: str, benchmark: str) -> AskSettings:
        """What the replies of a cell to a benchmark depend on. A server's address is not among it."""
        own, questions = self.models[model], self.benchmark(benchmark)
        return AskSettings(
            name=model,
            kind=own.kind,
            place=own.model if own.kind == "endpoint" else own.checkpoint or own.cell,
            family=own.family,
            params=own.params,
            dtype=own.dtype,
            compressor=own.compressor,
            budget=budget,
            metric=questions.metric or "",
            instruction=questions.instruction,
            max_new_tokens=questions.max_new_tokens,
        )

    def files_of(self, model: str) -> list[str]:
        """The files of a model that lies in a folder here."""
        own = self.models[model]
        folder = Path(own.checkpoint or own.cell) if own.kind != "endpoint" else Path()
        if own.kind == "endpoint" or not folder.is_dir():
            return []
        folder = folder / "model" if (folder / "model" / "config.json").is_file() else folder
        return [str(file) for file in sorted(folder.iterdir()) if file.suffix in (".json", ".safetensors", ".jinja")]


def _check_models(found: Catalogue, source: str) -> None:
    if not found.models:
        raise UserError(f"{source}.models: there is none; add a line such as small: {{checkpoint: FOLDER}}.")
    names: dict[str, str] = {}
    for name, own in found.models.items():
        where = f"{source}.models.{name}"
        if (same := names.setdefault(plain_name(name), name)) != name:
            raise UserError(f"{where}: tables would call it {plain_name(name)}, as {same}; give it another name.")
        kinds = [kind for kind in ("endpoint", "checkpoint", "cell") if getattr(own, kind)]
        if len(kinds) != 1:
            said = " and ".join(kinds) or "none of them"
            raise UserError(f"{where}: found {said}; expected one of endpoint, checkpoint and cell.")
        if bool(own.model) != (own.kind == "endpoint"):
            raise UserError(f"{where}: `endpoint` and `model`, its name on that server, go together.")
        if own.kind != "endpoint" and (own.family or own.params):
            raise UserError(f"{where}: family and params are of a server's model; a {own.kind} says its own.")
        if own.compressor and own.kind != "checkpoint":
            raise UserError(f"{where}.compressor: found {own.compressor!r}; only a checkpoint's features can be had.")
        for budget in found.budgets:
            if problem := _problem(name, own, None if budget == MAX else int(budget)):
                raise UserError(f"{where} cannot be asked at V = {budget}: {problem}.")
    if found.asking.load and not any(own.kind == "endpoint" for own in found.models.values()):
        raise UserError(
            f"{source}.asking.load: found {[*found.asking.load]}, and no model has an `endpoint`; one that is loaded "
            "here answers one question at a time, so only a server can be timed under load."
        )
    if len({*map(str, found.grid.visual_tokens)} - {"0"}) < 1:
        raise UserError(f"{source}.grid.visual_tokens: found no V above 0; the images would never be shown.")


def _check_decision(found: Catalogue, source: str) -> None:
    own = found.decision
    if own.cost not in COSTS:
        raise UserError(f"{source}.decision.cost: found {own.cost!r}; expected one of {', '.join(COSTS)}.")
    if own.cost == "flops":  # what is loaded here says its own
        served = [name for name, model in found.models.items() if model.kind == "endpoint"]
        named = [Model.named(found.models[name].model, params=found.models[name].params) for name in served]
        sizes = [Model(name=name, n_params=model.n_params) for name, model in zip(served, named, strict=True)]
        check_costs(Wishes(cost="flops"), sizes)
    else:
        check_costs(own.wishes, [Model(name=name) for name in found.models])
    check_cells(own.speed, [f"{plain_name(model)}_v{budget}" for model, budget in found.cells.values()])
    check_files({f"decision.speed.{cell}": path for cell, path in own.speed.items()}, source)


def _problem(name: str, own: ModelSection, budget: Budget) -> str:
    """Why a model cannot be asked at a budget, as far as can be said before it is opened."""
    if own.kind == "endpoint":
        model = Model.named(own.model, family=own.family, params=own.params)
        hint = "" if model.family else f"; say its family, if it is one of {', '.join(FAMILIES)}"
        problem = model.rule.problem(budget)
        return problem + hint if problem else ""
    folder = Path(own.checkpoint)
    if own.kind != "checkpoint" or not folder.is_dir():
        return ""
    rule = rule_of(read_release(folder))
    if own.compressor:
        return f"it makes {rule.most} at most" if rule and (budget or 0) > rule.most else ""
    if rule is None:
        return "" if budget in (0, None) else "its family has no rule; it can be asked at 0 and max"
    return rule.problem(budget)


def _check_questions(found: Catalogue, source: str) -> None:
    if not found.evaluation.benchmarks:
        raise UserError(f"{source}.evaluation.benchmarks: there is none; nothing would be asked.")
    for place, own in enumerate(found.evaluation.benchmarks):
        where = f"{source}.evaluation.benchmarks[{place}]"
        if own.by != "vlmlaw":
            raise UserError(f"{where}: models are asked by vlmlaw; lmms-eval runs cells of a trained grid.")
        if not own.questions or Path(own.questions).is_dir():
            raise UserError(f"{where}.questions: found {own.questions!r}; expected a file, JSON lines or CSV.")
        if own.metric:
            metric_called(own.metric)
