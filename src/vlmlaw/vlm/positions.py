"""Positions of visual tokens that span the same distance for any V, so that V does not move the question.

The V tokens of an image share `span` positions in fractional steps of span / V, and the text goes on behind them, as in
V2PE (Ge et al. 2024, arXiv 2412.09616), which uses steps of 1 to 1/256. Rotary embeddings accept fractions.
B sequences, T tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

SAVED = "vlmlaw_saved_positions"  # attribute of a key-value cache: positions (B, 1) that its images saved


def spanned_positions(
    position_ids: Tensor | None,
    is_image_BT: Tensor,
    *,
    span: float,
    n_visual_tokens: int,
    attention_mask: Tensor | None = None,
    cu_seq_lens: Tensor | None = None,
    cache: Any = None,
) -> Tensor:
    """Return fractional positions (B, T) for tokens whose consecutive ones are `position_ids`.

    Without `position_ids` the consecutive ones follow from the mask and the cache. A cache that is not empty holds the
    image, so that none of the new tokens is one of its. `cu_seq_lens` are the bounds of documents in a packed row.

    >>> is_image = torch.tensor([[False, True, True, True, True, False, False]])
    >>> spanned_positions(None, is_image, span=2, n_visual_tokens=4)
    tensor([[0.0000, 1.0000, 1.5000, 2.0000, 2.5000, 3.0000, 4.0000]])
    """
    saved_each = 1 - span / n_visual_tokens
    n_cached = 0 if cache is None else cache.get_seq_length()
    if n_cached:
        saved: Tensor | float = getattr(cache, SAVED, 0.0)
    else:
        images_before_BT = is_image_BT.cumsum(-1) - is_image_BT.long()
        if cu_seq_lens is not None:  # count from each document's own first token
            lengths = cu_seq_lens.diff()
            first = cu_seq_lens[:-1].long().repeat_interleave(lengths.long(), output_size=is_image_BT.shape[-1])
            images_before_BT = images_before_BT - images_before_BT[:, first]
        saved = saved_each * images_before_BT
        if cache is not None:
            setattr(cache, SAVED, saved_each * is_image_BT.sum(-1, keepdim=True))
    if position_ids is None:
        position_ids = _consecutive(is_image_BT, attention_mask, n_cached)
    return position_ids - saved


def _consecutive(is_image_BT: Tensor, attention_mask: Tensor | None, n_cached: int) -> Tensor:
    """Positions (B, T), or (1, T) without padding, that rise by one from token to token."""
    if attention_mask is not None and attention_mask.ndim == 2:
        return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, n_cached:]
    return torch.arange(n_cached, n_cached + is_image_BT.shape[-1], device=is_image_BT.device)[None]
