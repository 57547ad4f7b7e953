"""When a training is to stop: SIGTERM, Ctrl-C, a closed terminal, or the loss of the process that started it."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

from vlmlaw.runtime.processes import ProcessId

HEAD = "VLMLAW_HEAD"  # the Snakemake that started this job: host, process, when it started, its Slurm job
SECONDS_BETWEEN_LOOKS = 1.0


def announce_head() -> None:
    """Have the jobs that this process starts know it."""
    own = ProcessId.of_this()
    os.environ[HEAD] = " ".join((own.host, str(own.pid), own.started or "-", own.slurm_job or "-"))


def head_of_this() -> ProcessId | None:
    """The process that plans and starts jobs and has started this one; None where it did not say so."""
    host, pid, started, job = (os.environ.get(HEAD, "").split() + [""] * 4)[:4]
    if not pid.isdigit():
        return None
    return ProcessId(host, int(pid), *("" if text == "-" else text for text in (started, job)))


def ends_with_its_head() -> bool:
    """Whether this job shares machine and allocation with its head; a cluster's job goes on without, and is found."""
    head = head_of_this()
    return head is not None and head.is_here and head.slurm_job == os.environ.get("SLURM_JOB_ID", "")


class StopSwitch:
    """Turns SIGTERM, a cluster's notice before it kills, Ctrl-C and SIGHUP into a flag that the loop reads.

    The flag is set, too, when the Snakemake that started this job on the same machine is gone, however it ended: nobody
    would hear of the result, and the next run goes on from the checkpoint. A second Ctrl-C acts at once, as if there
    were no switch; a second SIGTERM adds nothing, since a cluster may send one to each process and a parent pass on its
    own. SIGHUP stays ignored where it was (`nohup`).
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

    def __enter__(self) -> StopSwitch:
        self.pressed = False
        heard = [number for number in self.SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        self._before = {number: signal.signal(number, self._press) for number in heard}
        self._left = threading.Event()
        head = head_of_this()
        if head is not None and ends_with_its_head():
            threading.Thread(target=self._watch, args=(head,), daemon=True).start()
        return self

    def _press(self, *_: Any) -> None:
        self.pressed = True
        if signal.SIGINT in self._before:
            signal.signal(signal.SIGINT, self._before[signal.SIGINT])

    def _watch(self, head: ProcessId) -> None:
        while head.is_alive:
            if self._left.wait(SECONDS_BETWEEN_LOOKS):
                return
        self.pressed = True

    def __exit__(self, *_: object) -> None:
        self._left.set()
        for number, handler in self._before.items():
            signal.signal(number, handler)
