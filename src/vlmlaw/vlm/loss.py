"""Output head and cross-entropy, computed only at places that have a label.

Logits over a vocabulary are the largest tensor of a training: 20,000 labels times Qwen's 152,000 words are 12 GB in
float32. Beyond LOGITS_AT_ONCE they are computed in parts, and recomputed for the gradient. n labels, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from vlmlaw.vlm.own_forward import head_logits

LOGITS_AT_ONCE = 2**28  # numbers


def prediction_loss(
    language_model: PreTrainedModel, hidden_nD: Tensor, targets_n: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Return the mean cross-entropy by the model's own head, and the logits (n, vocab).

    The logits are None if they were too many to keep for a gradient.
    """
    n_words = language_model.config.get_text_config().vocab_size
    if not torch.is_grad_enabled() or hidden_nD.shape[0] * n_words <= LOGITS_AT_ONCE:
        logits = head_logits(language_model, hidden_nD)
        return F.cross_entropy(logits.float(), targets_n), logits

    def summed(hidden: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(head_logits(language_model, hidden).float(), targets, reduction="sum")

    n_at_once = max(1, LOGITS_AT_ONCE // n_words)
    parts = zip(hidden_nD.split(n_at_once), targets_n.split(n_at_once), strict=True)
    losses = [checkpoint(summed, hidden, targets, use_reentrant=False) for hidden, targets in parts]
    return torch.stack(losses).sum() / len(targets_n), None
