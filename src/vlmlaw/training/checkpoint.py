"""Checkpoints of a training in torch's distributed format, which any number of processes can read.

A checkpoint is the folder `checkpoint-{step}`; `state.json` is written last, and without it the checkpoint does not
count. The log is cut to the checkpoint's step, so that it never holds a step twice.
"""

from __future__ import annotations

import json
import pickle
import shutil
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vlmlaw.errors import UserError
from vlmlaw.runtime.whole_files import whole_file

if TYPE_CHECKING:
    from vlmlaw.training.distributed import Machine

STATE = "state.json"
WEIGHT, OPTIMIZER, RANDOM = "weight.", "optimizer.", "random."


def save(
    workspace: Path,
    trained: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    *,
    step: int,
    spent: Mapping[str, Any],
    machine: Machine,
) -> None:
    """Write the checkpoint of a step and remove earlier ones. Every process must call this.

    The removal runs beside the training; only `wait_for_removal` waits for it.
    """
    import torch.distributed.checkpoint as dcp

    wait_for_removal()
    folder = workspace / f"checkpoint-{step}"
    if machine.is_first:
        shutil.rmtree(folder, ignore_errors=True)
    machine.wait_for_all()
    with _alone_without_warning():
        dcp.save(_tensors(trained, optimizer, machine), checkpoint_id=folder, no_dist=machine.n_processes == 1)
    if machine.is_first:
        with whole_file(folder / STATE) as partial:
            partial.write_text(json.dumps({"step": step, "spent": dict(spent)}))
        _remove_in_background([other for other in _folders(workspace) if other != folder])
    machine.wait_for_all()


_removals: list[threading.Thread] = []  # at most one


def _remove_in_background(folders: list[Path]) -> None:
    """Remove folders in a thread: for the 170 GB of a 14 B model's checkpoint, some shared disks take minutes."""

    def remove() -> None:
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)

    if folders:
        _removals.append(threading.Thread(target=remove, name="checkpoint removal"))
        _removals[-1].start()


def wait_for_removal() -> None:
    """Wait until this process has removed earlier checkpoints."""
    while _removals:
        _removals.pop().join()


def resume(
    workspace: Path,
    trained: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    *,
    log: Path,
    machine: Machine,
) -> tuple[int, dict[str, Any]]:
    """Restore weights, optimizer and log to the last checkpoint; return its step and what was spent before it.

    Raises UserError if the checkpoint is damaged or belongs to another training.
    """
    folder = next((folder for folder in reversed(_folders(workspace)) if (folder / STATE).exists()), None)
    if folder is None:
        if machine.is_first:
            log.write_text("")
        return 0, {}
    from torch.distributed.checkpoint import CheckpointException

    damaged = (OSError, EOFError, RuntimeError, KeyError, ValueError, pickle.UnpicklingError, CheckpointException)
    try:
        state = json.loads((folder / STATE).read_text())
        step, spent = state["step"], state["spent"]
        lines = log.read_text().splitlines(keepends=True)[:step]
        shapes = _shapes(folder)
        _require_same_training(folder, shapes, trained, n_lines=len(lines), step=step)
        _load(folder, shapes, trained, optimizer, machine)
    except damaged as error:
        raise UserError(f"{folder} cannot be resumed ({error!r}); delete {workspace} to start afresh.") from error
    machine.wait_for_all()  # before the log is cut, which every process has read
    if machine.is_first:
        with whole_file(log) as partial:
            partial.write_text("".join(lines))
    return step, spent


@contextmanager
def _alone_without_warning() -> Iterator[None]:
    """Silence torch's warning that a checkpoint is written or read by one process alone, which `no_dist` says."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def _folders(workspace: Path) -> list[Path]:
    """Return the checkpoints in a workspace by step."""
    return sorted(workspace.glob("checkpoint-*"), key=lambda folder: int(folder.name.partition("-")[2]))


def _tensors(
    trained: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer, machine: Machine
) -> dict[str, Tensor]:
    """Return all tensors of a training's state by name."""
    state: dict[str, Tensor] = {f"{WEIGHT}{name}": parameter.detach() for name, parameter in trained.items()}
    for name, parameter in trained.items():
        for key, value in optimizer.state.get(parameter, {}).items():
            state[f"{OPTIMIZER}{key}.{name}"] = value
    # For losses that draw, such as those with dropout: each process draws for itself.
    of_cpu, of_cuda = _random_names(machine)
    state[of_cpu] = torch.get_rng_state()
    if torch.cuda.is_initialized():
        state[of_cuda] = torch.cuda.get_rng_state()
    return state


def _random_names(machine: Machine) -> tuple[str, str]:
    own = "" if machine.is_first else f".{machine.rank}"
    return f"{RANDOM}cpu{own}", f"{RANDOM}cuda{own}"


def _shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a checkpoint's whole tensors by name."""
    from torch.distributed.checkpoint import FileSystemReader

    metadata = FileSystemReader(folder).read_metadata().state_dict_metadata
    return {name: tuple(tensor.size) for name, tensor in metadata.items()}  # type: ignore[union-attr]


def _require_same_training(
    folder: Path,
    shapes: Mapping[str, tuple[int, ...]],
    trained: Mapping[str, nn.Parameter],
    *,
    n_lines: int,
    step: int,
) -> None:
    found = {name.removeprefix(WEIGHT): shape for name, shape in shapes.items() if name.startswith(WEIGHT)}
    expected = {name: tuple(parameter.shape) for name, parameter in trained.items()}
    if found != expected or n_lines != step:
        different = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
        what = f"its weights differ in {', '.join(different[:3])}" if different else f"{n_lines} lines of log"
        raise UserError(f"{folder} is of another training: {what}. Delete {folder.parent} to start afresh.")


def _load(
    folder: Path,
    shapes: Mapping[str, tuple[int, ...]],
    trained: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    machine: Machine,
) -> None:
    import torch.distributed.checkpoint as dcp

    names = {parameter: name for name, parameter in trained.items()}
    for parameter in (parameter for group in optimizer.param_groups for parameter in group["params"]):
        if f"{OPTIMIZER}step.{names[parameter]}" in shapes:
            moments = {key: torch.zeros_like(parameter) for key in ("exp_avg", "exp_avg_sq")}
            optimizer.state[parameter] = {"step": torch.zeros((), device=machine.device), **moments}
    state = _tensors(trained, optimizer, machine)
    for name in _random_names(machine):
        if name not in shapes:  # written on a CPU, or by fewer processes
            state.pop(name, None)
    with torch.no_grad(), _alone_without_warning():
        dcp.load(state, checkpoint_id=folder, no_dist=machine.n_processes == 1)
    of_cpu, of_cuda = _random_names(machine)
    if of_cpu in state:
        torch.set_rng_state(state[of_cpu])
    if of_cuda in state:
        torch.cuda.set_rng_state(state[of_cuda])
