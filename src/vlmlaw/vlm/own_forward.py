"""Call a language model through its own class: the head at chosen places, the base model, the reference forward.

What is computed faster (packed rows, the head at labels only) must equal the class's own forward; both are called here.
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

# Implementations that PACKED replaces: `sdpa` always, because it leaves out soft caps and sinks; `eager` has both, so
# it is replaced only in the layouts that it cannot read.
TAKEN_OVER, TAKEN_OVER_IN_LAYOUTS = ("sdpa",), ("sdpa", "eager")
_ONLY_EAGER: set[type] = set()  # classes for which PACKED has refused plain rows, found at the first call


def head_logits(language_model: PreTrainedModel, hidden_nD: Tensor) -> Tensor:
    """Return logits (n, vocab) of last hidden states by the model's own head, scaled and capped as in its class.

    The class's own forward runs on a copy that shares all weights and whose base model returns its input unchanged.
    Raises UserError for a model without a base model.
    """
    name = language_model.base_model_prefix
    if not isinstance(getattr(language_model, name, None), nn.Module):
        raise UserError(
            f"{type(language_model).__name__} has no base model under {name!r}, so its head cannot be run at the "
            "answers' places alone; take another language model."
        )
    head = copy.copy(language_model)
    head._modules = {**language_model._modules, name: _Given(getattr(language_model, name))}
    return head(**_accepted(language_model, inputs_embeds=hidden_nD[None], use_cache=False)).logits[0]


class _Output(BaseModelOutputWithPast):
    """A base model's output that holds hidden states alone; any other field is None."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


class _Given(nn.Module):
    """Stand-in for a base model whose last hidden states are known; its other attributes are the base model's."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        object.__setattr__(self, "base", base)

    def forward(self, *_: Any, inputs_embeds: Tensor, **__: Any) -> _Output:
        return _Output(last_hidden_state=inputs_embeds)

    def __getattr__(self, name: str) -> Any:
        found = getattr(object.__getattribute__(self, "base"), name)
        return self if name in ("decoder", "model") else found  # such as OPT's `model.decoder`


def _accepted(module: nn.Module, **arguments: Any) -> dict[str, Any]:
    """Keep the arguments that a module's forward accepts."""
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
    """Run the base model in the layout that its arguments describe, and return its outputs.

    `cu_seq_lens_q` (with `max_length_q`) describes one packed row, and a mask (B, 1, T, T) of which token sees which
    describes questions that share a prefix. Otherwise each row is one document, padded where the mask (B, T) is 0.
    Raises AttentionRefused if the model cannot be run in that layout.
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
    """Choose the attention of a call: PACKED in place of `taken_over` where the model allows that, else its own."""
    own = own_attention(language_model)
    if language_model.training and any(getattr(part, "gradient_checkpointing", 0) for part in language_model.modules()):
        return own  # transformers recomputes the layers after this call, with the model's own attention
    if type(language_model) in _ONLY_EAGER and own in taken_over:
        return "eager"
    if own == PACKED or (own in taken_over and getattr(language_model, "_supports_attention_backend", False)):
        return PACKED
    return own


def own_logits(language_model: PreTrainedModel, embeds_TD: Tensor, *, positions_T: Tensor | None = None) -> Tensor:
    """Return logits (T, vocab) of one document by the class's own forward with eager attention: the reference.

    Give `positions_T` unless they are 0, 1, 2, ... They are passed with a mask of ones, because transformers would
    otherwise take them for packed documents.
    """
    placed: dict[str, Any] = {}
    if positions_T is not None:
        placed = {"position_ids": positions_T[None]}
        placed["attention_mask"] = torch.ones_like(placed["position_ids"], dtype=torch.long)
    with attention_of_call(language_model, "eager"):
        arguments = _accepted(language_model, inputs_embeds=embeds_TD[None], use_cache=False, **placed)
        return language_model(**arguments).logits[0]
