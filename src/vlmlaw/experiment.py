"""The experiment file: what to train, on what, and what to fit, as frozen dataclasses checked before anything runs.

`Experiment` is the whole file. Each stage gets a part of it, the settings that its result depends on and no others,
so that a workflow that compares settings knows what a change touches.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

from vlmlaw.errors import UserError
from vlmlaw.settings import build
from vlmlaw.stage_settings import (
    ALL,
    BenchmarkSettings,
    CellSettings,
    ComputeSettings,
    DataSettings,
    EvaluationSettings,
    Grid,
    MeasuredCell,
    OptimizerSettings,
    Product,
    ReportSettings,
    SizeSection,
    SizeSettings,
    TextSettings,
    TokenSettings,
    TrainingSettings,
    VisionSection,
    VisionSettings,
)

__all__ = [
    "SPLITS",
    "BenchmarkSettings",
    "CellSettings",
    "ComputeSettings",
    "DataSettings",
    "EvaluationSettings",
    "Experiment",
    "MeasuredCell",
    "OptimizerSettings",
    "ReportSettings",
    "SizeSettings",
    "TextSettings",
    "TokenSettings",
    "TrainingSettings",
    "VisionSettings",
    "read_experiment",
]

SPLITS = ("train", "development", "test")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*")


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A whole experiment file. `results` is the folder of its outputs."""

    name: str
    data: DataSettings
    vision: VisionSection
    pretraining: Mapping[str, Any]
    training: Mapping[str, Any]
    sizes: Mapping[str, SizeSection]
    grid: Grid
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    law: Mapping[str, Any] = field(default_factory=dict)
    report: ReportSettings = field(default_factory=ReportSettings)
    compute: ComputeSettings = field(default_factory=ComputeSettings)
    results: str = "results"

    @classmethod
    def from_mapping(cls, mapping: Any, *, source: str = "experiment") -> "Experiment":
        """The experiment of a parsed file. Raises UserError for whatever in it cannot run."""
        experiment = build(cls, mapping, where=source)
        experiment._check_sections(source)
        experiment._check_law(source)
        assert experiment.benchmarks is not None  # they are checked on the way
        if not experiment.cells:
            raise UserError(f"{source}.grid: the grid has no cell; name sizes, visual_tokens, compressors and seeds.")
        return experiment

    # The parts that stages get.

    def picture_settings(self, split: str) -> DataSettings:
        return replace(self.data, images={split: self.data.images[split]}, text=None)

    @property
    def text_settings(self) -> DataSettings:
        return replace(self.data, images={})

    @property
    def token_settings(self) -> TokenSettings:
        return TokenSettings(independent=self.data.source == "miniature")

    @cached_property
    def encoder_settings(self) -> VisionSettings:
        section = self.vision
        return VisionSettings(
            source=section.source,
            hidden_size=section.hidden_size,
            num_hidden_layers=section.num_hidden_layers,
            training=section.training,
            seed=self.data.seed,
        )

    @property
    def cached_layers(self) -> tuple[int, ...]:
        """Every layer that a compressor may read, so that the first cell with a new one recaches nothing."""
        return tuple(sorted({*self.vision.feature_layers, *self.vision.multi_level_layers}))

    def size_settings(self, size: str) -> SizeSettings:
        """Raises UserError for a size that the file does not have."""
        if size not in self.sizes:
            raise UserError(f"no size is called {size!r}; the experiment {self.name} has {', '.join(self.sizes)}.")
        section = self.sizes[size]
        own = {**self.pretraining, **section.pretraining}
        return SizeSettings(
            hidden_size=section.hidden_size,
            num_hidden_layers=section.num_hidden_layers,
            num_attention_heads=section.num_attention_heads,
            pretraining=build(OptimizerSettings, own, where=f"pretraining of size {size}"),
            seed=self.data.seed,
        )

    def training_settings(self, size: str) -> TrainingSettings:
        own = {**self.training, **self.sizes[size].training}
        return build(TrainingSettings, own, where=f"training of size {size}")

    def cell_settings(self, name: str) -> CellSettings:
        """Raises UserError for a cell that the grid does not have."""
        if name not in self.cells:
            close = [cell for cell in self.cells if cell.split("_")[0] == name.split("_")[0]] or list(self.cells)
            raise UserError(
                f"no cell is called {name!r}; the experiment {self.name} has {len(self.cells)} cells, "
                f"for example {', '.join(close[:6])}."
            )
        return self.cells[name]

    @cached_property
    def cells(self) -> dict[str, CellSettings]:
        """Every cell by name, in the order of the file."""
        training = {size: self.training_settings(size) for size in self.sizes}
        cells: dict[str, CellSettings] = {}
        for where, part in self._parts:
            for compressor, own in _compressors_of(part, where).items():
                several = self._traits[compressor].reads_all_levels
                layers = self.vision.multi_level_layers if several else self.vision.feature_layers
                for size, n_tokens, seed in product(self._sizes_of(part, where), part.visual_tokens, part.seeds):
                    cell = CellSettings(
                        size=size,
                        n_visual_tokens=n_tokens,
                        compressor=compressor,
                        compressor_options=own,
                        seed=seed,
                        feature_layers=layers,
                        training=training[size],
                    )
                    if cell.name in cells:
                        raise UserError(f"{where}: the cell {cell.name} is there twice; remove one of them.")
                    cells[cell.name] = cell
        for name in self.grid.without:
            if cells.pop(name, None) is None:
                raise UserError(f"grid.without: there is no cell {name!r} to leave out; remove the line.")
        return cells

    def training_of(self, cell: CellSettings) -> CellSettings:
        """The training whose weights a cell uses: its own, one for every V, or that of all patches."""
        traits = self._traits[cell.compressor]
        if traits.trained_with != cell.compressor:
            n_patches = self.grid_side**2
            return replace(cell, compressor=traits.trained_with, compressor_options={}, n_visual_tokens=n_patches)
        return replace(cell, n_visual_tokens=None) if traits.elastic else cell

    @cached_property
    def trainings(self) -> dict[str, CellSettings]:
        """Every training that the cells need, by name, in the order of their first cells."""
        needed = [self.training_of(cell) for cell in self.cells.values()]
        return {training.name: training for training in needed}

    @cached_property
    def benchmarks(self) -> dict[str, BenchmarkSettings]:
        """Every benchmark's settings by name, in the order of the file."""
        from vlmlaw.benchmark_settings import benchmarks_of

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

    @property
    def grid_side(self) -> int:
        """Patches along a side of the image."""
        from vlmlaw.data.canvas import GRID_SIDE

        return GRID_SIDE

    # Checks of what one value alone does not show.

    def _check_sections(self, source: str) -> None:
        _check_keys(self.data.images, SPLITS, where=f"{source}.data.images")
        results = Path(self.results)
        if results.is_absolute() or ".." in results.parts:
            raise UserError(
                f"{source}.results: found {self.results!r}; expected a folder inside the working directory."
            )
        if self.data.text is None:
            raise UserError(f"{source}.data: text is missing; the miniature's language models are pretrained on it.")
        if not self.sizes:
            raise UserError(f"{source}.sizes: there is none; add a line such as 56k: {{hidden_size: 48, ...}}.")
        for name, section in self.sizes.items():
            if not NAME.fullmatch(name):
                raise UserError(f"{source}.sizes: {name!r} cannot name a folder; use letters, digits, '.' and '-'.")
            self.size_settings(name)
            self.training_settings(name)
            if section.hidden_size % section.num_attention_heads:
                fitting = [n for n in range(1, 65) if section.hidden_size % n == 0]
                raise UserError(
                    f"{source}.sizes.{name}: {section.num_attention_heads} heads do not divide hidden_size "
                    f"{section.hidden_size}; {', '.join(map(str, fitting))} would."
                )
        self._check_layers(source)
        if self.grid.held_out is not None and self.grid.held_out not in self.sizes:
            raise UserError(
                f"{source}.grid.held_out: no size is called {self.grid.held_out!r}; there are {', '.join(self.sizes)}."
            )

    def _check_layers(self, source: str) -> None:
        n_states = self.vision.num_hidden_layers + 1
        for key in ("feature_layers", "multi_level_layers"):
            layers = getattr(self.vision, key)
            wrong = [layer for layer in layers if not -n_states <= layer < n_states]
            if wrong or not layers:
                raise UserError(
                    f"{source}.vision.{key}: found {list(layers)}; the tower's hidden states are 0 to {n_states - 1} "
                    f"(or -{n_states} to -1, counted from the end). Name at least one."
                )

    def _check_law(self, source: str) -> None:
        from vlmlaw.laws.options import LawOptions

        try:
            LawOptions.from_mapping(self.law)
        except UserError as error:
            raise UserError(f"{source}.law: {error}") from error

    def _sizes_of(self, part: Product, where: str) -> list[str]:
        return list(self.sizes) if part.sizes == ALL else _names(part.sizes, self.sizes, where=f"{where}.sizes")

    @property
    def _parts(self) -> list[tuple[str, Product]]:
        """The products of cells and where in the file each stands."""
        return [("grid", self.grid), *((f"grid.more[{i}]", part) for i, part in enumerate(self.grid.more))]

    @cached_property
    def _traits(self) -> dict[str, Any]:
        """Each compressor's traits by name. Raises UserError for those that cannot be."""
        from vlmlaw.catalogue import Request, check_compressors

        requests, options = [], dict[str, Any]()
        for where, part in self._parts:
            for name, own in _compressors_of(part, where).items():
                if options.setdefault(name, own) != own:
                    raise UserError(
                        f"{where}: compressor {name} has the options {own} here and {options[name]} elsewhere; "
                        "a cell's name does not tell them apart, so give a compressor one set of options."
                    )
                sizes = self._sizes_of(part, where)
                request = Request(
                    where=where,
                    compressor=name,
                    options=own,
                    visual_tokens=part.visual_tokens,
                    grid_side=self.grid_side,
                    vision_width=self.vision.hidden_size,
                    question_widths=tuple(sorted({self.sizes[size].hidden_size for size in sizes})),
                    n_llm_layers=min(self.sizes[size].num_hidden_layers for size in sizes),
                    n_levels=len(self.vision.feature_layers),
                    n_multi_levels=len(self.vision.multi_level_layers),
                )
                requests.append(request)
        return check_compressors(requests)


