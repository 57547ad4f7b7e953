"""Processes of a training: one on a CPU or a GPU, or several that share the work and the model (FSDP2).

Several processes learn their rank from torchrun's variables (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT).
`launch` starts them on this machine; torchrun itself and `srun` work as well, also on several machines.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vlmlaw.errors import UserError
from vlmlaw.runtime.source import import_path

if TYPE_CHECKING:
    import torch

    from vlmlaw.training.settings import ComputeSettings

EXIT_RUN_ME_AGAIN = 75  # EX_TEMPFAIL of sysexits.h: stopped from outside, with a checkpoint to continue from


@dataclass(frozen=True)
class Machine:
    """This process's device, and its place among the processes of a training."""

    device: torch.device
    rank: int = 0
    n_processes: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def total(self, values: Sequence[float]) -> list[float]:
        """Sum each value over the processes, all of which must call this."""
        if self.n_processes == 1:
            return list(values)
        import torch
        import torch.distributed as dist

        summed = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(summed)
        return summed.tolist()

    def any(self, *flags: bool) -> list[bool]:
        """Return for each flag whether it is true in any process; all must call this."""
        return [value > 0 for value in self.total([float(flag) for flag in flags])]

    def from_first(self, value: Any) -> Any:
        """Return the first process's value, which the others need not have; all must call this."""
        if self.n_processes == 1:
            return value
        import torch.distributed as dist

        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def wait_for_all(self) -> None:
        self.total([0.0])


@contextmanager
def join(compute: ComputeSettings, *, sharded: bool = False) -> Iterator[Machine]:
    """Join the group of processes that the environment describes, and yield this one's device and rank.

    Without such variables the process is alone; with `sharded` it then makes the group of one that FSDP2 needs.
    Raises UserError if GPUs are requested that torch does not see.
    """
    import torch

    n_processes = int(os.environ.get("WORLD_SIZE", 1))
    local_rank = int(os.environ.get("LOCAL_RANK", rank()))
    device = torch.device("cpu")
    if compute.gpus:
        if torch.cuda.device_count() <= local_rank:
            raise UserError(
                f"compute.gpus is {compute.gpus}, but torch sees {torch.cuda.device_count()} GPUs here; set it to 0 to "
                "use the CPU, or run where there are that many (and with torch's CUDA build: envs/cuda.txt)."
            )
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    if n_processes == 1 and not sharded:
        yield Machine(device)
        return
    import torch.distributed as dist

    alone: dict[str, Any] = {"store": dist.HashStore()} if n_processes == 1 else {}
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, rank=rank(), world_size=n_processes, **alone)
    try:
        yield Machine(device, rank(), n_processes)
    finally:
        dist.destroy_process_group()


def is_launched() -> bool:
    """Return whether this process was started as one of several."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def is_first_launched() -> bool:
    """Return whether this process is alone or the first of several, which loads weights for the others."""
    return rank() == 0


def rank() -> int:
    """Return this process's number among those of a training; 0 if it is alone."""
    return int(os.environ.get("RANK", 0))


def launch(arguments: Sequence[str], *, n_processes: int) -> int:
    """Run `python -m vlmlaw ARGUMENTS` in `n_processes` processes on this machine, and return their exit status.

    torchrun is not used because it turns any failure into status 1, where a cluster must see 75, and kills processes
    30 s after SIGTERM, which may be too soon for a checkpoint. A process that fails ends the others. SIGTERM and Ctrl-C
    send one SIGTERM to each process, and a second Ctrl-C kills all.
    """
    shared = {"WORLD_SIZE": str(n_processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    if "OMP_NUM_THREADS" in os.environ:  # the job's threads, which its processes share
        shared["OMP_NUM_THREADS"] = str(max(1, int(os.environ["OMP_NUM_THREADS"]) // n_processes))
    shared["PYTHONPATH"] = os.pathsep.join([import_path(), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "vlmlaw", *arguments]
    workers = [
        subprocess.Popen(
            command,
            env={**os.environ, **shared, "RANK": str(number), "LOCAL_RANK": str(number)},
            start_new_session=True,  # Ctrl-C in a terminal reaches this process alone, which passes it on once
            preexec_fn=_end_with_parent,
        )
        for number in range(n_processes)
    ]
    try:
        with _passing_on(workers):
            return _status_of(workers)
    finally:
        _kill(workers)


def _end_with_parent() -> None:
    """Have Linux end this process when its parent is killed and can no longer pass on signals."""
    set_parent_death_signal = 1  # PR_SET_PDEATHSIG of prctl(2)
    with suppress(AttributeError, OSError):  # where this is not Linux
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


def _kill(workers: Iterable[subprocess.Popen[Any]]) -> None:
    for worker in workers:
        if worker.poll() is None:
            worker.kill()
            worker.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def _passing_on(workers: Sequence[subprocess.Popen[Any]]) -> Iterator[None]:
    """Within this block, pass SIGTERM and Ctrl-C on to the workers, which save their work before they end."""

    def pass_on(number: int, _: Any) -> None:
        signal.signal(number, before[number])
        for worker in workers:
            if worker.poll() is None:
                worker.terminate()

    before: dict[int, Any] = {}
    for each in (signal.SIGTERM, signal.SIGINT):
        before[each] = signal.signal(each, pass_on)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _status_of(workers: Sequence[subprocess.Popen[Any]]) -> int:
    """Wait for all workers; return 0, or 75 if any is to run again. If one fails, kill the rest, return its status."""
    waiting = list(workers)
    while waiting:
        for worker in list(waiting):
            try:
                status = worker.wait(timeout=0.2)
            except subprocess.TimeoutExpired:
                continue
            waiting.remove(worker)
            if status not in (0, EXIT_RUN_ME_AGAIN):
                _kill(waiting)
                return status if status > 0 else 128 - status
    return max(worker.returncode for worker in workers)
