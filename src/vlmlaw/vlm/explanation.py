"""Explain an LLM's answer: how relevant each token of the prompt is to the first token of the answer.

Generic attention explainability (Chefer et al. 2021, arXiv 2103.15679): attention times its gradient, where positive,
from layer to layer. B sequences, T tokens, D width, H heads.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vlmlaw.vlm.own_forward import head_logits


def token_relevance(llm: Any, embeds_BTD: Tensor, given: Mapping[str, Any], *, asking_B: Tensor) -> Tensor:
    """Return the relevance (B, T) of each token to the answer's first token: a row of (I + C_L) ... (I + C_1).

    C_l = mean over heads of (A * dy/dA)+ in layer l, where A is its attention and y the largest logit at the question's
    last token (`asking_B`), whose row is returned. `given` are the arguments of the LLM's layers for this prompt;
    nothing is cached. Runs the LLM forward and backward, even where gradients are off. Raises ValueError unless
    attention is eager, which returns its weights.
    """
    with torch.inference_mode(mode=False), torch.enable_grad():
        # Copied, because tensors made in inference mode cannot take part in a gradient.
        asking_B = asking_B.clone()
        rows = torch.arange(len(asking_B), device=asking_B.device)
        arguments = dict(given) | {"past_key_values": None, "use_cache": False}
        arguments["position_embeddings"] = tuple(x.clone() for x in given["position_embeddings"])
        weights, states_BTD = _weights_and_states(llm, embeds_BTD.detach().clone().requires_grad_(), arguments)
        logits_BW = head_logits(llm, llm.base_model.norm(states_BTD)[rows, asking_B])
        gradients = torch.autograd.grad(logits_BW.amax(dim=1).sum(), weights)
    row_B1T = torch.nn.functional.one_hot(asking_B, embeds_BTD.shape[1]).float().unsqueeze(1)
    for weights_BHTT, gradient_BHTT in zip(reversed(weights), reversed(gradients), strict=True):
        share_BTT = (weights_BHTT.detach() * gradient_BHTT).clamp(min=0).float().mean(dim=1)
        row_B1T = row_B1T + row_B1T @ share_BTT
    return row_B1T.squeeze(1)


def _weights_and_states(llm: Any, states_BTD: Tensor, arguments: dict[str, Any]) -> tuple[list[Tensor], Tensor]:
    """Return the attention weights of each layer and the last layer's states, in a graph that gradients can use."""
    weights: list[Tensor] = []
    thread = threading.get_ident()

    def keep(_module: Any, _inputs: Any, output: Any) -> None:
        if threading.get_ident() == thread:
            weights.append(output[1])

    hooks = [layer.self_attn.register_forward_hook(keep) for layer in llm.base_model.layers]
    try:
        for layer in llm.base_model.layers:
            output = layer(states_BTD, **arguments)
            states_BTD = output[0] if isinstance(output, tuple) else output
    finally:
        for hook in hooks:
            hook.remove()
    if any(shown is None for shown in weights):
        raise ValueError("found no attention weights; load the LLM with attn_implementation='eager'")
    return weights, states_BTD
