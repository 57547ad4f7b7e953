"""The one training loop, of encoder, language models and cells alike: AdamW, warm-up, cosine, clipping, checkpoints.

What a step trains on is a pure function of its number, so a run that was interrupted and resumed from its checkpoint
ends bit for bit where an uninterrupted one does.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import platform
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import torch
import transformers
from torch import Tensor, nn

from vlmlaw.errors import UserError
from vlmlaw.files import whole_file
from vlmlaw.progress import Progress

if TYPE_CHECKING:
    from vlmlaw.experiment import OptimizerSettings

EXIT_RUN_ME_AGAIN = 75  # EX_TEMPFAIL of sysexits.h: stopped from outside, with a checkpoint to go on from
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


class _StopSwitch:
    """Turns SIGTERM, a cluster's notice before it kills, and Ctrl-C into a flag that the loop reads between steps.

    It is pressed once: a second signal acts at once, as if there were no switch.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __enter__(self) -> _StopSwitch:
        self.pressed = False
        self._before = {number: signal.signal(number, self._press) for number in self.SIGNALS}
        return self

    def _press(self, *_: Any) -> None:
        self.pressed = True
        self.__exit__()

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def fit(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    loss_of_step: Callable[[int], Tensor],
    settings: OptimizerSettings,
    workspace: Path,
    what: str,
) -> dict[str, Any]:
    """Train `module` for settings.steps and return what the run took.

    `workspace` keeps the checkpoint and `train.jsonl`, one line a step; a checkpoint found there is resumed.
    Raises UserError when the checkpoint is of another training, and, before the update, when the loss or the
    gradient is not finite; Stopped, with a checkpoint to go on from, when the process is asked to end.
    """
    workspace.mkdir(parents=True, exist_ok=True)
    checkpoint, log = workspace / "checkpoint.pt", workspace / "train.jsonl"
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    first, spent = _resume(checkpoint, trained, optimizer, log)
    meter = _Meter(spent)
    shown = Progress(settings.steps, what, done=first)
    module.train()
    with _StopSwitch() as stop, log.open("a") as lines:
        saved = time.monotonic()
        for step in range(first, settings.steps):
            line = _update(trained, optimizer, loss_of_step, step, settings=settings, what=what)
            lines.write(json.dumps(line) + "\n")
            shown.step(f"loss {line['loss']:.3f}")
            due = time.monotonic() - saved >= settings.checkpoint_seconds
            if stop.pressed or (due and step + 1 < settings.steps):
                _onto_disk(lines)
                _save(checkpoint, trained, optimizer, step + 1, meter.read())
                saved = time.monotonic()
            if stop.pressed:
                raise Stopped
    shown.close()
    module.eval()
    last_loss = json.loads(log.read_text().splitlines()[-1])["loss"]
    return {"steps": settings.steps, "last_loss": last_loss} | meter.read()


def _update(
    trained: dict[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    loss_of_step: Callable[[int], Tensor],
    step: int,
    *,
    settings: OptimizerSettings,
    what: str,
) -> dict[str, float]:
    """One step: rate, loss, gradient, update. Returns its line of the log."""
    share = learning_rate_share(step, steps=settings.steps, warmup_share=settings.warmup_share)
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * share
    loss = loss_of_step(step)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(trained.values(), settings.clip_norm)
    line = {"step": step, "loss": loss.item(), "gradient_norm": norm.item(), "rate": share}
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


class _Meter:
    """Wall and CPU seconds, added up over the parts of an interrupted run, and peak memory."""

    def __init__(self, spent: dict[str, float]):
        self._spent, self._wall, self._cpu = spent, time.monotonic(), time.process_time()

    def read(self) -> dict[str, float]:
        peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return {
            "wall_seconds": self._spent.get("wall_seconds", 0.0) + time.monotonic() - self._wall,
            "cpu_seconds": self._spent.get("cpu_seconds", 0.0) + time.process_time() - self._cpu,
            "peak_memory_mib": max(self._spent.get("peak_memory_mib", 0.0), peak_kib / 1024),
        }


def _onto_disk(lines: TextIO) -> None:
    """Have all lines on the disk, so that no checkpoint is ahead of its log."""
    lines.flush()
    os.fsync(lines.fileno())


def _save(
    path: Path, trained: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer, step: int, spent: dict[str, float]
) -> None:
    state = {
        "weights": trained,
        "optimizer": optimizer.state_dict(),
        "random_state": torch.get_rng_state(),  # for losses that draw, such as those with dropout
        "step": step,
        "spent": spent,
    }
    # Through Python's file, whose errors name the disk that is full; torch's own name an internal assertion.
    with whole_file(path) as partial, partial.open("wb") as file:
        torch.save(state, file)


def _resume(
    path: Path, trained: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer, log: Path
) -> tuple[int, dict[str, float]]:
    """The step to start from, and what was spent before; weights, optimizer and log are put back to that step."""
    if not path.exists():
        log.write_text("")
        return 0, {}
    try:
        state = torch.load(path, weights_only=True)
        weights, step, spent = state["weights"], state["step"], state["spent"]
        lines = log.read_text().splitlines(keepends=True)[:step]
    except (OSError, EOFError, RuntimeError, KeyError, pickle.UnpicklingError) as error:
        raise UserError(f"{path} cannot be resumed ({error!r}); delete {path.parent} to start afresh.") from error
    shapes, expected = ({name: tuple(p.shape) for name, p in part.items()} for part in (weights, trained))
    if shapes != expected or len(lines) != step:
        different = sorted(name for name in {*shapes, *expected} if shapes.get(name) != expected.get(name))
        found = f"its weights differ in {', '.join(different[:3])}" if different else f"{len(lines)} lines of log"
        raise UserError(f"{path} (step {step}) is of another training: {found}. Delete {path.parent} to start afresh.")
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(weights[name])
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["random_state"])
    with whole_file(log) as partial:
        partial.write_text("".join(lines))
    return step, spent


def workspace_of(out: Path) -> Path:
    """The folder beside `out` where an unfinished training keeps its checkpoint and log."""
    return out.parent / f"{out.name}.work"


def clear_workspace(out: Path) -> None:
    """Remove what only an unfinished training needs."""
    shutil.rmtree(workspace_of(out), ignore_errors=True)


def use_repeatable_arithmetic(seed: int) -> None:
    """Seed torch and refuse operations whose result differs from run to run."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True)


def account(settings: Any, spent: dict[str, Any]) -> dict[str, Any]:
    """What a training was made from and what it took: the content of its training.json."""
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    return {"settings": asdict(settings), "versions": versions, "threads": torch.get_num_threads()} | spent
