"""An experiment with `models:` under Snakemake: from two checkpoints to the page, and what runs again."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from tests.evaluation.backends.releases import MAKERS

from vlmlaw.errors import UserError
from vlmlaw.experiment.catalogue import Catalogue
from vlmlaw.workflow.models_plan import ModelsPlan

from .project import jobs_of, new_project

pytestmark = [pytest.mark.workflow, pytest.mark.slow]
EXPERIMENT = {
    "name": "pages",
    "models": {"small": {"checkpoint": "checkpoints/small"}, "large": {"checkpoint": "checkpoints/large"}},
    "grid": {"visual_tokens": [4, "max"]},
    "evaluation": {"benchmarks": [{"name": "pages", "questions": "pages/q.jsonl", "max_new_tokens": 2}]},
}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    made = new_project(tmp_path_factory.mktemp("models") / "project", EXPERIMENT)
    torch.manual_seed(0)
    for name in ("small", "large"):
        MAKERS["idefics3"](made.folder / "checkpoints" / name)
    (made.folder / "pages").mkdir()
    rng, rows = np.random.default_rng(0), []
    for i in range(4):
        Image.fromarray(rng.integers(0, 255, (80, 60, 3), dtype=np.uint8)).save(made.folder / "pages" / f"{i}.png")
        rows.append({"id": str(i), "image": f"{i}.png", "question": "what", "answer": "a"})
    (made.folder / "pages" / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return made


def test_from_checkpoints_to_the_page_and_only_what_is_missing_again(project):
    done = project.snakemake()
    jobs = jobs_of(done.stdout + done.stderr)
    asked = {"ask_model": 6, "judge_models": 1, "collect_models": 1}
    assert {name: jobs[name] for name in asked} == asked
    results = project.folder / "results"
    assert (results / "measured" / "pages" / "index.html").is_file()
    table = pd.read_csv(results / "measurements.csv")
    cells = [(size, v) for size in ("large", "small") for v in (4, 52)]
    assert sorted(zip(table["size"], table.n_visual_tokens, strict=True)) == cells
    assert "Nothing to be done" in (again := project.snakemake()).stdout + again.stderr
    # A job that was stopped goes on where it was: half its replies are in the journal.
    cell = results / "asked" / "pages" / "small_v4"
    lines = (cell / "journal.jsonl").read_text().splitlines(keepends=True)
    (cell / "journal.jsonl").write_text("".join(lines[:2]))
    (cell / "replies.jsonl").unlink()
    project.snakemake("results/asked/pages/small_v4/replies.jsonl")
    assert (cell / "journal.jsonl").read_text().startswith("".join(lines[:2]))
    assert len((cell / "replies.jsonl").read_text().splitlines()) == 4
    # A V more asks each model at that V alone.
    more = EXPERIMENT | {"grid": {"visual_tokens": [4, 20, "max"]}}
    (project.folder / "params.yaml").write_text(yaml.safe_dump(more))
    assert project.planned()["ask_model"] == 2


WRONG = {
    "none": ({"models": {"a": {}}}, "expected one of endpoint, checkpoint and cell"),
    "half": ({"models": {"a": {"endpoint": "http://127.0.0.1:1/v1"}}}, "go together"),
    "V": ({"models": {"a": {"endpoint": "URL", "model": "qwen3-vl-2B"}}}, "makes 64 to 16384"),
    "cost": ({"decision": {"cost": "gold"}}, "decision.cost: found 'gold'"),
    "price": ({"decision": {"cost": "money", "prices": {"small": "1/2"}}}, "needs a price of large"),
    "no price": ({"decision": {"prices": {"small": "cheap"}}}, "decision.prices.small: found 'cheap'"),
    "speed": ({"decision": {"speed": {"small_v9": "a.json"}}}, "given for the cell 'small_v9'; there are small_v0"),
    "same": ({"models": {name: {"checkpoint": "x"} for name in ("a-b", "a--b")}}, "would call it a-b, as a-b"),
    "budget": ({"grid": {"visual_tokens": ["many"]}}, "visual_tokens"),
    "key": ({"sizes": {}}, "sizes"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_file_is_refused(what, tmp_path):
    change, wanted = WRONG[what]
    with pytest.raises(UserError, match=wanted):
        Catalogue.from_mapping(EXPERIMENT | change)


def test_a_stage_of_dvc_for_grids_is_refused_before_anything_runs(monkeypatch):
    assert ModelsPlan(EXPERIMENT).targets
    monkeypatch.setenv("DVC_STAGE", "cells")
    with pytest.raises(UserError, match=r"a stage of its own, by `dvc stage add`"):
        ModelsPlan(EXPERIMENT)
