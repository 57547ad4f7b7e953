"""Compute the loss on held-out records during a training."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vlmlaw.errors import UserError
from vlmlaw.training.sharding import reshard
from vlmlaw.vlm.image_inputs import ImageInputs

if TYPE_CHECKING:
    from vlmlaw.tokens.token_table import TokenTable
    from vlmlaw.training.batches import StepPasses
    from vlmlaw.training.distributed import Machine
    from vlmlaw.training.settings import CellSettings

Validate = Callable[[int, int], dict[str, float]]


def validation_of(
    model: Any, table: TokenTable | None, passes_of: StepPasses, *, settings: CellSettings, machine: Machine
) -> Validate | None:
    """Return a function of a step and the number of steps that gives further entries of the log, {} if none is due.

    The entry is `validation_loss`, the mean over all labelled tokens of the held-out records, in the training's layout,
    arithmetic and passes. Every process must call the function. It draws no random numbers, so a resumed training ends
    where an uninterrupted one does. Returns None without held-out records. Raises UserError if there are fewer of them
    than processes.
    """
    if table is None or settings.validation is None:
        return None
    if len(table) < machine.n_processes:
        raise UserError(
            f"validation.records is {len(table)}, but {machine.n_processes} processes need a record each; raise it."
        )
    every = settings.validation.every

    def validate(step: int, n_steps: int) -> dict[str, float]:
        if (step + 1) % every and step + 1 != n_steps:
            return {}
        return {"validation_loss": _mean_loss(model, table, passes_of, machine=machine)}

    return validate


@torch.no_grad()
def _mean_loss(model: Any, table: TokenTable, passes_of: StepPasses, *, machine: Machine) -> float:
    model.eval()
    total, n_targets = 0.0, 0
    for one in passes_of.over(table):
        inputs = {name: _moved(value, machine.device) for name, value in one.inputs.items()}
        loss = model(**inputs, use_cache=False).loss
        total, n_targets = total + loss.item() * one.work.n_targets, n_targets + one.work.n_targets
    model.train()
    reshard(model)
    summed, n_all = machine.total([total, float(n_targets)])
    return summed / n_all


def _moved(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, Tensor | ImageInputs) else value
