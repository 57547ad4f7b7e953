"""Which GPUs a job may use, where no cluster says so: on one machine with several, no two jobs get the same.

A job locks a file for each of its devices and holds the locks as long as it lives. The system releases them however it
ends, kill -9 included, so nothing is ever left locked.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from vlmlaw.errors import UserError

VISIBLE = "CUDA_VISIBLE_DEVICES"
SECONDS_BETWEEN_LOOKS = 1.0
SCHEDULERS = ("SLURM_JOB_ID", "KUBERNETES_SERVICE_HOST", "PBS_JOBID", "LSB_JOBID")  # which give devices themselves


@contextmanager
def own_gpus(count: int | None, *, sleep: Callable[[float], None] = time.sleep) -> Iterator[list[str]]:
    """Have CUDA see `count` devices that no other job of this machine has; waits for them where all are in use.

    Without a count, or inside a cluster's job, nothing changes. Raises UserError when there are not that many.
    """
    if count is None or any(os.environ.get(name) for name in SCHEDULERS):
        yield []
        return
    devices = visible_devices() if count else []
    if len(devices) < count:
        raise UserError(
            f"the job needs {count} GPU(s); found {len(devices)}{' (' + ', '.join(devices) + ')' if devices else ''}. "
            f"Set compute.gpus in the experiment to what there is, or {VISIBLE} to all that may be used."
        )
    with ExitStack() as held:
        chosen = _lock(devices, count, held, sleep=sleep)
        before = os.environ.get(VISIBLE)
        os.environ[VISIBLE] = ",".join(chosen)
        if chosen:
            print(f"{VISIBLE}={os.environ[VISIBLE]}", file=sys.stderr)
        try:
            yield chosen
        finally:
            os.environ.pop(VISIBLE) if before is None else os.environ.update({VISIBLE: before})


def visible_devices() -> list[str]:
    """The devices that this process may use: those of CUDA_VISIBLE_DEVICES, else all that the driver lists."""
    named = os.environ.get(VISIBLE)
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    try:
        asked = subprocess.run(
            ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"], capture_output=True, text=True, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return asked.stdout.split() if asked.returncode == 0 else []


def _lock(devices: list[str], count: int, held: ExitStack, *, sleep: Callable[[float], None]) -> list[str]:
    """`count` devices, locked until `held` is closed; all or none, so that no two jobs wait for each other."""
    waiting = False
    while True:
        with ExitStack() as attempt:
            chosen: list[str] = []
            for device in devices:
                if len(chosen) < count and attempt.enter_context(_claim(device)):
                    chosen.append(device)
            if len(chosen) == count:
                held.push(attempt.pop_all())
                return chosen
        if not waiting:
            print(f"waiting for {count} of {len(devices)} GPU(s): other jobs have them", file=sys.stderr)
        waiting = True
        sleep(SECONDS_BETWEEN_LOOKS)


@contextmanager
def _claim(device: str) -> Iterator[bool]:
    """Hold the device's lock, when it is free; False when another job has it."""
    with _lock_file(device) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _lock_file(device: str) -> IO[str]:
    """A file for each device, of all users of the machine."""
    folder = Path(os.environ.get("VLMLAW_GPU_LOCKS") or Path(tempfile.gettempdir()) / "vlmlaw-gpus")
    folder.mkdir(mode=0o1777, parents=True, exist_ok=True)
    descriptor = os.open(folder / f"{device.replace('/', '_')}.lock", os.O_RDWR | os.O_CREAT, 0o666)
    return os.fdopen(descriptor, "r+")
