"""Inputs and settings of jobs: what the rows of the table of stages take from an experiment."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmlaw.data.settings import SplitSettings
from vlmlaw.experiment.experiment import Experiment
from vlmlaw.hub.settings import ModelSettings
from vlmlaw.settings import as_data, to_json
from vlmlaw.training.settings import CellSettings
from vlmlaw.workflow.stage import (
    FETCHED,
    LANGUAGE_MODEL,
    MODEL,
    OF_A_MODEL,
    PICTURES,
    RULE_OF_RUNNER,
    Read,
    Wildcards,
    name_of,
    wildcards_of,
)

if TYPE_CHECKING:
    from vlmlaw.workflow.design import Design


class Reads:
    """Settings of a job by its wildcards, and the jobs that make its inputs."""

    def __init__(self, experiment: Experiment, design: "Design | None" = None):
        self.experiment, self.design = experiment, design
        self.pictures_rule = "prepare_pictures" if experiment.pretrained else "draw_pictures"

    # Settings.

    def every(self, wildcards: Wildcards) -> CellSettings:
        """Return the settings of the cell, or of the training that several cells share, with these wildcards."""
        name = name_of(wildcards)
        experiment = self.experiment
        return experiment.trainings.get(name) or experiment.cells.get(name) or experiment.cell_settings(name)

    def aligned(self, wildcards: Wildcards) -> CellSettings:
        return self.experiment.alignments.get(name_of(wildcards)) or self.experiment.cell_settings(name_of(wildcards))

    def benchmark(self, wildcards: Wildcards) -> Any:
        """Return the benchmark's section of the experiment file."""
        return next(own for own in self.experiment.evaluation.benchmarks if own.name == wildcards["benchmark"])

    def settings(self, part: Callable[[Wildcards], Any]) -> dict[str, Callable[[Wildcards], Any]]:
        return {"settings": lambda wildcards: to_json(part(wildcards))}

    def measured(self, wildcards: Wildcards) -> str:
        """Return as JSON the cell that an evaluation is of, whose weights may serve many."""
        return to_json(self.every(wildcards).measured)

    # Inputs.

    def pictures(self, split: str | None = None, *more: str) -> Callable[[Wildcards], list[Read]]:
        return lambda w: [Read(self.pictures_rule, {"split": split or w["split"]}, (*PICTURES, *more))]

    def tokens(self, split: str) -> Callable[[Wildcards], list[Read]]:
        return lambda _: [Read("tokenize", {"split": split})]

    def tokenizer(self, _: Wildcards) -> list[Read]:
        return [Read("take_tokenizer" if self.experiment.pretrained else "build_tokenizer")]

    def encoder(self, _: Wildcards) -> list[Read]:
        return [
            Read("fetch_encoder", files=(FETCHED,))
            if self.experiment.pretrained
            else Read("train_encoder", files=MODEL)
        ]

    def language_model(self, wildcards: Wildcards) -> list[Read]:
        if self.experiment.pretrained:
            return [Read("fetch_language_model", {"size": wildcards["size"]})]
        return [self.pretraining(wildcards["size"], wildcards["seed"], *LANGUAGE_MODEL)]

    def pretraining(self, size: str, seed: int | str, *files: str) -> Read:
        """Files of the pretrained language model that cells of a size and a seed start from."""
        seeds = {"seed": str(seed)} if self.experiment.grid.pretrain_each_seed else {}
        return Read("pretrain_language_model", {"size": size} | seeds, files)

    def images(self, split: str, of: Callable[[Wildcards], CellSettings]) -> Callable[[Wildcards], list[Read]]:
        """Return how a cell reads a split: cached features of its layers, or the images themselves."""

        def read(wildcards: Wildcards) -> list[Read]:
            traits = self.experiment.traits.get(of(wildcards).compressor)  # None: a training that is no cell
            if not self.experiment.caches_features or (traits is not None and traits.before_tower):
                return [Read(self.pictures_rule, {"split": split}, PICTURES)]
            layers = tuple(f"layer{layer}.npy" for layer in of(wildcards).feature_layers)
            return [Read("cache_features", {"split": split}, layers)]

        return read

    def stage_1(self, wildcards: Wildcards) -> list[Read]:
        return stage_1_reads(self.experiment, self.every(wildcards), "connector.safetensors")

    def training(self, wildcards: Wildcards) -> list[Read]:
        """Return the training whose weights a cell has."""
        training = self.experiment.training_of(self.every(wildcards))
        return [training_of(training, "training.json", *(f"model/{name}" for name in LANGUAGE_MODEL))]

    def trainings(self, *files: str) -> Callable[[Wildcards], list[Read]]:
        """Return these files of the trainings of all cells."""

        def read(_: Wildcards) -> list[Read]:
            return [training_of(training, *files) for training in self.trainings_for(self.cells()).values()]

        return read

    def cells(self, *, before: int | None = None) -> dict[str, CellSettings]:
        """Return all cells or, with a design, those that it chose in all its rounds or in those before one."""
        every = self.experiment.cells
        return every if self.design is None else {name: every[name] for name in self.design.chosen(before=before)}

    def trainings_for(self, cells: Mapping[str, CellSettings]) -> dict[str, CellSettings]:
        """Return the trainings that cells need, by name."""
        needed = map(self.experiment.training_of, cells.values())
        return {training.name: training for training in needed}

    def evaluations(self, _: Wildcards) -> list[Read]:
        """Return every evaluation of all cells."""
        return [read for cell in self.cells().values() for read in evaluations_of(self.experiment, cell)]

    def before_cells(self, _: Wildcards) -> list[Read]:
        """Return training.json of everything that is trained before the cells."""
        of = ("training.json",)
        if self.experiment.pretrained:
            trainings = self.trainings_for(self.cells()).values()
            found = [read for training in trainings for read in stage_1_reads(self.experiment, training, *of)]
            return list({name_of(read.wildcards): read for read in found}.values())
        return [Read("train_encoder", files=of), *self.pretrainings(*of)]

    def pretrainings(self, *files: str) -> list[Read]:
        """Files of every pretrained language model; of the sizes that a design chose, where there is one."""
        sizes, cells = list(self.experiment.sizes), self.cells().values()
        if self.experiment.grid.pretrain_each_seed:
            wanted = sorted({(sizes.index(cell.size), cell.seed) for cell in cells})
            return [self.pretraining(sizes[size], seed, *files) for size, seed in wanted]
        chosen = sizes if self.design is None else {cell.size for cell in cells}
        return [self.pretraining(size, 0, *files) for size in sizes if size in chosen]

    def model_files(self, part: Callable[[Wildcards], Any], wildcards: Wildcards) -> list[str]:
        """Return the files of a model in a local folder; none for a model of the hub."""
        settings = part(wildcards)
        assert isinstance(settings, ModelSettings)
        folder = Path(settings.source)
        files = sorted(folder.iterdir()) if folder.is_dir() else []
        return [str(file) for file in files if file.suffix in OF_A_MODEL]

    def conversations(self, wildcards: Wildcards) -> list[str]:
        """Return the local files of conversations of a split."""
        settings = self.experiment.picture_settings(wildcards["split"])
        assert isinstance(settings, SplitSettings)
        return [file.conversations for file in settings.files.values() if not file.repository]


