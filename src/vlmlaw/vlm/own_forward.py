"""A language model as its own class computes it: the head at chosen places, the base model's arguments, the reference.

What is computed faster (packed rows, heads at labels only) must equal the class's own forward; both are called here.
B sequences, T tokens, D width, n places.
"""

from __future__ import annotations

import copy
import inspect
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast

from vlmlaw.errors import UserError
from vlmlaw.vlm.masks import AttentionRefused, PackedRow, SharedRows, layout_of_call
from vlmlaw.vlm.packed_attention import PACKED, attention_of_call, own_attention

# PACKED computes what these do, soft caps and sinks, too, which `sdpa` leaves out; `eager` needs it for layouts only.
TAKEN_OVER, TAKEN_OVER_IN_LAYOUTS = ("sdpa",), ("sdpa", "eager")
_ONLY_EAGER: set[type] = set()  # classes that PACKED has refused in plain rows: a fact about the class, found once


def head_logits(language_model: PreTrainedModel, hidden_nD: Tensor) -> Tensor:
    """Logits (n, vocab) of last hidden states, by the model's own head: scaled and capped as its class does it.

    The class's own forward runs on a copy that shares all weights and whose base model gives back what it is given.
    """
    name = language_model.base_model_prefix
    if not isinstance(getattr(language_model, name, None), nn.Module):
        raise UserError(
            f"{type(language_model).__name__} has no base model of its own under {name!r}, so that its head cannot run "
            "at the answers' places alone; take another language model."
        )
    head = copy.copy(language_model)
    head._modules = {**language_model._modules, name: _Given(getattr(language_model, name))}
    return head(**_accepted(language_model, inputs_embeds=hidden_nD[None], use_cache=False)).logits[0]


class _Output(BaseModelOutputWithPast):
    """What any base model may return, with nothing but hidden states in it."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


class _Given(nn.Module):
    """Stands for a base model whose last hidden states are known; it has the base model's other attributes."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        object.__setattr__(self, "base", base)

    def forward(self, *_: Any, inputs_embeds: Tensor, **__: Any) -> _Output:
        return _Output(last_hidden_state=inputs_embeds)

    def __getattr__(self, name: str) -> Any:
        found = getattr(object.__getattribute__(self, "base"), name)
        return self if name in ("decoder", "model") else found  # such as OPT's `model.decoder`


def _accepted(module: nn.Module, **arguments: Any) -> dict[str, Any]:
    """Those arguments that a module's forward takes."""
    parameters = inspect.signature(module.forward).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return arguments
    return {name: value for name, value in arguments.items() if name in parameters}


def read(
    language_model: PreTrainedModel,
    *,
    attention_mask: Tensor | None = None,
    position_ids: Tensor | None = None,
    eager: bool = False,
    **given: Any,
) -> Any:
    """Outputs of the base model in the layout of its arguments.

    With `cu_seq_lens_q` (and `max_length_q`) one packed row; with a mask of who sees whom (B, 1, T, T) questions that
    share a prefix; else rows of one document each, padded where the mask (B, T) is 0. Raises AttentionRefused where the
    model cannot be read in that layout.
    """
    packed = given.get("cu_seq_lens_q") is not None
    layout: PackedRow | SharedRows | None = PackedRow(int(given["max_length_q"])) if packed else None
    if attention_mask is not None and attention_mask.ndim == 4:
        assert position_ids is not None
        layout = SharedRows(attention_mask.bool(), position_ids)
        attention_mask = torch.ones_like(position_ids)
    taken_over = TAKEN_OVER if layout is None else TAKEN_OVER_IN_LAYOUTS
    implementation = "eager" if eager else _implementation(language_model, taken_over)
    if layout is not None and implementation != PACKED:
        raise AttentionRefused(f"{type(language_model).__name__} computes attention by {implementation} only")
    base = language_model.base_model
    arguments = _accepted(base, attention_mask=attention_mask, position_ids=position_ids, **given)
    if layout is not None and (missing := {"position_ids", *given} - arguments.keys()):
        raise AttentionRefused(f"{type(base).__name__} does not take {', '.join(sorted(missing))}")
    try:
        with attention_of_call(language_model, implementation), layout_of_call(layout) if layout else nullcontext():
            return base(**arguments)
    except AttentionRefused:
        if layout is not None or given.get("past_key_values") is not None:
            raise
        _ONLY_EAGER.add(type(language_model))
    with attention_of_call(language_model, "eager"):
        return base(**arguments)


def _implementation(language_model: PreTrainedModel, taken_over: tuple[str, ...]) -> str:
    """The attention of a call: ours in place of these where the model takes one from outside, else its own."""
    own = own_attention(language_model)
    if language_model.training and any(getattr(part, "gradient_checkpointing", 0) for part in language_model.modules()):
        return own  # by transformers' switch: layers are computed again after the call, by the model's own attention
    if type(language_model) in _ONLY_EAGER and own in taken_over:
        return "eager"
    if own == PACKED or (own in taken_over and getattr(language_model, "_supports_attention_backend", False)):
        return PACKED
    return own


def own_logits(language_model: PreTrainedModel, embeds_TD: Tensor, *, positions_T: Tensor | None = None) -> Tensor:
    """Logits (T, vocab) of one document by the class's own forward, eager, at every place: the reference.

    `positions_T` where they are not 0, 1, 2, ...; with a mask of ones, or they would be taken for packed documents.
    """
    placed: dict[str, Any] = {}
    if positions_T is not None:
        placed = {"position_ids": positions_T[None]}
        placed["attention_mask"] = torch.ones_like(placed["position_ids"], dtype=torch.long)
    with attention_of_call(language_model, "eager"):
        arguments = _accepted(language_model, inputs_embeds=embeds_TD[None], use_cache=False, **placed)
        return language_model(**arguments).logits[0]
