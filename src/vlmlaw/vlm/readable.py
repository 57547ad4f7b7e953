"""Check that a model can read a table of tokens: each token has a row of its embedding, each place has a position.

This comes before the first step, because a lookup beyond the embedding ends a GPU's process without a message, and
rotary positions beyond those of the pretraining are computed without a warning. R records, T tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vlmlaw.errors import UserError
from vlmlaw.tokens.token_table import PREFIX

if TYPE_CHECKING:
    from vlmlaw.tokens.token_table import TokenTable
    from vlmlaw.vlm.model import VlmForConditionalGeneration

SHOWN = 24  # tokens of a record in an error message
NO_LIMIT = 2**31


def require_readable(model: VlmForConditionalGeneration, table: TokenTable, words: Any, *, source: Path) -> None:
    """Raise UserError for a record of `source` with a token, or more places, than the language model has.

    The padding token and the questions about images must be in the embedding, too. Call this before sharding.
    """
    llm = model.language_model
    n_rows = int(llm.get_input_embeddings().weight.shape[0])  # type: ignore[operator,arg-type]
    _require_rows(table, words, n_rows=n_rows, kind=type(llm).__name__, source=source)
    n_positions, span = n_positions_of(llm.config), model.config.visual_span
    if n_positions is None:
        return
    each = model.compressor.n_input_tokens
    lengths_R = n_places(table, each if span is None else span)
    longest = int(lengths_R.argmax())
    if lengths_R[longest] > n_positions:
        raise UserError(
            f"{_record(longest, table, words, source)} takes {lengths_R[longest]:.0f} positions with {each} visual "
            f"tokens an image, and {type(llm).__name__} has {n_positions} (max_position_embeddings). Lower "
            "data.max_text_tokens or the number of visual tokens, or take a language model with a longer context."
        )


def room_for_replies(
    model: VlmForConditionalGeneration,
    prompts: Sequence[tuple[int, int]],  # tokens of text, and images
    *,
    n_visual_tokens: int | None = None,
) -> list[int]:
    """Return how many tokens each prompt's reply may have before the language model's positions end.

    Rotary positions beyond them would be computed without a warning, and learned ones would end the process. Raises
    UserError for a prompt that is itself longer than they are.
    """
    llm = model.language_model
    n_positions, span = n_positions_of(llm.config), model.config.visual_span
    if n_positions is None:
        return [NO_LIMIT] * len(prompts)
    each = model.compressor.with_n_visual_tokens(n_visual_tokens).n_input_tokens
    takes = [math.ceil(n_text + n_images * (each if span is None else span)) for n_text, n_images in prompts]
    longest = max(range(len(prompts)), key=takes.__getitem__, default=0)
    if takes and takes[longest] > n_positions:
        n_text, n_images = prompts[longest]
        which = f"prompt {longest + 1} of {len(prompts)}" if len(prompts) > 1 else "the prompt"
        raise UserError(
            f"{which} takes {takes[longest]} positions ({n_text} tokens of text, {n_images} images of {each} visual "
            f"tokens), and {type(llm).__name__} has {n_positions} (max_position_embeddings). Shorten the question, or "
            "take fewer images or visual tokens, or a language model with a longer context."
        )
    return [n_positions - taken + 1 for taken in takes]  # the last token of a reply is not read again


def _require_rows(table: TokenTable, words: Any, *, n_rows: int, kind: str, source: Path) -> None:
    """Raise UserError for a token without a row in the embedding."""
    remedy = "take the tokenizer that belongs to the model, and a chat template of its tokens"
    if words.pad_token_id is not None and words.pad_token_id >= n_rows:
        raise UserError(
            f"the padding token {words.pad_token!r} is token {words.pad_token_id}, and {kind} embeds {n_rows} tokens; "
            "name another pad_token in the model's tokenizer_config.json, such as its eos_token."
        )
    for ids_T in (table.ids, table.targets):
        beyond_T = (ids_T >= n_rows) & (ids_T != table.image_token_id)
        if beyond_T.any():
            place = int(beyond_T.argmax())
            record = int(np.searchsorted(table.starts, place, side="right")) - 1
            raise UserError(
                f"{_record(record, table, words, source)} holds the token {words.decode([int(ids_T[place])])!r} "
                f"({ids_T[place]}), and {kind} embeds {n_rows} tokens; {remedy}."
            )
    if len(table.question_ids) and table.question_ids.max() >= n_rows:
        token = int(table.question_ids.max())
        raise UserError(f"a question of {source} holds token {token}, and {kind} embeds {n_rows} tokens; {remedy}.")


def _record(record: int, table: TokenTable, words: Any, source: Path) -> str:
    """Name a record in an error message by its number and text; a table does not know its id."""
    own = table.ids[table.starts[record] : table.starts[record + 1]]
    text = words.decode([int(token) for token in own[:SHOWN]])
    return f"record {record + 1} of {source}, which begins {text!a},"


def n_positions_of(config: Any) -> int | None:
    """Return how many positions a language model has; None if its configuration does not say so.

    With a scaled rotary embedding (YaRN and others) it is the original number times the factor.

    >>> from transformers import Qwen2Config
    >>> n_positions_of(Qwen2Config(max_position_embeddings=100))
    100
    """
    own = getattr(config, "max_position_embeddings", None)
    if not isinstance(own, int) or own <= 0:
        return None
    scaling = getattr(config, "rope_scaling", None) or getattr(config, "rope_parameters", None) or {}
    factor, original = (scaling.get(key) for key in ("factor", "original_max_position_embeddings"))
    scaled = int(factor * original) if isinstance(factor, int | float) and isinstance(original, int) else 0
    return max(own, scaled)


def n_places(table: TokenTable, each: float) -> np.ndarray:
    """Return how many positions (R,) each record takes, with `each` for an image: its prefix and longest question."""
    n_records = len(table)
    record_T = np.repeat(np.arange(n_records), np.diff(table.starts))
    begins_T = (np.diff(record_T, prepend=-1) != 0) | (np.diff(table.segments, prepend=-1) != 0)
    first = np.flatnonzero(begins_T)
    lengths = np.add.reduceat(np.where(table.ids == table.image_token_id, each, 1.0), first)
    of_record, is_prefix = record_T[first], table.segments[first] == PREFIX
    prefix_R, longest_R = np.zeros(n_records), np.zeros(n_records)
    prefix_R[of_record[is_prefix]] = lengths[is_prefix]
    np.maximum.at(longest_R, of_record[~is_prefix], lengths[~is_prefix])
    return prefix_R + longest_R
