"""What a cell is called and what it is measured as: size, visual tokens, compressor, seed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

CELL_KEYS = ("size", "n_visual_tokens", "compressor", "seed")  # what names a cell


@dataclass(frozen=True, kw_only=True)
class MeasuredCell:
    """Which cell a model is evaluated as; one whose weights serve many cells does not tell by itself."""

    size: str
    n_visual_tokens: int
    compressor: str
    compressor_options: Mapping[str, Any] = field(default_factory=dict)
    seed: int


def cell_name(size: str, n_visual_tokens: int | None, compressor: str, seed: int) -> str:
    """A cell's name; without a V that of a training whose weights serve cells of any V."""
    return "_".join([size, *([] if n_visual_tokens is None else [f"v{n_visual_tokens}"]), compressor, f"s{seed}"])


def cell_named_in(told: Mapping[str, Any]) -> str:
    """The name of the cell of which something tells, be it settings or a result."""
    return cell_name(**{key: told[key] for key in CELL_KEYS})
