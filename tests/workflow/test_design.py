"""A grid that trains itself in the order of its design: it stops, goes on with more budget, and past what fails."""

import csv

import pytest

from vlmlaw.experiment.design_round import read_round
from vlmlaw.workflow.plan import Plan
from vlmlaw.workflow.status import grid_status, status_text

from .project import Project, new_project, tiny_experiment
from .standins import use_standins

pytestmark = pytest.mark.workflow
COSTLIEST = "14k_v36_block_linear_s0"


def trained(project: Project) -> dict[str, int]:
    """When each cell's training was written."""
    found = (project.folder / "results" / "cells").glob("*/training.json")
    return {path.parent.name: path.stat().st_mtime_ns for path in found}


def last_round(project: Project) -> dict:
    numbers = [
        int(path.stem) for path in (project.folder / "results/cells/design").glob("*.json") if path.stem.isdigit()
    ]
    return read_round(project.folder / f"results/cells/design/{max(numbers)}.json")


@pytest.mark.slow
def test_snakemake_trains_in_this_order_and_stops(tmp_path, monkeypatch):
    file = tiny_experiment()
    file["grid"] = {"sizes": ["3k", "14k"], "visual_tokens": [1, 4, 36], "compressors": ["block_linear"]}
    file |= {"design": {"until": "rho", "budget": "70%"}, "law": {"bootstrap_draws": 0}}
    project = new_project(tmp_path / "project", file)
    use_standins(project.folder)
    project.snakemake()
    small, before = last_round(project), trained(project)
    assert small["stop"].startswith(f"the next cell, {COSTLIEST}, would cost") and len(small["cells"]) == 5
    assert set(before) == set(small["cells"]) and project.planned() == {}

    # More budget: the further cell cannot be trained. The run fails, and the next goes on without it.
    project.change("design.budget", "100%")
    monkeypatch.setenv("STANDIN_DIVERGES", COSTLIEST)
    failed = project.snakemake(check=False)
    assert failed.returncode != 0 and f"{COSTLIEST} (train_cell): bad input: the loss is nan at step 7" in failed.stderr
    project.snakemake()
    found = last_round(project)
    assert found["missing"] == {COSTLIEST: "bad input: the loss is nan at step 7"}
    assert "every cell that can tell is measured" in found["stop"] and trained(project) == before
    with (project.folder / "results" / "measurements.csv").open() as table:
        assert {row["cell"] for row in csv.DictReader(table)} == set(found["measured"]) == set(before)
    assert project.planned() == {}

    # Other settings are another attempt.
    monkeypatch.chdir(project.folder)
    assert "the design has chosen 6 of 6 cells; it stopped" in status_text(grid_status(Plan(project.params).experiment))
    project.change("sizes.14k.training", {"learning_rate": 1.0e-3})
    changed = Plan(project.params).design
    assert changed is not None and changed.missing_because(COSTLIEST) == ""
