"""After a switch of branches DVC's cache may hold what a run would train: the run says so and trains nothing."""

import hashlib
import json
from pathlib import Path

import pytest
import yaml

from vlmlaw.errors import UserError
from vlmlaw.workflow.dvc_offer import RETRAIN, refuse_what_dvc_has, trainings_in_cache
from vlmlaw.workflow.plan import Plan
from vlmlaw.workflow.reads import training_of

from .project import tiny_experiment

CELL = "3k_v4_block_linear_s0"


def stored(text: str) -> str:
    """Put a text into DVC's cache; returns its name there."""
    name = hashlib.md5(text.encode()).hexdigest()
    path = Path(".dvc/cache/files/md5") / name[:2] / name[2:]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return name


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """The tiny experiment in a folder whose dvc.lock records one cell of these settings; here lies one of others."""
    monkeypatch.chdir(tmp_path)
    plan = Plan(tiny_experiment())
    read = training_of(plan.experiment.trainings[CELL])
    given = {name: part(read.wildcards) for name, part in plan.params(read.rule).items()}
    record = given | {"files": {}, "inputs": {}, "content": "", "at": ""}
    listing = [{"md5": stored(json.dumps(record)), "relpath": f"{CELL}/training.record.json"}]
    outs = [{"path": "results/cells", "md5": stored(json.dumps(listing))}]
    Path("dvc.lock").write_text(yaml.safe_dump({"stages": {"cells": {"outs": outs}}}))
    here = Path("results/cells") / CELL / "training.record.json"
    here.parent.mkdir(parents=True)
    here.write_text(json.dumps(record | {"settings": "{}"}))
    return plan


def test_what_the_cache_holds_is_offered_and_not_trained(plan, monkeypatch):
    with pytest.raises(UserError, match=f"holds 1 training.* such as {CELL}: .*`dvc checkout --force`"):
        refuse_what_dvc_has(plan)
    monkeypatch.setenv(RETRAIN, "1")
    refuse_what_dvc_has(plan)


@pytest.mark.parametrize("there", ["deleted here", "the same here", "no lock", "a lock cut off", "no cache"])
def test_else_nothing_is_offered(plan, there):
    here = Path("results/cells") / CELL / "training.record.json"
    if there == "deleted here":
        here.unlink()
    elif there == "the same here":
        read = training_of(plan.experiment.trainings[CELL])
        given = {name: part(read.wildcards) for name, part in plan.params(read.rule).items()}
        here.write_text(json.dumps(given | {"files": {}, "inputs": {}, "content": "", "at": ""}))
    elif there == "no lock":
        Path("dvc.lock").unlink()
    elif there == "a lock cut off":
        Path("dvc.lock").write_text(Path("dvc.lock").read_text()[:25])
    else:
        Path(".dvc").rename("elsewhere")
    assert trainings_in_cache(plan) == []