def read_experiment(path: str | Path) -> Experiment:
    """The experiment of a YAML file. Raises UserError naming the file, the key and what would do."""
    import yaml

    try:
        mapping = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"cannot read {path} as YAML: {error}") from error
    return Experiment.from_mapping(mapping, source=str(path))


def _compressors_of(part: Product, where: str) -> dict[str, dict[str, Any]]:
    """The part's compressors with their options: a list of names, or names with options."""
    given = part.compressors
    entries = list(given.items()) if isinstance(given, Mapping) else [(name, None) for name in _listed(given)]
    if not entries:
        raise UserError(f"{where}.compressors: there is none; name one, for example [block_linear].")
    if any(not isinstance(name, str) or not isinstance(options or {}, Mapping) for name, options in entries):
        raise UserError(f"{where}.compressors: found {given!r}; expected names, or names with their options.")
    return {name: dict(options or {}) for name, options in entries}


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _names(given: Any, known: Iterable[str], *, where: str) -> list[str]:
    names = [str(name) for name in _listed(given)]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UserError(f"{where}: unknown {unknown[0]!r}; there are {', '.join(known)} (or {ALL}).")
    return names


def _check_keys(mapping: Mapping[str, Any], wanted: tuple[str, ...], *, where: str) -> None:
    if set(mapping) != set(wanted):
        raise UserError(f"{where}: found {', '.join(mapping) or 'nothing'}; expected {', '.join(wanted)}.")
