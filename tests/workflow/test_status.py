"""How far a grid is, from files alone; and the jobs that Slurm still has for a folder."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from vlmlaw.cli.main import main
from vlmlaw.errors import UserError
from vlmlaw.experiment.experiment import Experiment
from vlmlaw.workflow import attempts, slurm
from vlmlaw.workflow.status import SIGN_OF_LIFE_S, failed_cells, grid_status, status_text

CELLS = [f"{size}_v{n}_block_linear_s0" for size in ("3k", "14k", "49k") for n in (1, 4, 36)]
ELSEWHERE = "another-machine"


@pytest.fixture
def grid(request, tmp_path, monkeypatch):
    """The tiny grid without its tenth cell, its results folder empty, in the working directory."""
    file = yaml.safe_load((request.config.rootpath / "workflow" / "experiments" / "tiny.yaml").read_text())
    file |= {"results": "results", "compute": {"gpus": 2}, "grid": file["grid"] | {"more": []}}
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(yaml.safe_dump(file))
    return Experiment.from_mapping(file)


def put(cell, file):
    path = Path("results") / "cells" / cell / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}")


def attempt(cell, rule="train_cell", *, hours=0.0, silent_s=0.0, **fields):
    """An attempt that started `hours` before it ended; one without an end, whose log was last written then."""
    log = Path("results") / "logs" / rule / f"{cell}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("step\n")
    last = time.time() - silent_s
    os.utime(log, (last, last))
    start = {"started": last - 3600 * hours, "host": ELSEWHERE, "pid": 1, **fields}
    start |= {"ended": last} if fields.get("cause") else {}
    with attempts.record_of(log).open("a") as file:
        file.write(json.dumps(start) + "\n")


def states(grid):
    return {cell.cell: cell.state for cell in grid_status(grid).cells}


def test_every_state_of_a_cell(grid):
    done, trained, running, failed, killed, again = CELLS[:6]
    attempt(done, cause="done")
    put(done, "training.json")
    put(done, "evaluation.json")
    put(trained, "training.json")
    attempt(running, hours=0.5, slurm_job="17")
    attempt(failed, cause="bad input", message="the loss is nan\nand more")
    attempt(killed, hours=1, silent_s=2 * SIGN_OF_LIFE_S)
    put(again, "training.json")
    put(again, "evaluation.json")
    attempt(again, rule="evaluate_cell", hours=0.1)
    found = states(grid)
    expected = {done: "done", trained: "trained", running: "running", failed: "failed", killed: "failed"}
    assert found == dict.fromkeys(CELLS, "waiting") | expected | {again: "running"}
    text = status_text(grid_status(grid))
    assert f"running  {running}  train_cell  for 30 min on {ELSEWHERE}, Slurm job 17" in text
    assert f"failed  {failed}  train_cell  bad input: the loss is nan\n" in text
    assert f"log: results/logs/train_cell/{killed}.log" in text
    assert "2 cell(s) failed:" in failed_cells(grid) and "and more" not in failed_cells(grid)


def test_a_cell_is_done_with_its_last_benchmark(grid):
    sections = [{"name": name, "questions": "q.json", "suite": "reading", "metric": "anls"} for name in ("a", "b")]
    file = yaml.safe_load(Path("params.yaml").read_text()) | {"evaluation": {"benchmarks": sections}}
    asked = Experiment.from_mapping(file)
    one, two = CELLS[:2]
    for cell in (one, two):
        put(cell, "training.json")
        put(cell, "evaluation.json")
        put(cell, "benchmarks/a.json")
    put(one, "benchmarks/b.json")
    attempt(f"{two}/b", rule="evaluate_benchmark", cause="error", message="no image")
    found = {cell.cell: cell for cell in grid_status(asked).cells}
    assert (found[one].state, found[two].state, found[CELLS[2]].state) == ("done", "failed", "waiting")
    assert found[two].log == f"results/logs/evaluate_benchmark/{two}/b.log"
    assert states(grid)[two] == "done"


def test_a_training_that_cells_share_is_the_training_of_each(grid):
    file = yaml.safe_load(Path("params.yaml").read_text())
    shared = Experiment.from_mapping(file | {"grid": file["grid"] | {"compressors": ["m3"]}})
    put("3k_m3_s0", "training.json")
    put("3k_v4_m3_s0", "evaluation.json")
    found = {cell.cell: cell.state for cell in grid_status(shared).cells}
    expected = {"3k_v1_m3_s0": "trained", "3k_v4_m3_s0": "done", "3k_v36_m3_s0": "trained", "14k_v1_m3_s0": "waiting"}
    assert {name: found[name] for name in expected} == expected


def test_nothing_failed_is_nothing_to_tell(grid):
    assert failed_cells(grid) == ""
    assert "9 waiting" in status_text(grid_status(grid))


def test_a_running_job_of_this_machine_is_its_process(grid):
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "vlmlaw"]) as process:
        own = {"host": socket.gethostname(), "pid": process.pid, "silent_s": 2 * SIGN_OF_LIFE_S}
        attempt(CELLS[0], **own)
        while b"vlmlaw" not in Path(f"/proc/{process.pid}/cmdline").read_bytes():
            time.sleep(0.01)
        assert states(grid)[CELLS[0]] == "running"
        process.kill()
    assert states(grid)[CELLS[0]] == "failed"


def test_on_a_system_without_proc_a_process_is_asked_itself(grid, monkeypatch, tmp_path):
    """As on macOS, where every running cell was called failed."""
    monkeypatch.setattr("vlmlaw.workflow.status.PROC", tmp_path / "none")
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        attempt(CELLS[0], host=socket.gethostname(), pid=process.pid, silent_s=2 * SIGN_OF_LIFE_S)
        assert states(grid)[CELLS[0]] == "running"
        process.kill()
    assert states(grid)[CELLS[0]] == "failed"


def test_hours_used_count_failed_attempts_and_gpus(grid):
    attempt(CELLS[0], hours=2, cause="out of time", gpus=2)
    attempt(CELLS[0], hours=1, cause="done", gpus=2)
    attempt(CELLS[0], rule="evaluate_cell", hours=0.5, cause="done", gpus=1)
    status = grid_status(grid)
    assert status.used_hours == pytest.approx(3.5)
    assert status.used_gpu_hours == pytest.approx(6.5)


def test_what_is_left_is_scaled_by_what_is_done(grid):
    """Cells of one cost: three done in an hour each, six left."""
    rough = grid_status(grid)
    assert not rough.calibrated and 0 < rough.left_hours < 0.01
    for cell in CELLS[::3]:
        attempt(cell, hours=1, cause="done", gpus=2)
        put(cell, "training.json")
        put(cell, "evaluation.json")
    status = grid_status(grid)
    assert status.calibrated
    assert 3 < status.left_hours < 20, "tokens beyond V=1 cost more than the three that are done"
    assert status.left_gpu_hours == pytest.approx(2 * status.left_hours)


def test_the_verb_prints_words_or_json(grid, capsys):
    put(CELLS[0], "training.json")
    assert main(["status"]) == 0
    assert "tiny: 9 cells in results/: 1 trained, 8 waiting" in capsys.readouterr().out
    assert main(["status", "--json"]) == 0
    assert [cell["state"] for cell in json.loads(capsys.readouterr().out)["cells"]].count("trained") == 1


@pytest.fixture
def squeue(tmp_path, monkeypatch):
    """A stand-in for squeue that prints what a test writes into its file; Slurm itself is in tests/slurm."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "squeue").write_text(f"#!/bin/sh\ncat {tmp_path}/queue\n")
    (folder / "scancel").write_text(f"#!/bin/sh\necho $@ > {tmp_path}/cancelled; : > {tmp_path}/queue\n")
    for tool in folder.iterdir():
        tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_only_this_folders_living_jobs_count(squeue):
    (squeue / "queue").write_text(
        f"7|RUNNING|rule_train_cell_wildcards_3k_4_block_linear_0|{squeue}\n"
        f"8|COMPLETED|rule_train_cell_wildcards_3k_1_block_linear_0|{squeue}\n"
        f"9|RUNNING|an editor|{squeue}\n"
        "10|RUNNING|rule_train_cell_wildcards_3k_4_block_linear_0|/elsewhere\n"
    )
    found = slurm.jobs_of(squeue)
    assert found is not None and [job.number for job in found] == ["7"]
    slurm.refuse_orphans(squeue)  # no Snakemake has submitted anything here
    (squeue / ".snakemake" / "slurm_logs").mkdir(parents=True)
    with pytest.raises(UserError, match=r"1 job\(s\) of an earlier run[^\n]*\n  7 RUNNING rule_train_cell"):
        slurm.refuse_orphans(squeue)


def test_orphans_are_cancelled_and_awaited(squeue, monkeypatch, capsys):
    monkeypatch.setattr(slurm, "SECONDS_BETWEEN_LOOKS", 0.0)
    (squeue / "queue").write_text(f"7|RUNNING|rule_train_cell|{squeue}\n8|PENDING|group_a|{squeue}\n")
    assert main(["orphans", "--cancel"]) == 0
    assert (squeue / "cancelled").read_text() == "7 8\n"
    assert "no jobs of" in capsys.readouterr().out


def test_without_slurm_there_are_no_orphans(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / ".snakemake" / "slurm_logs").mkdir(parents=True)
    slurm.refuse_orphans(tmp_path)
    with pytest.raises(UserError, match="squeue is missing"):
        slurm.run_orphans(cancel=False, wait=True)
