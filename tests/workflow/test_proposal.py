"""Rounds of a design without Snakemake: only more cells with more budget, rows of one training, what is said."""

import contextlib
import json
import math
import re
from pathlib import Path

import pytest

from vlmlaw.errors import UserError
from vlmlaw.experiment.design_round import read_round
from vlmlaw.experiment.experiment import Experiment
from vlmlaw.experiment.training_costs import training_costs
from vlmlaw.report.design import index_of_cells, sentences
from vlmlaw.workflow.design import Design
from vlmlaw.workflow.proposal import propose
from vlmlaw.workflow.stages import stages_of

from .project import tiny_experiment

SIZES = {"3k": 16, "7k": 24, "12k": 32, "28k": 48}


def designed(grid=None, **design) -> dict:
    """The tiny experiment with four sizes and a design."""
    shapes = {
        name: {"hidden_size": width, "num_hidden_layers": 1, "num_attention_heads": 2} for name, width in SIZES.items()
    }
    grid = {"visual_tokens": [1, 4, 9, 36], "compressors": ["block_linear"]} | (grid or {})
    return tiny_experiment() | {"sizes": shapes, "grid": grid, "design": design, "law": {"bootstrap_draws": 0}}


def measure(cells: Path, name: str, cell, training: str) -> None:
    """A made-up evaluation: error falls three times as fast with N as with V."""
    n = 1000.0 * float(cell.size.removesuffix("k"))
    noise = 0.002 * ((hash_of(name) % 1000) / 500 - 1)
    error = 0.05 + 0.6 * (n / 1000) ** -0.3 * cell.n_visual_tokens**-0.1 + noise
    result = {
        "cell": {"size": cell.size, "n_visual_tokens": cell.n_visual_tokens, "compressor": cell.compressor, "seed": 0},
        "scores": {"reasoning": {"all": {"error": error, "error_se": 0.002, "n_questions": 100}}},
        "training": training,
        "parameters": {"llm": int(2 * n), "llm_non_embedding": int(n)},
        "n_text_tokens": 2,
        "question_tokens": 1,
        "visual_tokens": float(cell.n_visual_tokens),
        "flops": {"llm": 1, "vision": 1, "compressor": 1, "projector": 1, "question_pass": 0},
        "train_seconds": 36.0,
    }
    (cells / name).mkdir(parents=True, exist_ok=True)
    (cells / name / "evaluation.json").write_text(json.dumps(result))


def hash_of(name: str) -> int:
    return sum(ord(letter) * 31**place for place, letter in enumerate(name))


def carried_out(folder: Path, **file) -> dict:
    """Every round of a design whose cells are measured at once; the last round."""
    folder.mkdir(exist_ok=True)
    with contextlib.chdir(folder):
        return _carried_out(Experiment.from_mapping(designed(**file) | {"results": "results"}))


def _carried_out(experiment: Experiment) -> dict:
    design, before, cells = Design(experiment), None, Path("results/cells")
    for number in range(40):
        out = cells / "design" / f"{number}.json"
        out.parent.mkdir(parents=True, exist_ok=True)
        design.stages = stages_of(experiment, design)
        asked = json.loads(design.settings_of_round(number))
        propose(cells, out, experiment=experiment, asked=asked, before=before)
        found, before = read_round(out), out
        if found["stop"]:
            assert design.last == number and design.chosen() == found["measured"]
            return found
        for name in found["next"]:
            cell = experiment.cells[name]
            measure(cells, name, cell, experiment.training_of(cell).name)
    raise AssertionError("it never stops")


def test_a_larger_budget_and_a_wider_question_only_add_cells(tmp_path):
    with pytest.raises(UserError, match="budget is 6%, which does not cover the first 5 trainings that a law needs"):
        carried_out(tmp_path / "a", until="side", budget="6%")
    small = carried_out(tmp_path / "a", until="rho", budget="25%")
    assert small["stop"].startswith("the next cell, ") and "of the budget of 25 % of the grid's cost" in small["stop"]
    assert 0 < small["spent"] <= 0.25
    side = carried_out(tmp_path / "b", until="side", budget="100%")
    assert side["stop"] == "what was asked is known" and 5 <= len(side["cells"]) < 16
    rho = carried_out(tmp_path / "c", until="rho", budget="100%", width=1.05)
    assert len(rho["cells"]) > max(len(small["cells"]), len(side["cells"]))
    assert rho["cells"][: len(small["cells"])] == small["cells"] and rho["cells"][: len(side["cells"])] == side["cells"]


def test_the_best_cell_within_a_budget_of_flops_is_named(tmp_path):
    found = carried_out(tmp_path, until="best", budget="100%", flops=2.5e6, question_tokens=10)
    assert found["stop"] == "what was asked is known" and 5 <= len(found["cells"]) < 16
    affordable = [(n, v) for n in (3, 7, 12, 28) for v in (1, 4, 9, 36) if 2000 * n * (10 + v) <= 2.5e6]
    n, v = max(affordable, key=lambda cell: 3 * math.log(cell[0]) + math.log(cell[1]))  # of the truth in `measure`
    said = " ".join(sentences(found))
    assert "The question was which cell is the best to deploy within 2.5e+06 FLOPs an answer." in said
    assert " % of the grid's cost, within a budget of 100 % of the grid's cost." in said and "whole grid" not in said
    assert f"the best cell is N = {n} k, V = {v} " in said


def test_a_training_that_serves_every_v_is_paid_once_and_gives_its_row(tmp_path):
    grid = {"visual_tokens": [1, 4, 9, 36], "compressors": ["m3"]}
    experiment = Experiment.from_mapping(designed(grid))
    costs, _ = training_costs(experiment)
    assert set(costs) == {f"{size}_m3_s0" for size in SIZES} and sum(costs.values()) == pytest.approx(1)
    found = carried_out(tmp_path, grid=grid, until="side", budget="100%")
    rows = [step["cells"] for step in found["steps"]]
    assert all(len(row) == 4 and len({name.split("_")[0] for name in row}) == 1 for row in rows)
    assert found["spent"] == pytest.approx(sum(costs[f"{row[0].split('_')[0]}_m3_s0"] for row in rows))


def test_held_out_cells_and_those_that_cannot_be_measured_are_said(tmp_path):
    found = carried_out(tmp_path, grid={"held_out": "28k"}, until="side", budget="100%")
    assert not [name for name in found["cells"] if name.startswith("28k")] and len(found["held_out"]) == 4
    said = " ".join(sentences(found | {"missing": {"7k_v4_block_linear_s0": "bad input: the loss is nan"}}))
    assert "7k_v4_block_linear_s0 is missing: bad input: the loss is nan." in said
    assert "held out of the law (grid.held_out): 28k_v1" in said and "It stopped because" in said
    assert all(name in index_of_cells(found) for name in found["measured"])


@pytest.mark.parametrize(
    ("design", "why"),
    [
        ({"budget": "20"}, "expected GPU-hours, as in 20h, or a share above 0, as in 10%"),
        ({"budget": "0%"}, "a share above 0"),
        ({"budget": "20h"}, "no GPU-hours can be estimated"),
        ({"until": "never"}, "one of side, rho, best"),
        ({"until": "best"}, "no flops with until: best"),
        ({"flops": 1e12}, "flops of 1e+12 with until: side"),
        ({"width": 2.0}, "width is 2 with until: side"),
        ({"bugdet": "5%"}, "until, budget, width, cells_at_once"),
    ],
)
def test_a_wrong_design_is_refused(design, why):
    with pytest.raises(UserError, match=re.escape(why)):
        Experiment.from_mapping(designed(**design))
