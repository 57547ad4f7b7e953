"""AdamW and its learning-rate schedule: a linear rise, then a cosine decay."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

BETA1 = 0.9


def learning_rate_share(step: int, *, steps: int, warmup_share: float, final_share: float) -> float:
    """Return the share of the peak learning rate at a step: a linear rise, then a cosine decay to `final_share`."""
    warm = max(1, round(steps * warmup_share))
    if step < warm:
        return (step + 1) / warm
    cosine = 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))
    return final_share + (1 - final_share) * cosine


def make_optimizer(
    groups: Iterable[tuple[float, Iterable[nn.Parameter]]], *, weight_decay: float, beta2: float
) -> torch.optim.AdamW:
    """Make AdamW over (learning rate, parameters) groups. Gains and biases are not decayed, as is usual."""
    made = []
    for rate, parameters in groups:
        trained = [p for p in parameters if p.requires_grad]
        matrices, vectors = [p for p in trained if p.ndim > 1], [p for p in trained if p.ndim < 2]
        for decay, chosen in ((weight_decay, matrices), (0.0, vectors)):
            if chosen:
                made.append({"params": chosen, "lr": rate, "peak_lr": rate, "weight_decay": decay})
    # One kernel for all tensors takes a quarter of the time of a loop over the many small ones of a small model.
    return torch.optim.AdamW(made, betas=(BETA1, beta2), fused=True)