def _rule(step: str, training: CellSettings) -> str:
    return f"{step}_elastic" if training.n_visual_tokens is None else f"{step}_cell"


def stage_1_reads(experiment: Experiment, training: CellSettings, *files: str) -> list[Read]:
    """Return these files of a training's stage 1; none if the experiment has no such stage."""
    stage = experiment.stage_1_of(training)
    return [Read(_rule("align", stage), wildcards_of(stage), files)] if stage else []


def training_of(training: CellSettings, *files: str) -> Read:
    """Return these files of a training."""
    return Read(_rule("train", training), wildcards_of(training), files)


def evaluations_of(experiment: Experiment, cell: CellSettings) -> list[Read]:
    """Return every evaluation of a cell: on the test split, and on each benchmark."""
    own = wildcards_of(cell)
    tested = [Read("evaluate_cell", own)] if experiment.has_test else []
    asked = ((RULE_OF_RUNNER[section.by], section.name) for section in experiment.evaluation.benchmarks)
    return tested + [Read(rule, {**own, "benchmark": name}, (f"{name}.json",)) for rule, name in asked]


def whole_as_json(experiment: Experiment) -> str:
    """Return the whole experiment as JSON.

    It is never a parameter of a rule: the lineage of a job's inputs covers what the job depends on.
    """
    return json.dumps(as_data(experiment))
