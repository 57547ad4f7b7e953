"""Which cells a trained model's weights serve: its own, other V of an elastic one, training-free compressors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import AutoConfig

from vlmlaw.compressors import ALL_PATCHES, compressor_class
from vlmlaw.errors import UserError
from vlmlaw.model import VlmConfig  # noqa: F401  registers the class

if TYPE_CHECKING:
    from vlmlaw.stage_settings import MeasuredCell


def config_of(model: Path, cell: MeasuredCell | None = None) -> Any:
    """The configuration of the model in a folder, as `cell` has it: with another V or a training-free compressor.

    Raises UserError where the model's weights do not serve that cell.
    """
    config = AutoConfig.from_pretrained(model)
    if cell is None:
        return config
    own = (config.compressor, config.n_visual_tokens)
    wanted = compressor_class(cell.compressor)
    same = cell.compressor == config.compressor and (wanted.elastic or cell.n_visual_tokens == own[1])
    if not (same or (wanted.training_free and config.compressor == ALL_PATCHES)):
        raise UserError(
            f"{model} was trained with {own[0]} at V = {own[1]}; it cannot be evaluated as {cell.compressor} at "
            f"V = {cell.n_visual_tokens}. Its weights serve that V only, or are not those of all patches "
            f"({ALL_PATCHES}), to which training-free compressors are applied."
        )
    config.compressor, config.n_visual_tokens = cell.compressor, cell.n_visual_tokens
    config.compressor_options = dict(cell.compressor_options)
    return config
