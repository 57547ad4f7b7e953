"""Load a trained model as a cell: its own, another V of an elastic one, or with a training-free compressor."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from vlmlaw.compressors import ALL_PATCHES, compressor_class
from vlmlaw.errors import UserError
from vlmlaw.runtime.whole_files import refused_if_damaged
from vlmlaw.tokens.token_table import load_tokenizer
from vlmlaw.vlm.device import best_device
from vlmlaw.vlm.model import VlmForConditionalGeneration  # noqa: F401  registers the class

if TYPE_CHECKING:
    from vlmlaw.vlm.cell_name import MeasuredCell


def load_cell(model: Path, *, dtype: str = "", cell: MeasuredCell | None = None) -> tuple[Any, Any]:
    """Load the VLM of a folder in `dtype` ("": as it was saved) onto this process's device, and its tokenizer."""
    options: dict[str, Any] = {"dtype": getattr(torch, dtype)} if dtype else {}
    with refused_if_damaged(model, "a cell's model"):
        vlm: Any = AutoModelForImageTextToText.from_pretrained(model, config=config_of(model, cell), **options)
    return vlm.eval().to(best_device()), load_tokenizer(model)


def config_of(model: Path, cell: MeasuredCell | None = None) -> Any:
    """Return the configuration of a folder's model for `cell`, which may have another V or a training-free compressor.

    Raises UserError if the model's weights do not serve that cell.
    """
    with refused_if_damaged(model, "a cell's model"):
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
