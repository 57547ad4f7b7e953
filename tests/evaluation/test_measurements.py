"""measurements.csv: a row for each cell, suite and kind, the same whatever the order; nothing missing passes."""

import copy
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from vlmlaw.cli.main import main
from vlmlaw.errors import UserError
from vlmlaw.evaluation.measurements import COLUMNS, collect
from vlmlaw.experiment.experiment import read_experiment
from vlmlaw.settings import as_data

TINY = Path(__file__).parents[2] / "workflow" / "experiments" / "tiny.yaml"

SCORE = {"error": 1 / 3, "error_se": 0.0123456789, "n_questions": 30, "doubt": 0.4}
EVALUATION = {
    "cell": {"size": "3k", "n_visual_tokens": 4, "compressor": "block_linear", "seed": 0},
    "scores": {"reasoning": {"all": SCORE, "fact": SCORE | {"error": 0.5}}, "reading": {"all": SCORE}},
    "parameters": {"llm": 5000, "llm_non_embedding": 3000, "vision": 1, "compressor": 2, "projector": 3},
    "n_text_tokens": 2,
    "question_tokens": 1,
    "visual_tokens": 4.0,
    "flops": {"llm": 10, "llm_2nt": 11, "vision": 20, "compressor": 3, "projector": 4, "question_pass": 5, "all": 42},
    "training": "3k_v4_block_linear_s0",
    "train_seconds": 1.26,
    "train_cpu_seconds": 1.0,
}


def evaluated(folder, name="3k_v4_block_linear_s0", **changes):
    evaluation = copy.deepcopy(EVALUATION)
    evaluation["cell"] |= changes
    evaluation["visual_tokens"] = float(evaluation["cell"]["n_visual_tokens"])
    path = folder / name / "evaluation.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(evaluation))
    return path


@pytest.fixture
def cells(tmp_path):
    """Three cells of two sizes."""
    large = evaluated(tmp_path, "9k_v1_block_linear_s1", size="9k", n_visual_tokens=1, seed=1)
    changed = json.loads(large.read_text())
    changed["parameters"] |= {"llm_non_embedding": 9000}
    large.write_text(json.dumps(changed))
    return [evaluated(tmp_path, "3k_v16_block_linear_s0", n_visual_tokens=16), large, evaluated(tmp_path)]


def test_every_figure_of_an_evaluation_arrives(tmp_path):
    collect([evaluated(tmp_path)], tmp_path / "out.csv", held_out="9k")
    table = pd.read_csv(tmp_path / "out.csv")
    assert list(table.columns) == list(COLUMNS)
    assert len(table) == 3
    row = table[(table.suite == "reasoning") & (table.kind == "all")].iloc[0].to_dict()
    assert row.pop("error") == pytest.approx(1 / 3, rel=1e-12)
    assert np.isnan(row.pop("unread"))  # the test split has no replies
    assert row == (
        {
            "cell": "3k_v4_block_linear_s0",
            "size": "3k",
            "seed": 0,
            "compressor": "block_linear",
            "n_visual_tokens": 4,
            "kept_tokens": 4,
            "n_params": 3000,
            "n_params_total": 5000,
            "n_text_tokens": 2,
            "question_tokens": 1,
            "suite": "reasoning",
            "kind": "all",
            "n_questions": 30,
            "error_se": 0.0123456789,
            "doubt": 0.4,
            "llm_flops": 10,
            "vision_flops": 20,
            "compressor_flops": 12,
            "held_out": False,
            "training": "3k_v4_block_linear_s0",
            "train_seconds": 1.3,
        }
    )


def test_rows_are_sorted_whatever_the_order(cells, tmp_path):
    for name, order in (("a", cells), ("b", cells[::-1])):
        collect(order, tmp_path / f"{name}.csv", held_out="9k")
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    table = pd.read_csv(tmp_path / "a.csv")
    of_suite = table[(table.suite == "reasoning") & (table.kind == "all")]
    assert of_suite.cell.tolist() == ["3k_v4_block_linear_s0", "3k_v16_block_linear_s0", "9k_v1_block_linear_s1"]
    assert of_suite.held_out.tolist() == [False, False, True]


