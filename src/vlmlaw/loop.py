"""The one training loop, of encoder, language models and cells alike: AdamW, warm-up, cosine, clipping, checkpoints.

What a step trains on is a pure function of its number, so a run that was interrupted and resumed from its checkpoint
ends bit for bit where an uninterrupted one does.
"""

from __future__ import annotations

import math
import os
import platform
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch import Tensor, nn

from vlmlaw import checkpoint
from vlmlaw.errors import UserError
from vlmlaw.feed import feed
from vlmlaw.machine import EXIT_RUN_ME_AGAIN, Machine
from vlmlaw.runtime.loggers import TrainLog
from vlmlaw.runtime.progress import Progress
from vlmlaw.stage_settings import ComputeSettings
from vlmlaw.work import Meter, Pass, whole_step

if TYPE_CHECKING:
    from vlmlaw.stage_settings import OptimizerSettings
    from vlmlaw.vlm.cost import TrainingFlops

LEAST_TIME_BETWEEN_CHECKPOINTS = 20  # times what the last one took, so that they take 5 % of the time at most
LEAST_SHARE_OF_RATE = 0.02  # the cosine ends here, not at zero, where the last steps would be wasted
BETAS = (0.9, 0.98)  # 0.98 and not 0.999: these runs are shorter than the memory of 0.999


def learning_rate_share(step: int, *, steps: int, warmup_share: float) -> float:
    """The share of the peak learning rate at a step: a linear rise, then a cosine down."""
    warm = max(1, round(steps * warmup_share))
    if step < warm:
        return (step + 1) / warm
    cosine = 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))
    return LEAST_SHARE_OF_RATE + (1 - LEAST_SHARE_OF_RATE) * cosine


def make_optimizer(groups: Iterable[tuple[float, Iterable[nn.Parameter]]], *, weight_decay: float) -> torch.optim.AdamW:
    """AdamW over (learning rate, parameters) groups. Gains and biases are not decayed, as is usual."""
    made = []
    for rate, parameters in groups:
        trained = [p for p in parameters if p.requires_grad]
        matrices, vectors = [p for p in trained if p.ndim > 1], [p for p in trained if p.ndim < 2]
        for decay, chosen in ((weight_decay, matrices), (0.0, vectors)):
            if chosen:
                made.append({"params": chosen, "lr": rate, "peak_lr": rate, "weight_decay": decay})
    # One kernel for all: a quarter of the time of a loop over a small model's many small tensors.
    return torch.optim.AdamW(made, betas=BETAS, fused=True)


class Stopped(SystemExit):
    """A stop was asked for (SIGTERM or Ctrl-C) and the work so far is saved."""

    def __init__(self) -> None:
        super().__init__(EXIT_RUN_ME_AGAIN)


class StopSwitch:
    """Turns SIGTERM, a cluster's notice before it kills, and Ctrl-C into a flag that the loop reads between steps.

    A second Ctrl-C acts at once, as if there were no switch; a second SIGTERM adds nothing, since a cluster may send
    one to each process and a parent pass on its own.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __enter__(self) -> StopSwitch:
        self.pressed = False
        self._before = {number: signal.signal(number, self._press) for number in self.SIGNALS}
        return self

    def _press(self, *_: Any) -> None:
        self.pressed = True
        signal.signal(signal.SIGINT, self._before[signal.SIGINT])

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def fit(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    loss: Callable[..., Tensor],
    settings: OptimizerSettings,
    workspace: Path,
    what: str,
    passes_of: Callable[[int], Sequence[Pass]] = whole_step,
    flops: TrainingFlops | None = None,
    machine: Machine | None = None,
    compute: ComputeSettings | None = None,
) -> dict[str, Any]:
    """Train `module` for settings.steps and return what the run took.

    A step is the passes that `passes_of` makes of its number (this process's part of them); `loss` takes a pass's
    inputs, and the step's loss is their sum, weighted by their shares. `workspace` keeps the checkpoint and
    `train.jsonl`, one line a step; a checkpoint found there is resumed.
    Raises UserError when the checkpoint is of another training, and, before the update, when the loss or the
    gradient is not finite; Stopped, with a checkpoint to go on from, when the process is asked to end.
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
        steps = range(first, settings.steps)
        for step, passes in feed(passes_of, steps, device=machine.device, ahead=compute.inputs_ahead):
            waited = time.monotonic() - waiting
            line = _update(trained, optimizer, loss, passes, step, settings=settings, what=what, machine=machine)
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
                raise Stopped
            waiting = time.monotonic()
    module.eval()
    return {"steps": settings.steps, "last_loss": log.last_loss} | meter.summary()


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
    """One step: rate, loss and gradient of each pass, update. Returns its line of the log."""
    rate_share = learning_rate_share(step, steps=settings.steps, warmup_share=settings.warmup_share)
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * rate_share
    total = torch.zeros((), device=machine.device)
    for one in passes:
        part = loss(**one.inputs)
        part = part if one.share == 1 else part * one.share
        # Several processes' gradients are averaged (FSDP2), and each holds a share of the sum.
        (part if machine.n_processes == 1 else part * machine.n_processes).backward()
        total = total + part.detach()
    norm = nn.utils.clip_grad_norm_(trained.values(), settings.clip_norm)
    whole_norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # of all processes' parts
    loss_of_all = machine.total([float(total)])[0]
    line = {"step": step, "loss": loss_of_all, "gradient_norm": whole_norm.item(), "rate": rate_share}
    _demand_finite(step, line["loss"], line["gradient_norm"], what)
    optimizer.step()
    optimizer.zero_grad()
    return line


def _demand_finite(step: int, loss: float, norm: float, what: str) -> None:
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise UserError(
            f"{what}: at step {step} the loss is {loss} and the gradient's norm {norm}; both must be finite. "
            "The weights were not updated. Lower the learning rate, or look at that step's data."
        )


def _note(loss: float, rates: dict[str, float]) -> str:
    """What the progress bar says of a step."""
    return f"loss {loss:.3f}" + (f", MFU {100 * rates['mfu']:.1f} %" if rates else "")


class CheckpointClock:
    """Says when a checkpoint is due: after so many seconds, and never so often that it takes much of the time."""

    def __init__(self, seconds: float):
        self._seconds, self._between, self._saved = seconds, seconds, time.monotonic()

    @property
    def is_due(self) -> bool:
        return time.monotonic() - self._saved >= self._between

    @contextmanager
    def saving(self) -> Iterator[None]:
        began = time.monotonic()
        yield
        self._saved = time.monotonic()
        self._between = max(self._seconds, LEAST_TIME_BETWEEN_CHECKPOINTS * (self._saved - began))


def workspace_of(out: Path) -> Path:
    """The folder beside `out` where an unfinished training keeps its checkpoint and log."""
    return out.parent / f"{out.name}.work"


def clear_workspace(out: Path) -> None:
    """Remove what only an unfinished training needs."""
    shutil.rmtree(workspace_of(out), ignore_errors=True)


def use_repeatable_arithmetic(seed: int, *, deterministic: bool = True) -> None:
    """Seed torch and, where it is asked for, refuse operations whose result differs from run to run."""
    torch.manual_seed(seed)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # nothing here reads memory before it is written
    torch.use_deterministic_algorithms(deterministic)


def account(settings: Any, spent: dict[str, Any]) -> dict[str, Any]:
    """What a training was made from and what it took: the content of its training.json."""
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    return {"settings": asdict(settings), "versions": versions, "threads": torch.get_num_threads()} | spent
