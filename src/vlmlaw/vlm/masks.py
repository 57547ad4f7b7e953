"""Masks of packed rows and of questions that share a prefix, for each kind of layer that a model has.

transformers requests one mask for each kind of layer (full, sliding window) and gives its rule as a function of places.
B sequences, T tokens, W tokens of a window.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.masking_utils import sdpa_mask

from vlmlaw.errors import UserError


class AttentionRefused(UserError):
    """Raised where a model needs something that this attention does not compute, or not in this layout."""


@dataclass(frozen=True)
class PackedRow:
    """Layout of a call with all documents in one row; `longest` is the token count of the longest."""

    longest: int


@dataclass(frozen=True)
class SharedRows:
    """Layout of a call whose rows hold several questions behind one prefix."""

    attends: Tensor  # (B, 1, T, T) True where a query may see a key
    positions: Tensor  # (B, T) as if each question stood alone behind the prefix


_layout = threading.local()


@contextmanager
def layout_of_call(layout: PackedRow | SharedRows | None) -> Iterator[None]:
    """Within this block, make masks for `layout` (None: padded rows of one document each)."""
    before = getattr(_layout, "now", None)
    _layout.now = layout
    try:
        yield
    finally:
        _layout.now = before


def mask_of_call(
    *, mask_function: Any, local_size: int | None = None, config: Any = None, use_vmap: bool = False, **kwargs: Any
) -> Tensor | None:
    """Return the mask of one kind of layer, as transformers requests it: `mask_function` says which keys a query sees.

    A packed row needs no real mask: None stands for the causal rule, and an empty one of (1, 1, 1, W) for a window of W
    tokens. Questions that share a prefix see it and themselves, by their layer's rule at the positions that they would
    have alone. Raises AttentionRefused for other rules.
    """
    layout = getattr(_layout, "now", None)
    if layout is None:
        return sdpa_mask(mask_function=mask_function, local_size=local_size, use_vmap=use_vmap, **kwargs)
    is_causal_rule = not use_vmap and "allow_is_bidirectional_skip" not in kwargs
    if isinstance(layout, PackedRow):
        is_chunked = local_size is not None and local_size != getattr(config, "sliding_window", None)
        if not is_causal_rule or (is_chunked and layout.longest > (local_size or 0)):
            raise AttentionRefused(f"{type(config).__name__} asks for a mask that is neither causal nor a window")
        if local_size is None or local_size >= layout.longest:
            return None
        return torch.zeros((1, 1, 1, 1), dtype=torch.bool, device=kwargs["device"]).expand(1, 1, 1, local_size)
    if not is_causal_rule:
        raise AttentionRefused(f"{type(config).__name__} asks for a mask that is not causal")

    def shared(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        own = mask_function(row, head, layout.positions[row, query], layout.positions[row, key])
        return own & layout.attends[:, 0][row, query, key]

    return sdpa_mask(mask_function=shared, **kwargs | {"allow_is_causal_skip": False})


def window_of(mask: Tensor | None, module: Any, n_tokens: int) -> int | None:
    """Return the window that a layer's mask of a packed row stands for; None: all earlier tokens."""
    if mask is None:
        return None
    if n_tokens > 1 and mask.shape[-2] != 1:
        raise AttentionRefused(f"{type(module).__name__} makes a mask of its own, which a packed row has no place for")
    return mask.shape[-1]
