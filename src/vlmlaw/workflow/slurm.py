"""Find the jobs that a killed workflow left in Slurm's queue, so that a new run starts none of them twice."""

import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from vlmlaw.errors import UserError
from vlmlaw.workflow.attempts import SLURM_LOGS

ENDED = (
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "TIMEOUT",
    "PREEMPTED",
)
SECONDS_BETWEEN_LOOKS = 10.0
HELP = (
    "`vlmlaw orphans --wait` lets them finish, `vlmlaw orphans --cancel` ends them (trainings keep their checkpoints); "
    "then start again: what they finished is not done twice."
)


@dataclass(frozen=True)
class SlurmJob:
    number: str
    state: str
    what: str  # the plugin's comment: the rule and its wildcards

    def __str__(self) -> str:
        return f"{self.number} {self.state} {self.what}"


def jobs_of(folder: Path) -> list[SlurmJob] | None:
    """Return our jobs in the queue that work in this folder; None if there is no Slurm or it does not answer."""
    command = ["squeue", "--me", "--noheader", "--format=%i|%T|%k|%Z"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode != 0:
        return None
    rows = [line.split("|", 3) for line in done.stdout.splitlines()]
    own = [SlurmJob(*row[:3]) for row in rows if len(row) == 4 and Path(row[3]).resolve() == folder.resolve()]
    return [job for job in own if job.what.startswith(("rule_", "group_")) and job.state not in ENDED]


def refuse_orphans(folder: Path) -> None:
    """Raise UserError while an earlier run's jobs are in the queue, whose cells a new run would start again."""
    if not (folder / SLURM_LOGS).is_dir():
        return
    orphans = jobs_of(folder)
    if orphans:
        raise UserError(
            f"{len(orphans)} job(s) of an earlier run of this folder are still in Slurm's queue:\n"
            + "".join(f"  {job}\n" for job in orphans)
            + HELP
        )


def run_orphans(*, cancel: bool, wait: bool) -> None:
    """List, end or await this folder's jobs. Raises UserError if no Slurm answers."""
    folder = Path.cwd()
    while True:
        jobs = jobs_of(folder)
        if jobs is None:
            raise UserError("squeue is missing or does not answer; run this where jobs are submitted from.")
        if not jobs:
            print(f"no jobs of {folder} are in Slurm's queue")
            return
        print(*jobs, sep="\n", flush=True)
        if cancel:
            subprocess.run(["scancel", *(job.number for job in jobs)], check=False)
            cancel, wait = False, True  # until they have saved their work and are gone
        if not wait:
            return
        time.sleep(SECONDS_BETWEEN_LOOKS)
