"""Record how each attempt at a job ended: a file beside its log has a line when it starts and one when it ends.

An attempt without an end was killed from outside: by a memory or time limit, or by the death of its node. The
scheduler's log, if there is one, says which. A retry then knows of what to request more, and whether it makes sense.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import zip_longest
from pathlib import Path
from types import SimpleNamespace

from vlmlaw.errors import UserError
from vlmlaw.training.distributed import EXIT_RUN_ME_AGAIN

SLURM_LOGS = Path(".snakemake/slurm_logs")  # where Snakemake's plugin for Slurm writes the logs of its jobs

# Causes of an end; all but DONE say what a further attempt needs.
DONE = "done"
BAD_INPUT = "bad input"  # no attempt can succeed
DEVICE_MEMORY = "out of GPU memory"  # no attempt can succeed, because a job cannot request a larger GPU
MEMORY = "out of memory"
TIME = "out of time"
STOPPED = "stopped"  # cancelled or preempted; a checkpoint is there to continue from
ERROR = "error"
KILLED = "killed"
DISK = "the disk is full"
UNRECOVERABLE = (BAD_INPUT, DEVICE_MEMORY)
EXIT_STATUS = {
    0: DONE,
    2: BAD_INPUT,
    EXIT_RUN_ME_AGAIN: STOPPED,
}  # exit statuses of the command line; any other is an error

DISK_FULL_SAYS = ("No space left on device", "Disk quota exceeded", "PytorchStreamWriter failed", "unexpected pos ")
# What Slurm writes into the log of a job that it ends; the first match counts.
SLURM_SAYS = (
    (TIME, re.compile(r"DUE TO TIME LIMIT")),
    (MEMORY, re.compile(r"oom[-_]kill|exceeded .{0,8}memory limit|out.of.memory", re.IGNORECASE)),
    (STOPPED, re.compile(r"DUE TO PREEMPTION|DUE TO NODE FAILURE|DUE TO JOB REQUEUE|CANCELLED AT")),
)


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One attempt, with the limits that it was given. `cause` is None until it has recorded how it ended."""

    started: float
    memory_mb: int = 0
    minutes: int = 0
    gpus: int = 0
    devices: str = ""  # CUDA_VISIBLE_DEVICES as the job found it
    host: str = ""
    pid: int = 0
    slurm_job: str = ""
    given: str = ""  # `given_hash` of its parameters
    ended: float | None = None
    cause: str | None = None
    message: str = ""


def given_hash(settings: str | None, code: str | None, upstream: str | None) -> str:
    """Hash the parameters of a job, which tells attempts with other settings or code apart."""
    return hashlib.sha256("\n".join(part or "" for part in (settings, code, upstream)).encode()).hexdigest()[:16]


def record_of(log: str | Path) -> Path:
    """Return the file of attempts that belongs to a job's log."""
    return Path(log).with_suffix(".attempts.jsonl")


@contextmanager
def recorded(
    log: Path | None, *, memory_mb: int = 0, minutes: int = 0, gpus: int = 0, given: str = ""
) -> Iterator[SimpleNamespace]:
    """Record the block as an attempt of the job with this log; None records nothing.

    A block that ends with an exit status, such as one that only waits for other processes, sets `status`.
    """
    result = SimpleNamespace(status=0)
    if log is None:
        yield result
        return
    attempt = Attempt(
        started=time.time(),
        memory_mb=memory_mb,
        minutes=minutes,
        gpus=gpus,
        devices=os.environ.get("CUDA_VISIBLE_DEVICES", ""),
        host=socket.gethostname(),
        pid=os.getpid(),
        slurm_job=os.environ.get("SLURM_JOB_ID", ""),
        given=given,
    )
    path = record_of(log)
    path.parent.mkdir(parents=True, exist_ok=True)
    _append(path, asdict(attempt))
    cause, message = DONE, ""
    try:
        yield result
        cause = EXIT_STATUS.get(result.status, ERROR)
    except BaseException as error:
        cause, message = _cause_of_exception(error), str(error) or type(error).__name__
        raise
    finally:
        end = {"ended": time.time(), "cause": cause, "message": message[:2000]}
        _append(path, {"started": attempt.started, **end})


def _append(path: Path, line: dict[str, object]) -> None:
    """Append a line in one write, so that attempts on two machines never mix within it."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
    except OSError as error:  # such as a full disk, of which the job's own message should be the last word
        print(f"{path} cannot be written: {error}", file=sys.stderr)


def is_disk_full(error: BaseException) -> bool:
    """Return whether an error or one of its causes is a full disk, for which torch and safetensors have other words."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if any(words in str(seen) for words in DISK_FULL_SAYS):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _cause_of_exception(error: BaseException) -> str:
    if isinstance(error, Exception) and is_disk_full(error):
        return DISK
    if isinstance(error, UserError):
        return BAD_INPUT
    if isinstance(error, SystemExit):
        return EXIT_STATUS.get(error.code or 0, ERROR)  # type: ignore[arg-type]  # text is no known status
    if isinstance(error, KeyboardInterrupt):
        return STOPPED
    if type(error).__name__ == "OutOfMemoryError":  # torch's, of a device
        return DEVICE_MEMORY
    return MEMORY if isinstance(error, MemoryError) or "can't allocate memory" in str(error) else ERROR


def read_attempts(log: str | Path) -> list[Attempt]:
    """Read all attempts at the job with this log, oldest first; lines that a crash cut off are skipped."""
    try:
        lines = record_of(log).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    attempts: dict[float, Attempt] = {}
    for line in lines:
        try:
            data = json.loads(line)
            before = attempts.get(data["started"])
            attempts[data["started"]] = replace(before, **data) if before else Attempt(**data)
        except (ValueError, KeyError, TypeError):
            continue
    return list(attempts.values())


def failures(log: str | Path) -> list[str]:
    """Return the causes of the failed attempts since the last success, oldest first."""
    causes: list[str] = []
    attempts = read_attempts(log)
    for attempt, following in zip_longest(attempts, attempts[1:]):
        cause = cause_of(attempt)
        if cause == KILLED and attempt.slurm_job in _requeued(following):
            cause = STOPPED
        causes = [] if cause == DONE else [*causes, cause]
    return causes


def _requeued(following: Attempt | None) -> tuple[str, ...]:
    """Return the Slurm job of the next attempt; if it is the same one, Slurm requeued it, as after a node's death."""
    number = following.slurm_job if following else os.environ.get("SLURM_JOB_ID", "")
    return (number,) if number else ()


def cause_of(attempt: Attempt) -> str:
    """Return how an attempt ended: as it recorded or, if it recorded nothing or was stopped, by the scheduler's log."""
    if attempt.cause not in (None, STOPPED):
        return str(attempt.cause)
    if attempt.slurm_job:
        for path in SLURM_LOGS.glob(f"*/**/{attempt.slurm_job}.log"):
            text = path.read_text(encoding="utf-8", errors="replace")
            found = next((cause for cause, pattern in SLURM_SAYS if pattern.search(text)), None)
            if found:
                return found
    until = attempt.ended if attempt.ended is not None else time.time()
    if attempt.minutes and until - attempt.started >= 60 * attempt.minutes:
        return TIME
    return attempt.cause or KILLED
