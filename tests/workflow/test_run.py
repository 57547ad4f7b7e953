"""The workflow end to end on a tiny grid, and the house rules of Snakemake."""

import csv
import json
import subprocess
import sys

import pytest

from vlmlaw.experiment.experiment import read_experiment
from vlmlaw.experiment.file import SPLITS
from vlmlaw.workflow import records

from .project import ROOT, environment

pytestmark = pytest.mark.workflow


def test_a_run_ends_in_measurements_a_law_and_a_report(finished_once):
    results = finished_once.folder / "results"
    experiment = read_experiment(finished_once.folder / "params.yaml")
    with (results / "measurements.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["cell"] for row in rows} == set(experiment.cells)
    assert {row["cell"] for row in rows if row["held_out"] == "True"} == {
        name for name, cell in experiment.cells.items() if cell.size == "49k"
    }
    assert json.loads((results / "law" / "law.json").read_text())["fits"]
    assert "<html" in (results / "report" / "index.html").read_text()


def test_each_cell_keeps_what_it_was_made_from(finished_once):
    experiment = read_experiment(finished_once.folder / "params.yaml")
    for name, cell in experiment.cells.items():
        training = json.loads((finished_once.folder / "results" / "cells" / name / "training.json").read_text())
        assert training["settings"]["training"]["learning_rate"] == cell.training.learning_rate
        assert training["settings"]["seed"] == cell.seed
        assert {"wall_seconds", "cpu_seconds", "peak_memory_mib", "versions"} <= set(training)


def test_nothing_unfinished_is_left(finished_once):
    names = {path.name for path in (finished_once.folder / "results").rglob("*")}
    assert not [name for name in names if name.endswith((".partial", ".old", ".work"))]


def test_no_record_names_a_file_that_a_job_goes_on_writing_to(finished_once):
    """The miniature reads nothing but what it made, so what its records call read would be its logs."""
    found = [records.read(path) for path in (finished_once.folder / "results").rglob("*record.json")]
    assert len(found) > 30
    assert [file for record in found for file, _ in records.files_read(record)] == []


def test_every_file_is_a_declared_output(finished_once):
    """What no rule declares would not travel with remote storage, nor be missed when it is gone."""
    done = finished_once.snakemake("--summary", "--forceall")  # caches that no job needs would not be listed
    declared = {line.split("\t")[0] for line in done.stdout.splitlines()[1:]}
    results = finished_once.folder / "results"
    found = {str(path.relative_to(finished_once.folder)) for path in results.rglob("*") if path.is_file()}
    folders = tuple(f"{path}/" for path in declared if (finished_once.folder / path).is_dir())
    logs = ("results/logs/", "results/benchmarks/")
    kept = {path for path in found if not path.startswith((*logs, *folders)) and ".tfevents." not in path}
    assert kept - declared - {"results/README.md"} == set()


def test_the_summary_prints_the_laws_and_the_page(finished_once):
    done = finished_once.vlmlaw("summary")
    assert "rho" in done.stdout
    assert "results/report/index.html" in done.stdout.splitlines()[-1]


def test_snakemakes_own_report(finished_once, tmp_path):
    target = tmp_path / "report.zip"
    finished_once.snakemake("--report", str(target))
    assert target.stat().st_size > 10_000


def test_the_rules_are_clean():
    command = ["python", "-m", "snakemake", "--lint"]
    lint = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert lint.returncode == 0, lint.stdout + lint.stderr
    formatted = subprocess.run(
        [sys.executable, "-m", "snakefmt", "--check", "Snakefile", "workflow"], cwd=ROOT, capture_output=True, text=True
    )
    assert formatted.returncode == 0, formatted.stdout + formatted.stderr


def test_a_bad_experiment_stops_before_anything_runs(fresh):
    experiment = read_experiment(ROOT / "workflow" / "experiments" / "tiny.yaml")
    assert set(experiment.data.images) == set(SPLITS)
    project = fresh({"name": "bad", "grid": {}})
    done = project.snakemake(check=False)
    assert done.returncode != 0
    for section in ("data", "vision", "training", "sizes"):
        assert f"params.yaml.{section} is missing" in done.stdout + done.stderr
    assert not (project.folder / "results").exists()
