"""Names of cells, and the identity that a cell is measured as: size, visual tokens, compressor, seed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

CELL_KEYS = ("size", "n_visual_tokens", "compressor", "seed")  # the fields of a cell's name


@dataclass(frozen=True, kw_only=True)
class MeasuredCell:
    """The cell that a model is evaluated as; weights that serve many cells do not say so by themselves."""

    size: str
    n_visual_tokens: int
    compressor: str
    compressor_options: Mapping[str, Any] = field(default_factory=dict)
    seed: int


def cell_name(size: str, n_visual_tokens: int | None, compressor: str, seed: int) -> str:
    """Return a cell's name or, without a V, that of a training whose weights serve cells of any V."""
    return "_".join([size, *([] if n_visual_tokens is None else [f"v{n_visual_tokens}"]), compressor, f"s{seed}"])


def cell_named_in(fields: Mapping[str, Any]) -> str:
    """Return the name of the cell that settings, or a result, belong to."""
    return cell_name(**{key: fields[key] for key in CELL_KEYS})
