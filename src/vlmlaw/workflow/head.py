"""The head process, which plans and starts jobs: how it stops them, and how it treats jobs of a head that was lost.

A training on the head's machine saves its work and ends when the head ends (`runtime/stop_switch.py`). Other jobs, and
those of a cluster, go on. They are found again by the locks of what they make, and by the cluster's queue.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from vlmlaw.errors import UserError
from vlmlaw.runtime.ownership import Owner, living_owners
from vlmlaw.runtime.processes import ProcessId
from vlmlaw.workflow import slurm
from vlmlaw.workflow.attempts import SLURM_LOGS

SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_TO_SAVE = 60.0  # for which a new run waits for jobs of a lost one to save and end
TRAININGS = ("train", "align", "encoder", "language-model")  # verbs


def pass_stop_on_to_jobs(results: Path) -> None:
    """Have a signal that stops this process (SIGTERM, Ctrl-C, a closed terminal) stop its jobs on this machine.

    Snakemake alone would wait for them after a SIGTERM, and leave them behind after a SIGHUP. An ignored SIGHUP
    (`nohup`) stays ignored.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}

    def stop(number: int, frame: Any) -> None:
        print("stopping: the jobs of this run save their work and end", file=sys.stderr, flush=True)
        threading.Thread(target=_stop_own_jobs, args=(results,), daemon=True).start()
        handler = before[signal.SIGTERM if number == signal.SIGHUP else signal.Signals(number)]
        if callable(handler):
            handler(number, frame)

    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            with suppress(ValueError):  # not in the main thread, as where Snakemake is called as a library
                signal.signal(number, stop)


def _stop_own_jobs(results: Path) -> None:
    """Send SIGTERM to every job of this process until it ends, so that jobs just starting get it, too."""
    own, told = ProcessId.of_this(), set[ProcessId]()
    while True:
        for owner in living_owners(results, here_only=True):
            if owner.head == own and owner.process not in told:
                told.add(owner.process)
                with suppress(OSError):
                    os.kill(owner.process.pid, signal.SIGTERM)
        time.sleep(SECONDS_BETWEEN_LOOKS)


def orphans_of(results: Path, *, here_only: bool = False) -> list[Owner]:
    """Return living jobs of a results folder whose head is gone, as far as this machine can tell."""
    living = living_owners(results, here_only=here_only)
    return [owner for owner in living if owner.head and not (owner.head.is_here and owner.head.is_alive)]


def await_saving(results: Path) -> None:
    """Wait until trainings of a lost run have saved their work and ended, before a new run is planned.

    They end by themselves. `refuse_orphans` names those that do not within SECONDS_TO_SAVE, and all other jobs.
    """
    deadline, told = time.monotonic() + SECONDS_TO_SAVE, False
    while time.monotonic() < deadline:
        saving = [owner for owner in orphans_of(results, here_only=True) if owner.what in TRAININGS]
        if not saving:
            return
        if not told:
            about = "waiting for trainings of a lost run to save and end:"
            print(about, *saving, sep="\n  ", file=sys.stderr, flush=True)
        told = True
        time.sleep(SECONDS_BETWEEN_LOOKS)


def refuse_orphans(results: Path) -> None:
    """Raise UserError while jobs of an earlier run of this folder go on, which a new run would start again."""
    slurm.refuse_orphans(Path.cwd())
    orphans = orphans_of(results)
    if orphans:
        raise UserError(
            f"{len(orphans)} job(s) of an earlier run of this folder go on:\n"
            + "".join(f"  {job}\n" for job in orphans)
            + slurm.HELP
        )


def run_orphans(results: Path, *, cancel: bool, wait: bool) -> None:
    """List, end or await the jobs of an earlier run. Raises UserError if some were Slurm's and it does not answer."""
    while orphans := orphans_of(results):
        print(*orphans, sep="\n", flush=True)
        if cancel:
            _end(orphans)
            cancel, wait = False, True  # until they have saved their work and are gone
        if not wait:
            break
        time.sleep(SECONDS_BETWEEN_LOOKS)
    folder = Path.cwd()
    if slurm.jobs_of(folder) is not None or SLURM_LOGS.is_dir():
        slurm.run_orphans(cancel=cancel, wait=wait)
    elif not orphans:
        print(f"no jobs of an earlier run of {folder} go on")


def _end(orphans: list[Owner]) -> None:
    for owner in orphans:
        if owner.process.is_here:
            with suppress(OSError):
                os.kill(owner.process.pid, signal.SIGTERM)
        else:
            print(f"end it there: ssh {owner.process.host} kill {owner.process.pid}", file=sys.stderr)
