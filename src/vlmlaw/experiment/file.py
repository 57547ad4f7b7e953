"""Sections of the experiment file, and the settings of each stage that follow from them."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

from vlmlaw.data.settings import DataSettings, LlavaData, SplitSettings, TokenSettings
from vlmlaw.errors import UserError
from vlmlaw.evaluation.settings import EvaluationSettings, LatencySettings
from vlmlaw.experiment.sections import (
    DesignSettings,
    Grid,
    LoadedSize,
    LoadedVision,
    PatchVision,
    ReportSettings,
    SizeSection,
    VisionSection,
)
from vlmlaw.hub.settings import ModelSettings, TokenizerSettings, TowerSettings
from vlmlaw.hub.shapes import Tower, config_of, text_config
from vlmlaw.settings import build
from vlmlaw.training.settings import (
    AlignmentSettings,
    ComputeSettings,
    OptimizerSettings,
    PatchSettings,
    SizeSettings,
    TrainingSettings,
    ValidationSettings,
    VisionSettings,
)

SPLITS = ("train", "development", "test")


@dataclass(frozen=True, kw_only=True)
class ExperimentFile:
    """The sections of an experiment file. `results` is the folder of its outputs.

    In the miniature everything is made: pictures, tower, language models. With pretrained models and LLaVA-style data
    the same stages begin with what is loaded instead. A stage's part is None where the experiment has no such stage.

    name: what the experiment is called in records and on the page
    data: the pictures and questions: the miniature's, drawn here, or files in LLaVA's layout
    vision: the vision tower: trained here, a pretrained one, or none
    pretraining: how the miniature's language models are trained on text, for all sizes
    training: how each cell is trained (stage 2, where there is a stage 1), for all sizes
    sizes: the language models by name: shapes to pretrain here, or pretrained models
    grid: the cells: which sizes, visual tokens, compressors and seeds are combined
    design: how to choose which of these cells to train, and when to stop; null: all are trained
    evaluation: how a cell is asked, and on which benchmarks
    latency: milliseconds to the first token of an answer in every cell; null: none
    law: how the scaling law is fitted and what is asked of it
    report: the page at the end
    compute: how jobs use the machine; changing it reruns nothing
    results: the folder of all outputs, relative to the project's
    """

    name: str
    data: DataSettings | LlavaData
    vision: VisionSection | PatchVision | LoadedVision
    pretraining: Mapping[str, Any] = field(default_factory=dict)
    alignment: Mapping[str, Any] | None = None  # stage 1, where there is one
    training: Mapping[str, Any]
    validation: ValidationSettings | None = None  # of stage 2, while it runs
    sizes: Mapping[str, SizeSection | LoadedSize]
    grid: Grid
    design: DesignSettings | None = field(default=None, metadata={"later": True})
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    latency: LatencySettings | None = field(default=None, metadata={"later": True})
    law: Mapping[str, Any] = field(default_factory=dict)
    report: ReportSettings = field(default_factory=ReportSettings)
    compute: ComputeSettings = field(default_factory=ComputeSettings)
    results: str = "results"

    def __post_init__(self) -> None:
        object.__setattr__(self, "results", os.path.normpath(self.results) if self.results else "")

    @property
    def pretrained(self) -> bool:
        """Whether tower and language models are loaded, and the data are LLaVA's; else all is the miniature's."""
        return isinstance(self.data, LlavaData)

    @property
    def splits(self) -> tuple[str, ...]:
        if isinstance(self.data, DataSettings):
            return SPLITS
        there = {"align": self.data.align is not None, "train": True, "test": self.has_test}
        return tuple(name for name, given in there.items() if given)

    @property
    def has_test(self) -> bool:
        """Whether there is a test split; LLaVA-style data may leave it to benchmarks."""
        return isinstance(self.data, DataSettings) or bool(self.data.test)

    def picture_settings(self, split: str) -> DataSettings | SplitSettings:
        """The settings of the data of a split. Raises UserError for a split that the experiment does not have."""
        self._require_split(split, self.splits)
        if isinstance(self.data, DataSettings):
            return replace(self.data, images={split: self.data.images[split]}, text=None)
        of_training = enumerate(self.data.files(split) if split != "test" else ())
        files = self.data.test if split == "test" else {str(n + 1) if n else "": file for n, file in of_training}
        return SplitSettings(
            files=files,
            image_px=self.tower.image_px,
            fit=self.data.fit,
            pad_color=self.data.pad_color,
            skip_at_most=0.0 if split == "test" else self.data.skip_at_most,
            one_question_each=split == "test",
        )

    @property
    def text_settings(self) -> DataSettings | None:
        return replace(self.data, images={}) if isinstance(self.data, DataSettings) else None

    def token_settings(self, split: str) -> TokenSettings:
        """Of a split or, in the miniature, of the text. Raises UserError for one that the experiment does not have."""
        self._require_split(split, self.splits if self.pretrained else (*self.splits, "text"))
        if isinstance(self.data, DataSettings):
            return TokenSettings(independent=True)
        if split == "test":
            return TokenSettings(independent=False)  # a question of a test is never cut
        return TokenSettings(
            independent=False, max_text_tokens=self.data.max_text_tokens, skip_at_most=self.data.skip_at_most
        )

    def _require_split(self, split: str, known: Iterable[str]) -> None:
        if split not in known:
            raise UserError(f"no split is called {split!r}; the experiment {self.name} has {', '.join(known)}.")

    @property
    def tokenizer_settings(self) -> TokenizerSettings | None:
        """Of pretrained models: the first size's. All sizes of a grid must read the same tokens."""
        if not isinstance(self.data, LlavaData):
            return None
        first = self.size_settings(next(iter(self.sizes)))
        assert isinstance(first, ModelSettings)
        return TokenizerSettings(model=first, chat_template=self.data.chat_template)

    @cached_property
    def encoder_settings(self) -> VisionSettings | PatchSettings | ModelSettings:
        section = self.vision
        if isinstance(section, PatchVision):
            return PatchSettings(image_px=self.tower.image_px, patch_px=self.tower.patch_px)
        if isinstance(section, LoadedVision):
            return TowerSettings(**{f.name: getattr(section, f.name) for f in fields(TowerSettings)})
        assert isinstance(self.data, DataSettings)
        return VisionSettings(
            source=section.source,
            hidden_size=section.hidden_size,
            num_hidden_layers=section.num_hidden_layers,
            training=section.training,
            seed=self.data.seed,
        )

    @cached_property
    def tower(self) -> Tower:
        """The tower's shape."""
        section = self.vision
        if isinstance(section, LoadedVision):
            return Tower.of_config(config_of(section.source, section.revision), image_size=section.image_size)
        from vlmlaw.data.miniature.canvas import IMAGE_PX, PATCH_PX

        if isinstance(section, PatchVision):
            return Tower(3 * PATCH_PX**2, 1, IMAGE_PX, PATCH_PX)
        return Tower(section.hidden_size, section.num_hidden_layers, IMAGE_PX, PATCH_PX)

    @property
    def caches_features(self) -> bool:
        """Whether the tower runs once, onto the disk, or in each training."""
        return not isinstance(self.vision, LoadedVision) or self.vision.cache_features

    @property
    def cached_layers(self) -> tuple[int, ...]:
        """Every layer that a compressor may read, so that the first cell with a new one recaches nothing."""
        return tuple(sorted({*self.layers(deep=False), *self.layers(deep=True)}))

    def layers(self, *, deep: bool) -> tuple[int, ...]:
        """The hidden states that a compressor of one level reads, or of several, counted from the tower's start."""
        layers = self.vision.multi_level_layers if deep else self.vision.feature_layers
        return tuple(layer % (self.tower.num_hidden_layers + 1) for layer in layers)

    def size_settings(self, size: str, *, seed: int = 0) -> SizeSettings | ModelSettings:
        """The settings of a size, of its pretraining for cells of that seed where each seed has one.

        Raises UserError for a size that the file does not have.
        """
        if size not in self.sizes:
            raise UserError(f"no size is called {size!r}; the experiment {self.name} has {', '.join(self.sizes)}.")
        section = self.sizes[size]
        if isinstance(section, LoadedSize):
            return _model_settings(section)
        assert isinstance(self.data, DataSettings)
        own = {**self.pretraining, **section.pretraining}
        return SizeSettings(
            **section.shape,
            pretraining=build(OptimizerSettings, own, where=f"pretraining of size {size}"),
            seed=self.data.seed + (seed if self.grid.pretrain_each_seed else 0),
        )

    def width_and_depth(self, size: str) -> tuple[int, int]:
        """hidden_size and num_hidden_layers of a size."""
        section = self.sizes[size]
        if isinstance(section, LoadedSize):
            config = text_config(config_of(section.source, section.revision))
            return config["hidden_size"], config["num_hidden_layers"]
        return section.hidden_size, section.num_hidden_layers

    def n_params_estimate(self, size: str) -> int:
        """12 L d^2: attention's 4 d^2 and the MLP's 8 d^2 in each layer (Kaplan et al. 2020, arXiv 2001.08361)."""
        width, depth = self.width_and_depth(size)
        return 12 * depth * width**2

    def training_settings(self, size: str) -> TrainingSettings:
        own = {**self._arithmetic(size), **self.training, **self.sizes[size].training}
        return build(TrainingSettings, own, where=f"training of size {size}")

    def alignment_settings(self, size: str) -> AlignmentSettings | None:
        """Stage 1's optimizer, where the experiment has a stage 1."""
        section = self.sizes[size]
        if self.alignment is None or not isinstance(section, LoadedSize):
            return None
        own = {**self._arithmetic(size), **self.alignment, **section.alignment}
        return build(AlignmentSettings, own, where=f"alignment of size {size}")

    @property
    def framing(self) -> dict[str, Any]:
        """How a cell's images become squares and its visual tokens stand, where that is not the miniature's way."""
        span = {"visual_span": self.vision.visual_span, "projector_norm": self.vision.projector_norm}
        if not isinstance(self.data, LlavaData):
            return span
        # LLaVA's visual tokens carry no embedding of their place.
        seen = {"fit": self.data.fit, "pad_color": self.data.pad_color, "place_embedding": False}
        return seen | {"max_tokens": self.data.max_tokens} | span

    def _arithmetic(self, size: str) -> dict[str, str]:
        section = self.sizes[size]
        return {"dtype": section.dtype} if isinstance(section, LoadedSize) else {}

    @property
    def grid_side(self) -> int:
        """Patches along a side of the image."""
        return self.tower.grid_side


def _model_settings(section: LoadedSize) -> ModelSettings:
    """What fetching the model depends on."""
    return ModelSettings(**{f.name: getattr(section, f.name) for f in fields(ModelSettings)})