def test_the_laws_read_it(cells, tmp_path):
    from vlmlaw.laws import read_measurements

    collect(cells, tmp_path / "out.csv", held_out="9k")
    assert len(read_measurements(tmp_path / "out.csv")) >= 2


def test_without_evaluations_there_is_no_table(tmp_path):
    with pytest.raises(UserError, match="no evaluations given"):
        collect([], tmp_path / "out.csv", held_out=None)
    assert list(tmp_path.iterdir()) == []


def without(*keys):
    def damage(evaluation):
        part = evaluation
        for key in keys[:-1]:
            part = part[key]
        del part[keys[-1]]
        return evaluation

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without("flops", "vision"), "KeyError('vision')"),
        (without("scores"), "KeyError('scores')"),
        (without("scores", "reading", "all", "error_se"), "reading all: error_se is missing"),
        (lambda e: e["scores"]["reading"]["all"].update(error=float("nan")) or e, "reading all: error is missing"),
        (lambda e: e["scores"]["reading"]["all"].update(other=1) or e, "other is missing, unknown"),
        (lambda e: e | {"scores": {}}, "holds no score"),
        (lambda e: [e], "is no evaluation of a cell"),
        (lambda e: None, "is no evaluation of a cell"),
    ],
)
def test_a_figure_that_is_missing_is_an_error(cells, tmp_path, damage, message):
    cells[1].write_text(json.dumps(damage(json.loads(cells[1].read_text()))))
    with pytest.raises(UserError, match=f"{re.escape(str(cells[1]))}.*{re.escape(message)}"):
        collect(cells, tmp_path / "out.csv", held_out=None)
    assert not (tmp_path / "out.csv").exists()


def test_a_file_that_is_missing_or_cut_is_an_error(cells, tmp_path):
    cells[1].write_text(cells[1].read_text()[:100])
    with pytest.raises(UserError, match="JSONDecodeError"):
        collect(cells, tmp_path / "out.csv", held_out=None)
    cells[1].unlink()
    with pytest.raises(UserError, match=r"9k_v1_block_linear_s1.*run `vlmlaw evaluate` on it"):
        collect(cells, tmp_path / "out.csv", held_out=None)


def test_a_cell_given_twice_is_an_error(cells, tmp_path):
    again = evaluated(tmp_path / "copy")
    for extra in (cells[2], again):
        with pytest.raises(UserError, match="the cell 3k_v4_block_linear_s0 was given twice"):
            collect([*cells, extra], tmp_path / "out.csv", held_out=None)


# Benchmarks.


def on_benchmark(folder, name, *, error, cell="3k_v4_block_linear_s0", suite="reasoning", **changes):
    """The file of one benchmark of a cell; `changes` are of the cell."""
    evaluation = copy.deepcopy(EVALUATION)
    evaluation["cell"] |= changes
    evaluation["scores"] = {suite: {name: {"error": error, "error_se": 0.03, "n_questions": 10}}}
    evaluation["n_text_tokens"] = len(name)
    path = folder / cell / "benchmarks" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(evaluation))
    return path


def test_a_suite_of_benchmarks_is_their_mean(tmp_path):
    files = [
        on_benchmark(tmp_path, "gqa", error=0.4),
        on_benchmark(tmp_path, "chartqa", error=0.8),
        on_benchmark(tmp_path, "docvqa", error=0.9, suite="reading"),
    ]
    collect(files, tmp_path / "out.csv", held_out=None)
    table = pd.read_csv(tmp_path / "out.csv").set_index(["suite", "kind"])
    assert len(table) == 5
    whole = table.loc[("reasoning", "all")]
    assert whole.error == pytest.approx(0.6) and whole.n_questions == 20
    assert whole.error_se == pytest.approx(0.03 / 2**0.5)
    assert whole.n_text_tokens == 5  # of 3 and 7
    assert table.loc[("reading", "all")].error == pytest.approx(0.9)
    assert set(table.cell) == {"3k_v4_block_linear_s0"}


