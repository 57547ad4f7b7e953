"""The experiment file's own sections, from which the settings of stages are made."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vlmlaw.hub.settings import ModelSettings, TowerSettings
from vlmlaw.settings import choice, number
from vlmlaw.training.settings import OptimizerSettings, ShapeSettings

ALL = "all"


@dataclass(frozen=True, kw_only=True)
class ReportSettings:
    """The page at the end."""

    title: str = "Larger LLM or more visual tokens?"
    samples: int = number(least=0, default=8)
    compressor: str = ""  # whose law the page is about, where each has its own; "": the one with the most cells


@dataclass(frozen=True, kw_only=True)
class VisionSection:
    source: str = choice("train")
    hidden_size: int = number(least=1)
    num_hidden_layers: int = number(least=1)
    feature_layers: tuple[int, ...]
    multi_level_layers: tuple[int, ...]
    training: OptimizerSettings
    visual_span: float | None = number(above=0, default=None)  # positions that an image's tokens share; null: one each
    projector_norm: bool = True  # whether a LayerNorm stands before the projector; LLaVA has none


@dataclass(frozen=True, kw_only=True)
class LoadedVision(TowerSettings):
    """A pretrained tower. With `cache_features` it runs once for all cells, onto the disk; else in each training."""

    feature_layers: tuple[int, ...]
    multi_level_layers: tuple[int, ...]
    cache_features: bool = False
    visual_span: float | None = number(above=0, default=None)  # positions that an image's tokens share; null: one each
    projector_norm: bool = True  # whether a LayerNorm stands before the projector; LLaVA has none


@dataclass(frozen=True, kw_only=True)
class LoadedSize(ModelSettings):
    """A pretrained language model."""

    alignment: Mapping[str, Any] = field(default_factory=dict)  # what differs from the file's section
    training: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SizeSection(ShapeSettings):
    """A language model that is pretrained here."""

    pretraining: Mapping[str, Any] = field(default_factory=dict)  # what differs from the file's section
    training: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Product:
    """Cells: every combination of these."""

    visual_tokens: tuple[int, ...] = number(least=1)
    compressors: Any = ()
    seeds: tuple[int, ...] = number(least=0, default=(0,))
    sizes: Any = ALL


@dataclass(frozen=True, kw_only=True)
class Grid(Product):
    held_out: str | None = None
    more: tuple[Product, ...] = ()
    without: tuple[str, ...] = ()  # names of cells to leave out, for example because they diverge
