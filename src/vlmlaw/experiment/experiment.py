"""The experiment file: what to train, on what, and what to fit, as frozen dataclasses checked before anything runs.

`Experiment` is the whole file with the cells that it asks for. Each stage gets a part of it, the settings that its
result depends on and no others, so that a workflow that compares settings knows what a change touches.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from vlmlaw.errors import UserError
from vlmlaw.evaluation.settings import BenchmarkSettings
from vlmlaw.experiment.benchmarks import benchmarks_of
from vlmlaw.experiment.checks import check_sections
from vlmlaw.experiment.compressor_traits import Traits
from vlmlaw.experiment.file import ExperimentFile
from vlmlaw.experiment.grid import cells_of, traits_of
from vlmlaw.settings import build
from vlmlaw.training.settings import CellSettings, OptimizerSettings, TrainingSettings


@dataclass(frozen=True, kw_only=True)
class Experiment(ExperimentFile):
    """A whole experiment: the file's sections, and the cells, trainings and benchmarks that follow from them."""

    @classmethod
    def from_mapping(cls, mapping: Any, *, source: str = "experiment") -> "Experiment":
        """Build the experiment of a parsed file. Raises UserError for anything in it that cannot run."""
        if isinstance(mapping, Mapping) and "models" in mapping:
            raise UserError(
                f"{source} asks models that are there (`models:`), and this is of cells that are trained; `vlmlaw "
                "experiment check` and snakemake read such a file."
            )
        experiment = build(cls, mapping, where=source)
        check_sections(experiment, source)
        assert experiment.benchmarks is not None  # they are checked on the way
        if not experiment.cells:
            raise UserError(f"{source}.grid: the grid has no cell; name sizes, visual_tokens, compressors and seeds.")
        return experiment

    @property
    def evaluations(self) -> list[str]:
        """The files of a cell's evaluations, in its folder."""
        return [
            *(["evaluation.json"] if self.has_test else []),
            *(f"benchmarks/{name}.json" for name in self.benchmarks),
        ]

    @cached_property
    def benchmarks(self) -> dict[str, BenchmarkSettings]:
        """Every benchmark's settings by name, in the order of the file."""
        found = benchmarks_of(self)
        by_others = [name for name, own in found.items() if own.metric == ""]
        shared = [name for name, cell in self.cells.items() if self.training_of(cell).name != name]
        if by_others and shared:
            raise UserError(
                f"evaluation.benchmarks: {by_others[0]} is run by lmms-eval, which loads a model's folder as it is, "
                f"and the cell {shared[0]} has the weights of {self.training_of(self.cells[shared[0]]).name}; run the "
                "benchmark by vlmlaw, or leave such cells out."
            )
        return found

    @cached_property
    def traits(self) -> dict[str, Traits]:
        """The traits of each compressor by name."""
        return traits_of(self)

    @cached_property
    def cells(self) -> dict[str, CellSettings]:
        """Every cell by name, in the order of the file."""
        return cells_of(self, self.traits)

    def cell_settings(self, name: str) -> CellSettings:
        """The settings of a cell. Raises UserError for a cell that the grid does not have."""
        if name not in self.cells:
            close = [cell for cell in self.cells if cell.split("_")[0] == name.split("_")[0]] or list(self.cells)
            raise UserError(
                f"no cell is called {name!r}; the experiment {self.name} has {len(self.cells)} cells, "
                f"for example {', '.join(close[:6])}."
            )
        return self.cells[name]

    def training_of(self, cell: CellSettings) -> CellSettings:
        """The training whose weights a cell uses: its own, one for every V, or that of all patches."""
        traits = self.traits[cell.compressor]
        if traits.trained_with != cell.compressor:
            n_patches = self.grid_side**2
            return replace(cell, compressor=traits.trained_with, compressor_options={}, n_visual_tokens=n_patches)
        return replace(cell, n_visual_tokens=None) if traits.elastic else cell

    def training_settings_of(self, name: str) -> CellSettings:
        """A training by its own name, or that of the cell of this name. Raises UserError where there is neither."""
        return self.trainings.get(name) or self.training_of(self.cell_settings(name))

    def model_of(self, name: str) -> Path:
        """The folder of the model that a cell is, or will be. Raises UserError for an unknown cell."""
        return Path(self.results) / "cells" / self.training_of(self.cell_settings(name)).name / "model"

    @cached_property
    def trainings(self) -> dict[str, CellSettings]:
        """Every training that the cells need, by name, in the order of their first cells."""
        needed = [self.training_of(cell) for cell in self.cells.values()]
        return {training.name: training for training in needed}

    def stage_1_of(self, cell: CellSettings) -> CellSettings | None:
        """The settings of the cell's stage 1, which cells of other seeds may share."""
        plan = self.alignment_settings(cell.size)
        if plan is None:
            return None
        kept = {f.name: getattr(plan, f.name) for f in fields(OptimizerSettings)}
        training = TrainingSettings(**kept, new_learning_rate=plan.learning_rate)
        seed = cell.seed if plan.seed is None else plan.seed
        return replace(cell, seed=seed, training=training, trains_language_model=False, validation=None)

    @cached_property
    def alignments(self) -> dict[str, CellSettings]:
        """Every stage 1 by name."""
        stages = [stage for cell in self.trainings.values() if (stage := self.stage_1_of(cell)) is not None]
        return {stage.name: stage for stage in stages}


def read_experiment(path: str | Path) -> Experiment:
    """Read the experiment of a YAML file. Raises UserError that names the file, the key and the accepted values."""
    from vlmlaw.experiment.yaml_file import read_yaml

    if not Path(path).is_file():
        raise UserError(f"cannot read {path}: there is no such file; name an experiment file, such as params.yaml.")
    return Experiment.from_mapping(read_yaml(Path(path)), source=str(path))