def test_a_suite_that_has_its_own_row_keeps_it(tmp_path):
    """The miniature's suites are evaluated whole; benchmarks of another suite stand beside them."""
    files = [evaluated(tmp_path), on_benchmark(tmp_path, "docvqa", error=0.9, suite="documents")]
    collect(files, tmp_path / "out.csv", held_out=None)
    table = pd.read_csv(tmp_path / "out.csv").set_index(["suite", "kind"])
    assert table.loc[("reasoning", "all")].error == pytest.approx(1 / 3)
    assert table.loc[("documents", "all")].error == pytest.approx(0.9)


def test_cells_with_different_benchmarks_are_not_averaged(tmp_path):
    other = {"cell": "3k_v1_block_linear_s0", "n_visual_tokens": 1}
    files = [
        on_benchmark(tmp_path, "gqa", error=0.4),
        on_benchmark(tmp_path, "pope", error=0.2),
        on_benchmark(tmp_path, "gqa", error=0.5, **other),
    ]
    with pytest.raises(UserError, match="the cell 3k_v1_block_linear_s0 lacks pope of the suite reasoning"):
        collect(files, tmp_path / "out.csv", held_out=None)
    with pytest.raises(UserError, match=r"3k_v4_block_linear_s0 \(reasoning: gqa\) was given twice"):
        collect([files[0], files[0]], tmp_path / "out.csv", held_out=None)
    assert not (tmp_path / "out.csv").exists()


@pytest.fixture
def grid(tmp_path):
    """The evaluations of the tiny experiment's cells in one folder, with its file."""
    names = ("size", "n_visual_tokens", "compressor", "seed")
    for name, cell in read_experiment(TINY).cells.items():
        evaluated(tmp_path / "cells", name, **{key: getattr(cell, key) for key in names})
    return tmp_path / "cells"


def collected(tmp_path, *arguments):
    return main(["collect", *map(str, arguments), "--out", str(tmp_path / "out.csv")])


def test_the_cells_of_an_experiment_are_collected_from_their_folder(grid, tmp_path):
    evaluated(grid, "9k_v1_average_s0", size="9k")  # left by an earlier grid
    assert collected(tmp_path, "--cells", grid, "--experiment", TINY) == 0
    whole = (tmp_path / "out.csv").read_bytes()
    assert pd.read_csv(tmp_path / "out.csv").cell.nunique() == 10
    resolved = json.dumps(as_data(read_experiment(TINY)))
    assert collected(tmp_path, "--cells", grid, "--experiment", resolved) == 0
    assert (tmp_path / "out.csv").read_bytes() == whole


def test_a_cell_without_its_evaluation_stops_the_collection(grid, tmp_path, capsys):
    (grid / "14k_v4_block_linear_s0" / "evaluation.json").unlink()
    assert collected(tmp_path, "--cells", grid, "--experiment", TINY) == 2
    assert "14k_v4_block_linear_s0/evaluation.json" in capsys.readouterr().err
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "give evaluations, or the folder of all cells with --cells and --experiment"),
        (("a/evaluation.json", "--cells", "cells"), "give evaluations, or the folder of all cells"),
        (("--cells", "cells"), "--cells needs --experiment FILE"),
        (("--cells", "cells", "--experiment", "missing.yaml"), "missing.yaml"),
    ],
)
def test_what_cannot_be_collected_says_what_to_give(tmp_path, capsys, arguments, told):
    assert collected(tmp_path, *arguments) == 2
    assert told in capsys.readouterr().err


def test_the_share_of_unread_replies_arrives_and_a_suite_has_the_mean(tmp_path):
    paths = []
    for name, unread in (("pope", 0.25), ("gqa", 0.75)):
        evaluation = copy.deepcopy(EVALUATION)
        score = {"error": 0.5, "error_se": 0.1, "n_questions": 4, "unread": unread}
        evaluation["scores"] = {"reasoning": {name: score}}
        paths.append(tmp_path / f"{name}.json")
        paths[-1].write_text(json.dumps(evaluation))
    collect(paths, tmp_path / "out.csv", held_out=None)
    table = pd.read_csv(tmp_path / "out.csv").set_index("kind")
    assert table.unread.to_dict() == {"all": 0.5, "gqa": 0.75, "pope": 0.25}
