"""What a job leaves of its attempts, and what a retry makes of it."""

import json
import signal
import subprocess
import sys
import time

import pytest

from vlmlaw.cli.main import main
from vlmlaw.errors import UserError
from vlmlaw.training import interruption
from vlmlaw.workflow import attempts


@pytest.fixture
def log(tmp_path, monkeypatch):
    """A job's log, in a folder where Slurm's logs would be."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    return tmp_path / "results" / "logs" / "train_cell" / "m-0.5b_v1_quecc_s0.log"


def fail(log, error, **limits):
    with pytest.raises(type(error)), attempts.recorded(log, **limits):
        raise error


def slurm_log(text):
    path = attempts.SLURM_LOGS / "rule_train_cell" / "cell" / "17.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


class OutOfMemoryError(RuntimeError):
    """By the name of torch's, which needs a GPU to be raised."""


def test_the_record_lies_beside_the_log_whatever_dots_the_cell_has(log):
    assert attempts.record_of(log).name == "m-0.5b_v1_quecc_s0.attempts.jsonl"


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (UserError("bad"), attempts.BAD_INPUT),
        (interruption.Stopped(), attempts.STOPPED),
        (KeyboardInterrupt(), attempts.STOPPED),
        (SystemExit(1), attempts.ERROR),
        (MemoryError(), attempts.MEMORY),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), attempts.MEMORY),
        (OutOfMemoryError("CUDA out of memory"), attempts.DEVICE_MEMORY),
        (OSError("disk"), attempts.ERROR),
    ],
)
def test_how_an_exception_counts(log, error, cause):
    fail(log, error)
    assert attempts.failures(log) == [cause]


@pytest.mark.parametrize(("status", "causes"), [(0, []), (2, ["bad input"]), (75, ["stopped"]), (1, ["error"])])
def test_the_exit_status_of_other_processes_counts_too(log, status, causes):
    with attempts.recorded(log) as attempt:
        attempt.status = status
    assert attempts.failures(log) == causes


def test_a_success_clears_what_was_before(log):
    fail(log, MemoryError())
    with attempts.recorded(log, memory_mb=100):
        pass
    assert attempts.failures(log) == []
    fail(log, OSError("disk"))
    assert attempts.failures(log) == [attempts.ERROR]
    assert [attempt.memory_mb for attempt in attempts.read_attempts(log)] == [0, 100, 0]


def test_a_job_killed_without_a_word_counts_as_killed(log):
    program = (
        "import os, signal; from pathlib import Path; from vlmlaw.workflow.attempts import recorded\n"
        f"with recorded(Path({str(log)!r}), minutes=5): os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False)
    assert done.returncode == -signal.SIGKILL
    assert attempts.failures(log) == [attempts.KILLED]


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("slurmstepd: error: *** JOB 17 ON n1 CANCELLED AT 2026-11-20T10:00:00 DUE TO TIME LIMIT ***", attempts.TIME),
        ("slurmstepd: error: Detected 1 oom-kill event(s) in StepId=17.0.", attempts.MEMORY),
        ("slurmstepd: error: Detected 1 oom_kill event in StepId=17.batch.", attempts.MEMORY),
        ("slurmstepd: error: StepId=17.0 exceeded memory limit (2 > 1), being killed", attempts.MEMORY),
        ("slurmstepd: error: Exceeded job memory limit", attempts.MEMORY),
        (
            "slurmstepd: error: *** JOB 17 ON n1 CANCELLED AT 2026-11-20T10:00:00 DUE TO PREEMPTION ***",
            attempts.STOPPED,
        ),
        ("slurmstepd: error: *** JOB 17 ON n1 CANCELLED AT 2026-11-20T10:00:00 ***", attempts.STOPPED),
        ("nothing of note", attempts.KILLED),
    ],
)
def test_slurm_says_why_a_job_was_killed(log, monkeypatch, text, cause):
    slurm_log(text)
    attempt = attempts.Attempt(started=time.time(), slurm_job="17", minutes=60)
    assert attempts.cause_of(attempt) == cause


def test_a_stop_at_the_end_of_the_time_is_for_want_of_time(log):
    began = time.time() - 60
    assert attempts.cause_of(attempts.Attempt(started=began, minutes=1, ended=began + 61, cause=attempts.STOPPED)) == (
        attempts.TIME
    )
    assert attempts.cause_of(attempts.Attempt(started=began, minutes=2, ended=began + 61, cause=attempts.STOPPED)) == (
        attempts.STOPPED
    )


def test_a_requeued_job_was_not_short_of_memory(log, monkeypatch):
    """Slurm starts a job again under its number when its node died; in that job the first attempt is the last."""
    killed = {"started": 1.0, "slurm_job": "17", "cause": None}
    attempts.record_of(log).parent.mkdir(parents=True)
    attempts.record_of(log).write_text(json.dumps(killed) + "\n")
    assert attempts.failures(log) == [attempts.KILLED]
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    assert attempts.failures(log) == [attempts.STOPPED]
    monkeypatch.delenv("SLURM_JOB_ID")
    attempts.record_of(log).write_text(json.dumps(killed) + "\n" + json.dumps(killed | {"started": 2.0}) + "\n")
    assert attempts.failures(log) == [attempts.STOPPED, attempts.KILLED]


def test_a_line_cut_off_by_a_crash_is_passed_over(log):
    fail(log, MemoryError())
    with attempts.record_of(log).open("a") as file:
        file.write('{"started": 12.0, "memory')
    assert attempts.failures(log) == [attempts.MEMORY]


def test_the_command_line_records(log, capsys):
    options = ["--log", str(log), "--memory-mb", "1500", "--minutes", "11"]
    status = main([*options, "data", "text", "--settings", "{}", "--out", str(log.parent / "text")])
    assert status == 2
    start, end = (json.loads(line) for line in attempts.record_of(log).read_text().splitlines())
    assert (start["memory_mb"], start["minutes"]) == (1500, 11)
    assert end["cause"] == attempts.BAD_INPUT
    assert end["message"] in capsys.readouterr().err
