"""Which processes are alive: a process is known by its machine, its number and when it started.

A number alone is not enough, since the system gives it to another process after the first has ended.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ProcessId:
    """A process, wherever it runs. `started` is the system's own count; "" where the system does not tell."""

    host: str
    pid: int
    started: str = ""
    slurm_job: str = ""

    @classmethod
    def of_this(cls) -> ProcessId:
        """The process that asks."""
        job = os.environ.get("SLURM_JOB_ID", "")
        return cls(socket.gethostname(), os.getpid(), _started(os.getpid()) or "", job)

    @property
    def is_here(self) -> bool:
        """Whether it is a process of this machine, so that `is_alive` knows."""
        return self.host == socket.gethostname()

    @property
    def is_alive(self) -> bool:
        """Whether it still runs; of a process of this machine only."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass  # another user's
        except (OSError, OverflowError):
            return False
        now = _started(self.pid)
        return now != "" and (now is None or not self.started or now == self.started)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}" + (f" (Slurm job {self.slurm_job})" if self.slurm_job else "")


def _started(pid: int) -> str | None:
    """When it started, in the system's clock ticks; "" for a process that has ended, None where nobody tells."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return "" if Path("/proc/self/stat").exists() else None
    except OSError:
        return None
    state, *fields = text.rpartition(")")[2].split()  # a name may hold spaces and brackets
    return "" if state in "ZX" else fields[18]
