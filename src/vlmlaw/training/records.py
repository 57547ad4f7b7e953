"""The records that a cell is trained on, and those held out for its validation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmlaw.errors import UserError
from vlmlaw.tokens.cut import cut_off
from vlmlaw.tokens.subset import held_out
from vlmlaw.tokens.token_table import TokenTable
from vlmlaw.vlm.readable import require_readable

if TYPE_CHECKING:
    from vlmlaw.training.settings import CellSettings
    from vlmlaw.vlm.model import VlmForConditionalGeneration


def records_of(
    tokens: Path, model: VlmForConditionalGeneration, words: Any, *, settings: CellSettings
) -> tuple[TokenTable, TokenTable | None]:
    """Return the training's records, truncated if the settings say so, and the held-out ones, if any.

    Raises UserError for records that the model cannot read, and for a stage 1 without any image.
    """
    table = TokenTable.load(tokens)
    if settings.max_tokens is not None:
        table = cut_off(table, settings.max_tokens, each=model.compressor.n_input_tokens, source=tokens)
    require_readable(model, table, words, source=tokens)
    if not settings.trains_language_model and not table.n_images.any():
        raise UserError(f"no record of {tokens} shows an image, so stage 1 would learn nothing; correct data.align.")
    if settings.validation is None:
        return table, None
    return held_out(table, settings.validation.records, source=tokens)
