"""Visual tokens dropped inside the LLM: after its layer K the least attended image tokens are seen no more (FastV).

FastV (Chen et al. 2024, arXiv 2403.06764, section 4.1). The tokens keep their places and are masked instead of taken
out, which gives every token that is read the same states as taking them out: the cost that this saves is counted
analytically (`vlmlaw.vlm.cost`), not in seconds. B sequences, T tokens, S tokens with those in the cache, H heads.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlmlaw.compressors.selection import best
from vlmlaw.errors import UserError


def require_layers(n_layers: int, *, after: int) -> None:
    """Raise UserError where no layer is left after the one that chooses.

    >>> require_layers(3, after=2)
    >>> require_layers(2, after=2)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    vlmlaw.errors.UserError: compressor fastv: layer is 2 and the LLM has 2 layers, ...
    """
    if after >= n_layers:
        raise UserError(
            f"compressor fastv: layer is {after} and the LLM has {n_layers} layers, so that none is left to read fewer "
            f"tokens; set layer to {n_layers - 1} or less, or leave this size out."
        )


def asking_places(targets_BT: Tensor | None, mask: Tensor | None, shape: torch.Size, device: Any) -> Tensor:
    """(B,) the last token of each question: before the first answer, or the sequence's last that is no padding.

    >>> mask = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 0]])
    >>> asking_places(None, mask, mask.shape, "cpu").tolist()
    [3, 2]
    """
    n_rows, n_tokens = shape[:2]
    if targets_BT is not None:
        return (targets_BT >= 0).int().argmax(dim=1)
    if mask is not None and mask.ndim == 2:
        places_T = torch.arange(n_tokens, device=device)
        return (mask[:, -n_tokens:].bool() * places_T).argmax(dim=1)
    return torch.full((n_rows,), n_tokens - 1, device=device)


@contextmanager
def pruned(
    llm: Any, *, after: int, n_kept: int, is_image_BT: Tensor, asking_B: Tensor, cache: Any = None
) -> Iterator[None]:
    """Passes of the LLM inside see, after its layer number `after`, only `n_kept` image tokens of each sequence.

    They are those that the token `asking_B` attends to most in that layer, heads averaged. The choice stays with the
    `cache`, for the steps that generate. The LLM must use eager attention, the one that shows its weights. Passes of
    other threads see what they saw before.
    """
    layers = _layers(llm)
    require_layers(len(layers), after=after)
    choice = _Choice(n_kept, is_image_BT, asking_B, cache)
    hooks = [layer.register_forward_pre_hook(choice.mask, with_kwargs=True) for layer in layers[after:]]
    if choice.kept_BS is None:
        chooser: Any = layers[after - 1].self_attn
        hooks.append(chooser.register_forward_hook(choice.make))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def is_pruned(cache: Any) -> bool:
    """Whether a key-value cache is of a prompt whose tokens were chosen, so that later steps must keep the choice."""
    return getattr(cache, "vlmlaw_kept", None) is not None


def _layers(llm: Any) -> nn.ModuleList:
    layers = getattr(llm.base_model, "layers", None)
    if layers is None or not hasattr(layers[0], "self_attn"):
        raise UserError(
            f"compressor fastv: the LLM {type(llm).__name__} has no `layers` with `self_attn`; take a decoder of the "
            "Llama or Qwen kind, or a compressor that works before the LLM."
        )
    return layers


class _Choice:
    """Which tokens later layers see: made by the choosing layer, kept with the cache."""

    def __init__(self, n_kept: int, is_image_BT: Tensor, asking_B: Tensor, cache: Any) -> None:
        self.n_kept, self.is_image_BT, self.asking_B, self.cache = n_kept, is_image_BT, asking_B, cache
        self.kept_BS: Tensor | None = getattr(cache, "vlmlaw_kept", None)
        self.thread = threading.get_ident()  # hooks are called by all that pass through the layer

    def make(self, _module: Any, _inputs: Any, output: Any) -> None:
        if threading.get_ident() != self.thread:
            return
        weights_BHTT = output[1]
        if weights_BHTT is None:
            raise ValueError("fastv reads attention weights; load the LLM with attn_implementation='eager'")
        rows = torch.arange(len(weights_BHTT), device=weights_BHTT.device)
        looks_BT = weights_BHTT.mean(dim=1)[rows, self.asking_B]
        chosen_BV = best(looks_BT.masked_fill(~self.is_image_BT, -1.0), self.n_kept)
        is_chosen_BT = torch.zeros_like(self.is_image_BT).scatter(1, chosen_BV, value=True)
        self.kept_BS = is_chosen_BT | ~self.is_image_BT
        if self.cache is not None:
            self.cache.vlmlaw_kept = self.kept_BS

    def mask(self, _module: Any, inputs: tuple[Any, ...], given: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        if threading.get_ident() != self.thread:
            return None
        assert self.kept_BS is not None
        mask_B1TS, (states_BTD,) = given["attention_mask"], inputs
        n_keys = mask_B1TS.shape[-1]
        kept_BS = F.pad(self.kept_BS, (0, n_keys - self.kept_BS.shape[1]), value=True)  # what was generated since
        unseen = torch.finfo(states_BTD.dtype).min
        return inputs, given | {"attention_mask": mask_B1TS.masked_fill(~kept_BS[:, None, None], unseen)}
