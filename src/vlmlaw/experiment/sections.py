"""The experiment file's own sections, from which the settings of stages are made."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vlmlaw.errors import UserError
from vlmlaw.hub.settings import ModelSettings, TowerSettings
from vlmlaw.settings import choice, later, number
from vlmlaw.training.settings import OptimizerSettings, ShapeSettings

ALL = "all"


@dataclass(frozen=True, kw_only=True)
class ReportSettings:
    """The page at the end.

    title: the page's heading
    samples: how many questions with their replies the page shows for each suite
    explained: how many questions of each suite the page shows that larger LLMs alone answer, that more visual tokens
        alone answer, and that neither does, with what the model saw; 0: none. The cells at the corners of the grid are
        asked again
    """

    title: str = "Larger LLM or more visual tokens?"
    samples: int = number(least=0, default=8)
    explained: int = field(default=0, metadata={"least": 0, "later": True})
    compressor: str = ""  # whose law the page is about, where each has its own; "": the one with the most cells


@dataclass(frozen=True, kw_only=True)
class DesignSettings:
    """Train the grid's cells one after the other, those first that tell most for their cost, and stop by itself.

    until: what is asked: `side` of 1 that rho lies on, after it also `rho`, to narrow its interval, or the `best` cell
    budget: what may be spent on trainings: GPU-hours, as in 20h, or a share of the whole grid's cost, as in 10%
    width: with `rho`, the ratio of the interval's ends at which it is narrow enough; null: go on to the budget's end
    cells_at_once: cells that are proposed together, for as many machines; more of them choose less well
    flops: with `best`, the FLOPs of an answer within which a cell is to be deployed
    question_tokens: with `best`, the text tokens of that answer's question
    """

    until: str = choice("side", "rho", "best", default="side")
    budget: str = "100%"
    width: float | None = number(above=1, default=None)
    cells_at_once: int = number(least=1, default=1)
    flops: float | None = later(number(above=0, default=None))
    question_tokens: float = later(number(least=0, default=50.0))

    def __post_init__(self) -> None:
        if (self.flops is not None) != (self.until == "best"):
            given = "no flops" if self.flops is None else f"flops of {self.flops:g}"
            raise UserError(f"{given} with until: {self.until}; expected the FLOPs of an answer with until: best alone")
        if not self.limit[0] > 0:
            raise UserError(f"budget is {self.budget!r}; expected GPU-hours, as in 20h, or a share above 0, as in 10%")
        if self.width is not None and self.until != "rho":
            raise UserError(f"width is {self.width:g} with until: {self.until}; expected it with until: rho alone")

    @property
    def limit(self) -> tuple[float, str]:
        """The budget's number and its unit, `h` or `%`; 0 where it has none."""
        found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(%|h)\s*", self.budget)
        return (float(found[1]), found[2]) if found else (0.0, "")


@dataclass(frozen=True, kw_only=True)
class VisionSection:
    """A vision tower that is trained here, on the miniature's pictures.

    source: the tower is trained here
    hidden_size: its width
    num_hidden_layers: its depth
    feature_layers: the layers whose outputs the compressors read, counted from 1; negative ones from the last
    multi_level_layers: the layers that compressors of several levels read
    training: how it is trained
    """

    source: str = choice("train")
    hidden_size: int = number(least=1)
    num_hidden_layers: int = number(least=1)
    feature_layers: tuple[int, ...]
    multi_level_layers: tuple[int, ...]
    training: OptimizerSettings
    visual_span: float | None = number(above=0, default=None)  # positions that an image's tokens share; null: one each
    projector_norm: bool = True  # whether a LayerNorm stands before the projector; LLaVA has none


@dataclass(frozen=True, kw_only=True)
class PatchVision:
    """No vision tower: compressors read the pixels of each patch, as in encoder-free models (the miniature alone).

    source: there is no tower
    """

    source: str = choice("patches")
    visual_span: float | None = number(above=0, default=None)  # positions that an image's tokens share; null: one each
    projector_norm: bool = True  # whether a LayerNorm stands before the projector; LLaVA has none

    @property
    def feature_layers(self) -> tuple[int, ...]:
        """The one level there is, for compressors of one level and of several."""
        return (0,)

    multi_level_layers = feature_layers


@dataclass(frozen=True, kw_only=True)
class LoadedVision(TowerSettings):
    """A pretrained tower. With `cache_features` it runs once for all cells, onto the disk; else in each training.

    feature_layers: the layers whose outputs the compressors read, counted from 1; negative ones from the last
    multi_level_layers: the layers that compressors of several levels read
    cache_features: whether the tower runs once for all cells, onto the disk, and not in each training
    """

    feature_layers: tuple[int, ...]
    multi_level_layers: tuple[int, ...]
    cache_features: bool = False
    visual_span: float | None = number(above=0, default=None)  # positions that an image's tokens share; null: one each
    projector_norm: bool = True  # whether a LayerNorm stands before the projector; LLaVA has none


@dataclass(frozen=True, kw_only=True)
class LoadedSize(ModelSettings):
    """A pretrained language model.

    training: what differs from the file's section
    """

    alignment: Mapping[str, Any] = field(default_factory=dict)  # what differs from the file's section
    training: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SizeSection(ShapeSettings):
    """A language model that is pretrained here.

    training: what differs from the file's section
    """

    pretraining: Mapping[str, Any] = field(default_factory=dict)  # what differs from the file's section
    training: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Product:
    """Cells: every combination of these.

    visual_tokens: the numbers of visual tokens, V
    compressors: names, or names with their options: `{quecc: {n_heads: 4}}`
    seeds: of weights and order; each is a training of its own
    sizes: names of `sizes`, or `all`
    """

    visual_tokens: tuple[int, ...] = number(least=1)
    compressors: Any = ()
    seeds: tuple[int, ...] = number(least=0, default=(0,))
    sizes: Any = ALL


@dataclass(frozen=True, kw_only=True)
class Grid(Product):
    """Cells: every combination of these, and more.

    held_out: the size whose cells the law is not fitted on but tested with; null: none
    more: further products of cells, added to this one
    pretrain_each_seed: whether each seed of the miniature has language models of its own, pretrained with that seed, so
        that seeds differ by all that is luck in a cell; else a size is pretrained once, for all its seeds
    """

    held_out: str | None = None
    pretrain_each_seed: bool = False
    more: tuple[Product, ...] = ()
    without: tuple[str, ...] = ()  # names of cells to leave out, for example because they diverge
