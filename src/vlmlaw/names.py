"""What things are called, in one place: folders, table and report agree on it."""

from collections.abc import Mapping
from typing import Any

CELL_KEYS = ("size", "n_visual_tokens", "compressor", "seed")  # what names a cell
RULE_OF_RUNNER = {"vlmlaw": "evaluate_benchmark", "lmms-eval": "evaluate_by_lmms_eval"}  # who runs a benchmark


def cell_name(size: str, n_visual_tokens: int | None, compressor: str, seed: int) -> str:
    """A cell's name; without a V that of a training whose weights serve cells of any V."""
    return "_".join([size, *([] if n_visual_tokens is None else [f"v{n_visual_tokens}"]), compressor, f"s{seed}"])


def cell_named_in(told: Mapping[str, Any]) -> str:
    """The name of the cell of which something tells, be it settings or a result."""
    return cell_name(**{key: told[key] for key in CELL_KEYS})
