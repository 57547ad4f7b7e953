"""Positions of visual tokens: one span whatever V, so that a question stands as far behind the image at any V.

V tokens of an image share `span` positions, at fractional steps of span / V, and what follows goes on behind them:
V2PE (Ge et al. 2024, arXiv 2412.09616) takes steps of 1 to 1/256 so. Rotary embeddings take any number.
B sequences, T tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

SAVED = "vlmlaw_saved_positions"  # on a key-value cache: by how much its image moved what follows to the front


def spanned_positions(
    position_ids: Tensor | None,
    is_image_BT: Tensor | None,
    *,
    span: float,
    n_visual_tokens: int,
    attention_mask: Tensor | None = None,
    cu_seq_lens: Tensor | None = None,
    cache: Any = None,
) -> Tensor:
    """(B, T) fractional positions of tokens whose consecutive ones are position_ids (None: by mask and cache).

    `is_image_BT` is None for tokens behind a cached image. `cu_seq_lens` are the bounds of documents in a packed row.

    >>> is_image = torch.tensor([[False, True, True, True, True, False, False]])
    >>> spanned_positions(None, is_image, span=2, n_visual_tokens=4)
    tensor([[0.0000, 1.0000, 1.5000, 2.0000, 2.5000, 3.0000, 4.0000]])
    """
    saved_each = 1 - span / n_visual_tokens
    n_cached = 0 if cache is None else cache.get_seq_length()
    if is_image_BT is None:
        before = getattr(cache, SAVED, None)
        saved: Tensor | float = 0.0 if before is None else before
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


def _consecutive(is_image_BT: Tensor | None, attention_mask: Tensor | None, n_cached: int) -> Tensor:
    if attention_mask is not None and attention_mask.ndim == 2:
        return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, n_cached:]
    n_new = 1 if is_image_BT is None else is_image_BT.shape[-1]
    return torch.arange(n_cached, n_cached + n_new)[None]
