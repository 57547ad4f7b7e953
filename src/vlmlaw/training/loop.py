"""The training loop of encoder, language models and cells: AdamW, warm-up, cosine, clipping, checkpoints.

The data of a step is a pure function of its number, so a run that was interrupted and resumed from its checkpoint ends
bit for bit where an uninterrupted one does.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vlmlaw.errors import UserError
from vlmlaw.runtime.loggers import TrainLog
from vlmlaw.runtime.progress import Progress
from vlmlaw.runtime.stop_switch import StopSwitch
from vlmlaw.training import checkpoint
from vlmlaw.training.distributed import Machine
from vlmlaw.training.interruption import CheckpointClock, Stopped
from vlmlaw.training.optimizer import learning_rate_share
from vlmlaw.training.prefetch import feed
from vlmlaw.training.settings import ComputeSettings
from vlmlaw.training.throughput import Meter, Pass, whole_step

if TYPE_CHECKING:
    from vlmlaw.training.settings import OptimizerSettings
    from vlmlaw.vlm.cost import TrainingFlops


def fit(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    loss: Callable[..., Tensor],
    settings: OptimizerSettings,
    workspace: Path,
    what: str,
    passes_of: Callable[[int], Sequence[Pass]] = whole_step,
    halve: Callable[[], int] | None = None,
    validate: Callable[[int, int], dict[str, float]] | None = None,
    flops: TrainingFlops | None = None,
    machine: Machine | None = None,
    compute: ComputeSettings | None = None,
) -> dict[str, Any]:
    """Train `module` for settings.steps and return what the run took.

    A step is this process's part of the passes that `passes_of` makes of its number; its loss is the sum of `loss` of
    each pass's inputs, weighted by their shares. `workspace` keeps `train.jsonl`, a line a step, and the checkpoint.
    `halve` makes passes half as large where the device ran out of memory; the step is made again. `validate` gives, of
    a step and their number, what its line says beside the loss. Raises UserError for a checkpoint of another training
    and, before the update, a loss or gradient that is not finite; Stopped, with a checkpoint, when it is to end.
    """
    machine, compute = machine or Machine(torch.device("cpu")), compute or ComputeSettings(logs=())
    workspace.mkdir(parents=True, exist_ok=True)
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    first, spent = checkpoint.resume(workspace, trained, optimizer, log=workspace / "train.jsonl", machine=machine)
    meter = Meter(spent, machine, flops=flops, dtype=getattr(torch, settings.dtype))
    log = TrainLog(workspace, what, steps=settings.steps, kinds=compute.logs, first=first, on=machine.is_first)
    shown = Progress(settings.steps, what, done=first, on=machine.is_first)
    module.train()
    with StopSwitch() as stop, log, shown:
        clock = CheckpointClock(settings.checkpoint_seconds)
        waiting = time.monotonic()
        inputs = _Inputs(passes_of, range(first, settings.steps), halve, what=what, machine=machine, compute=compute)
        for step, passes in inputs:
            waited = time.monotonic() - waiting
            try:
                line = _update(trained, optimizer, loss, passes, step, settings=settings, what=what, machine=machine)
            except PassTooLarge as error:
                inputs.again(step, why=str(error))
                continue
            if validate is not None:
                line |= validate(step, settings.steps)
            meter.add(passes, waited=waited)
            rates = meter.rates()
            log.write(line, rates)
            shown.step(_note(line["loss"], rates))
            stopping, due = machine.any(stop.pressed, clock.is_due and step + 1 < settings.steps)
            if stopping or due:
                log.onto_disk()
                with clock.saving():
                    checkpoint.save(workspace, trained, optimizer, step=step + 1, spent=meter.read(), machine=machine)
            if stopping:
                checkpoint.wait_for_removal()
                raise Stopped
            waiting = time.monotonic()
    checkpoint.wait_for_removal()
    module.eval()
    return {"steps": settings.steps, "last_loss": log.last_loss} | meter.summary()


class PassTooLarge(Exception):
    """Raised if the device runs out of memory in a forward or backward pass; no weight has changed."""


class _Inputs:
    """Yields steps and their passes; a step that did not fit into memory comes again in smaller passes."""

    def __init__(
        self,
        passes_of: Callable[[int], Sequence[Pass]],
        steps: range,
        halve: Callable[[], int] | None,
        *,
        what: str,
        machine: Machine,
        compute: ComputeSettings,
    ):
        self._passes_of, self._steps, self._halve = passes_of, steps, halve
        self._what, self._machine, self._compute = what, machine, compute
        self._again = False

    def __iter__(self) -> Iterator[tuple[int, Sequence[Pass]]]:
        while True:
            fed = feed(self._passes_of, self._steps, device=self._machine.device, ahead=self._compute.inputs_ahead)
            for step, passes in fed:
                yield step, passes
                del passes
                if self._again:
                    break
            if not self._again:
                return
            fed.close()  # the passes made ahead have the old size
            self._again = False
            if self._machine.device.type == "cuda":
                torch.cuda.empty_cache()

    def again(self, step: int, *, why: str) -> None:
        """Repeat the step in smaller passes. Raises UserError if passes cannot be smaller.

        Raises SystemExit among several processes, because the others wait for this one; the next attempt has smaller
        passes.
        """
        if self._halve is None:
            raise UserError(f"{self._what}: the device's memory does not hold a step ({why}); take a smaller batch.")
        n_tokens = self._halve()
        told = f"{self._what}: out of memory at step {step} ({why.splitlines()[0][:120]}); passes of {n_tokens} tokens"
        if self._machine.n_processes > 1:
            raise SystemExit(f"{told} the next time: run it again.")
        print(f"{told} from here on.", file=sys.stderr)
        self._again, self._steps = True, range(step, self._steps.stop)


def _update(
    trained: dict[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    loss: Callable[..., Tensor],
    passes: Sequence[Pass],
    step: int,
    *,
    settings: OptimizerSettings,
    what: str,
    machine: Machine,
) -> dict[str, float]:
    """Make one step: learning rate, loss and gradient of each pass, update. Return its line of the log."""
    rate_share = learning_rate_share(
        step, steps=settings.steps, warmup_share=settings.warmup_share, final_share=settings.final_rate_share
    )
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * rate_share
    try:
        total = _gradients(loss, passes, machine=machine)
    except torch.OutOfMemoryError as error:
        optimizer.zero_grad()
        raise PassTooLarge(str(error) or "out of memory") from None
    norm = nn.utils.clip_grad_norm_(trained.values(), settings.clip_norm)
    whole_norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # of all processes' parts
    loss_of_all = machine.total([float(total)])[0]
    line = {"step": step, "loss": loss_of_all, "gradient_norm": whole_norm.item(), "rate": rate_share}
    _require_finite(step, line["loss"], line["gradient_norm"], what)
    optimizer.step()
    optimizer.zero_grad()
    return line


def _gradients(loss: Callable[..., Tensor], passes: Sequence[Pass], *, machine: Machine) -> Tensor:
    """Add up the gradients of a step's passes, and return this process's part of the loss."""
    total = torch.zeros((), device=machine.device)
    for one in passes:
        part = loss(**one.inputs)
        part = part if one.share == 1 else part * one.share
        # FSDP2 averages the gradients of processes, but each has a share of their sum.
        (part if machine.n_processes == 1 else part * machine.n_processes).backward()
        total = total + part.detach()
    return total


def _require_finite(step: int, loss: float, norm: float, what: str) -> None:
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise UserError(
            f"{what}: at step {step} the loss is {loss} and the gradient's norm {norm}; both must be finite. "
            "The weights were not updated. Lower the learning rate, or look at that step's data."
        )


def _note(loss: float, rates: dict[str, float]) -> str:
    """Return the progress bar's note on a step."""
    return f"loss {loss:.3f}" + (f", MFU {100 * rates['mfu']:.1f} %" if rates else "")
