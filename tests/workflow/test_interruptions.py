"""Interrupted work is not lost, and nothing half-written passes for whole. Real jobs, really killed."""

import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from .project import Project, environment

pytestmark = pytest.mark.workflow
CELL = "results/cells/3k_v4_block_linear_s0"
LONG = {"steps": 300, "checkpoint_seconds": 0.5}
PATIENCE_S = 120


def made(project: Project) -> dict[str, object]:
    """What a cell's training and evaluation made, without the times that they took."""
    folder = project.folder / CELL
    evaluation = json.loads((folder / "evaluation.json").read_text())
    timeless = {key: value for key, value in evaluation.items() if "seconds" not in key}
    weights = hashlib.sha256((folder / "model" / "model.safetensors").read_bytes()).hexdigest()
    losses = [json.loads(line)["loss"] for line in (folder / "train.jsonl").read_text().splitlines()]
    return {"evaluation": timeless, "weights": weights, "losses": losses}


def start(project: Project, *, variables: dict[str, str] | None = None, **options) -> subprocess.Popen:
    command = [sys.executable, "-m", "snakemake", f"{CELL}/evaluation.json", "--cores", "1"]
    env = environment(warm=False) | (variables or {})
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, cwd=project.folder, env=env, **quiet, **options)


def has_checkpoint(project: Project) -> bool:
    """Whether the cell's training has a whole checkpoint."""
    return any((project.folder / f"{CELL}.work").glob("checkpoint-*/state.json"))


def wait_for(condition, what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"no {what} after {PATIENCE_S} s"
        time.sleep(0.05)


def training_process(run: subprocess.Popen) -> psutil.Process | None:
    """The Python process that trains the cell, among the children of that Snakemake."""
    for process in psutil.Process(run.pid).children(recursive=True):
        command = process.cmdline() if process.is_running() else []
        if "vlmlaw" in command and "train" in command:
            return process
    return None


@pytest.fixture
def longer(finished) -> Project:
    """The finished run, with more steps for one size than its cells were trained for."""
    finished.change("sizes.3k.training", LONG)
    return finished


@pytest.fixture(scope="module")
def uninterrupted(finished_once, tmp_path_factory) -> dict[str, object]:
    folder = tmp_path_factory.mktemp("uninterrupted") / "copy"
    shutil.copytree(finished_once.folder, folder)
    project = Project(folder)
    project.change("sizes.3k.training", LONG)
    project.snakemake(f"{CELL}/evaluation.json")
    return made(project)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT], ids=lambda n: n.name)
def test_whatever_stops_snakemake_alone_has_its_training_save_and_end(longer, uninterrupted, how):
    if how in (signal.SIGHUP, signal.SIGINT) and not os.environ.get("VLMLAW_CHAOS"):
        pytest.skip("only `make test-chaos` tries them all")
    run = start(longer)
    wait_for(lambda: has_checkpoint(longer), "checkpoint")
    training = training_process(run)
    assert training is not None
    run.send_signal(how)
    assert run.wait(PATIENCE_S) != 0
    if how == signal.SIGKILL:
        assert "cannot be locked" in longer.snakemake(f"{CELL}/evaluation.json", check=False).stderr
        longer.snakemake("--unlock")
    else:
        assert not training.is_running(), "it is waited for"
    done = longer.snakemake(f"{CELL}/evaluation.json")
    assert "carrying on with the interrupted training" in done.stdout + done.stderr
    assert made(longer) == uninterrupted


@pytest.mark.parametrize("whom", ["the training", "Snakemake and the training"])
def test_a_killed_training_goes_on_and_ends_the_same(longer, uninterrupted, whom):
    run = start(longer)
    wait_for(lambda: has_checkpoint(longer), "checkpoint")
    training = training_process(run)
    assert training is not None
    if whom != "the training":
        run.kill()
    training.kill()
    assert run.wait(PATIENCE_S) != 0
    wait_for(lambda: not training.is_running() or training.status() == psutil.STATUS_ZOMBIE, "end of the training")
    assert not any((longer.folder / CELL / name).exists() for name in ("training.json", "model/model.safetensors"))
    if whom != "the training":
        assert "cannot be locked" in longer.snakemake(f"{CELL}/evaluation.json", check=False).stderr
        longer.snakemake("--unlock")
    others = times(longer, besides=CELL)
    done = longer.snakemake(f"{CELL}/evaluation.json")
    assert "carrying on with the interrupted training" in done.stdout + done.stderr
    assert made(longer) == uninterrupted
    assert times(longer, besides=CELL) == others
    assert not (longer.folder / f"{CELL}.work").exists()


def test_a_changed_training_does_not_go_on_from_the_old_one(longer, uninterrupted):
    """Killed, changed, run, changed back and run: no trace of the settings in between."""
    run = start(longer)
    wait_for(lambda: has_checkpoint(longer), "checkpoint")
    training = training_process(run)
    assert training is not None
    training.kill()
    assert run.wait(PATIENCE_S) != 0
    longer.change("sizes.3k.training", LONG | {"learning_rate": 1.0e-4, "steps": 20})
    done = longer.snakemake(f"{CELL}/evaluation.json")
    assert "carrying on" not in done.stdout + done.stderr
    assert len(made(longer)["losses"]) == 20
    longer.change("sizes.3k.training", LONG)
    longer.snakemake(f"{CELL}/evaluation.json")
    assert made(longer) == uninterrupted


def test_ctrl_c_ends_all_and_the_next_run_finishes(longer, uninterrupted):
    run = start(longer, start_new_session=True)
    wait_for(lambda: has_checkpoint(longer), "checkpoint")
    os.killpg(run.pid, signal.SIGINT)
    assert run.wait(PATIENCE_S) != 0
    assert not (longer.folder / CELL / "training.json").exists()
    longer.snakemake(f"{CELL}/evaluation.json")
    assert made(longer) == uninterrupted


def test_a_full_disk_leaves_nothing_that_looks_whole(longer, uninterrupted):
    """No file may grow beyond a few KiB, so the weights are cut off in the midst of their write."""
    full = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, 8_000))}
    run = start(longer, variables={"PYTHONDONTWRITEBYTECODE": "1"}, **full)  # Python takes its own cut files for whole
    assert run.wait(PATIENCE_S) != 0
    left = {path.name for path in (longer.folder / CELL).rglob("*") if path.is_file()}
    # What is left of the old training tells nobody that it is there.
    assert not left & {"training.json", "training.record.json", "model.safetensors", "train.jsonl"}
    longer.snakemake(f"{CELL}/evaluation.json")
    assert made(longer) == uninterrupted


def times(project: Project, *, besides: str) -> dict[Path, int]:
    """When each file of the cells was last written."""
    files = (project.folder / "results" / "cells").rglob("*")
    folder = project.folder / besides
    own = (folder, folder.with_name(f"{folder.name}.work"), folder.with_name(f".{folder.name}.lock"))
    return {path: path.stat().st_mtime_ns for path in files if not any(path.is_relative_to(one) for one in own)}
