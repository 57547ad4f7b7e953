"""Two runs in one folder, and what a killed run leaves: a clear message, no harm, and a documented way on."""

import os
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest

from .project import Project, environment, jobs_of

pytestmark = pytest.mark.workflow
PATIENCE_S = 300


def start(project: Project, *command: str, warm: bool = False) -> subprocess.Popen:
    """A tool in the background whose trainings wait until the test lets them go."""
    return subprocess.Popen(
        ["python" if warm else sys.executable, "-m", *command],
        cwd=project.folder,
        env=environment(warm=warm) | {"STANDIN_WAIT_FOR": str(project.folder / "go")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for_training(project: Project, run: subprocess.Popen) -> None:
    """Until a training of that run waits."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and run.poll() is None:
        if (project.folder / "go.awaited").exists():
            return
        time.sleep(0.1)
    pytest.fail(f"no training after {PATIENCE_S} s: {run.communicate()[0]}")


def test_a_second_run_is_told_and_harms_nothing(recorded):
    recorded.change("sizes.14k.training", {"learning_rate": 1.0e-3})
    first = start(recorded, "snakemake", "--cores", "2", warm=True)
    wait_for_training(recorded, first)
    recorded.snakemake("models")  # has nothing to do, and must leave the first run's lock where it is
    for second in (recorded.snakemake(check=False), recorded.dvc("repro", check=False)):
        assert second.returncode != 0
        assert "Directory cannot be locked" in second.stderr
    (recorded.folder / "go").touch()
    output, _ = first.communicate(timeout=PATIENCE_S)
    assert first.returncode == 0, output
    assert jobs_of(output)["train_cell"] == 3
    recorded.vlmlaw("adopt")
    assert recorded.planned() == {}
    assert recorded.status() == {}


def test_a_run_beside_dvc_repro_is_told_and_harms_nothing(recorded):
    recorded.change("sizes.14k.training", {"learning_rate": 1.0e-3})
    first = start(recorded, "dvc", "repro", warm=True)
    wait_for_training(recorded, first)
    beside = recorded.snakemake(check=False)
    assert beside.returncode != 0
    assert "Directory cannot be locked" in beside.stderr
    second = recorded.dvc("repro", check=False)
    assert second.returncode != 0
    assert "is busy, it is being blocked by" in second.stderr
    (recorded.folder / "go").touch()
    output, _ = first.communicate(timeout=PATIENCE_S)
    assert first.returncode == 0, output
    assert recorded.planned() == {}
    assert recorded.status() == {}


def test_trainings_that_outlived_their_run_are_awaited_and_count(recorded):
    """Snakemake was killed and its jobs were not: their results are whole, but it never heard of their end."""
    recorded.change("sizes.14k.training", {"learning_rate": 1.0e-3})
    run = start(recorded, "snakemake", "--cores", "2")
    wait_for_training(recorded, run)
    jobs = psutil.Process(run.pid).children(recursive=True)
    run.kill()
    (recorded.folder / ".snakemake" / "locks").rename(recorded.folder / "unlocked")  # `--unlock` would wait, too
    again = start(recorded, "snakemake", "--cores", "2", warm=True)
    while "waiting for trainings of a lost run" not in (line := again.stdout.readline()):
        assert line, "it did not wait"
    assert recorded.vlmlaw("orphans").stdout.count("(train), process ") in (1, 2)
    for name in ("tokens", "features"):
        shutil.rmtree(recorded.folder / "results" / name)
    (recorded.folder / "go").touch()
    psutil.wait_procs(jobs, timeout=PATIENCE_S)
    output, _ = again.communicate(timeout=PATIENCE_S)
    assert again.returncode == 0, output
    assert jobs_of(output)["train_cell"] in (1, 2), "one or two were under way, of three"
    assert recorded.planned() == {}
    recorded.vlmlaw("adopt")
    assert recorded.status() == {}


def test_a_killed_dvc_repro_goes_on_after_unlock(recorded):
    recorded.change("sizes.14k.training", {"learning_rate": 1.0e-3})
    run = start(recorded, "dvc", "repro")
    wait_for_training(recorded, run)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait(PATIENCE_S)
    stopped = recorded.dvc("repro", check=False)
    assert "snakemake --unlock" in stopped.stdout + stopped.stderr or "Directory cannot be locked" in stopped.stderr
    recorded.snakemake("--unlock")
    (recorded.folder / "go").touch()
    jobs = recorded.repro()
    assert jobs["train_cell"] == 3
    assert recorded.status() == {}
    assert recorded.planned() == {}
