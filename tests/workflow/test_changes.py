"""Only what changed reruns: for each kind of change, the jobs that Snakemake plans on a finished run, counted."""

import json
import os
import shutil

import pandas as pd
import pytest

from vlmlaw.vlm.cell_name import cell_named_in

LAW = {"fit_law": 1, "write_headline": 1, "write_report": 1}
MODELS = {"train_encoder": 1, "cache_features": 2, "pretrain_language_model": 3}
TAIL = {"collect_measurements": 1} | LAW
pytestmark = pytest.mark.workflow


def evaluations(n: int) -> dict[str, int]:
    """n cells evaluated again, and what follows from them."""
    return {"evaluate_cell": n, "write_cards": 1} | TAIL


def cells(n: int) -> dict[str, int]:
    """n cells trained again, and what follows from them."""
    return {"train_cell": n, "evaluate_cell": n, "write_cards": 1} | TAIL


def test_nothing_changed(finished):
    assert finished.planned() == {}


@pytest.mark.parametrize(
    ("path", "value", "jobs"),
    [
        ("grid.visual_tokens", [1, 4, 9, 36], cells(3)),
        ("grid.seeds", [0, 1], cells(9)),
        (
            "sizes.7k",
            {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2},
            {"pretrain_language_model": 1} | cells(3),
        ),
        ("sizes.14k.training", {"learning_rate": 1.0e-3}, cells(3)),
        ("sizes.14k.pretraining", {"steps": 10}, {"pretrain_language_model": 1} | cells(3)),
        ("grid.more", [{"sizes": ["3k"], "visual_tokens": [4], "compressors": {"quecc": {"n_heads": 4}}}], cells(1)),
        ("grid.more", [], {"write_cards": 1} | TAIL),
        ("grid.without", ["14k_v4_block_linear_s0"], {"write_cards": 1} | TAIL),
        ("grid.held_out", None, TAIL),
        (
            "data.images.test",
            80,
            {"draw_pictures": 1, "tokenize": 1, "cache_features": 1} | evaluations(10),
        ),
        ("evaluation.batch_size", 16, evaluations(10)),
        ("law.bootstrap_draws", 30, LAW),
        ("report.title", "Another title", {"write_report": 1}),
        ("report.explained", 1, {"explain_samples": 1, "write_report": 1}),
        ("latency", {"text_tokens": 4, "repeats": 3}, {"measure_latency": 1} | TAIL),
        ("training.checkpoint_seconds", 600, {}),
        ("compute", {"gpus": 0, "threads": 2}, {}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_change_of_the_experiment(finished, path, value, jobs):
    finished.change(path, value)
    assert finished.planned() == jobs


def test_a_finished_run_gets_milliseconds_without_a_training(finished):
    """The models timed by shape have the cells' own N and tower, or the table would have been refused."""
    before = pd.read_csv(finished.folder / "results/measurements.csv")
    finished.change("latency", {"text_tokens": 4, "repeats": 3})
    finished.snakemake("results/measurements.csv")
    after = pd.read_csv(finished.folder / "results/measurements.csv")
    pd.testing.assert_frame_equal(after[list(before)], before)
    assert (after[["first_token_ms", "tower_ms", "compressor_ms", "llm_ms"]] > 0).all(axis=None)
    assert after.groupby(["size", "kept_tokens", "compressor"])["first_token_ms"].nunique().eq(1).all()
    assert (after["question_ms"] > 0).eq(after["compressor"] == "quecc").all()
    finished.change("grid.seeds", [0, 1])
    assert "measure_latency" not in finished.planned("results/measurements.csv")


def test_the_page_of_a_finished_run_explains_what_its_evaluations_found(finished):
    """Asked again, question by question, a cell has the error of its evaluation."""
    finished.change("report.explained", 1)
    finished.snakemake()
    results = finished.folder / "results"
    made = json.loads((results / "report/samples.json").read_text())
    names = [cell_named_in(cell["measured"]) for cell in made["cells"]]
    assert [name.split("_s0")[0] for name in names] == [
        f"{size}_v{v}_block_linear" for size in ("3k", "49k") for v in (1, 4, 36)
    ]
    for suite, found in made["suites"].items():
        for name, error in zip(names, found["errors"], strict=True):
            evaluation = json.loads((results / "cells" / name / "evaluation.json").read_text())
            score = evaluation["scores"][suite]["all"]
            assert (error, found["n_questions"]) == (pytest.approx(score["error"]), score["n_questions"])
    assert '<h2 id="explained">' in (results / "report/index.html").read_text()
    assert finished.planned() == {}


def test_a_grid_of_one_size_has_its_page_and_numbers(finished):
    """There is no law in N and V to draw, and every figure that the rule declares is there all the same."""
    finished.change("grid.sizes", ["14k"])
    finished.change("grid.held_out", None)
    finished.change("grid.more", [])
    finished.snakemake()
    results = finished.folder / "results"
    assert "error along" in (results / "report/index.html").read_text()
    drawn = (results / "report/figures/error_against_tokens.svg").stat().st_size
    assert drawn > 2 * (results / "report/figures/contour.svg").stat().st_size > 0
    table = pd.read_csv(results / "measurements.csv").query("suite == 'reading' and kind == 'all'")
    numbers = json.loads((results / "headline/metrics/reading.json").read_text())
    assert numbers["mean_error"] == pytest.approx(table.error.mean(), abs=1e-4)
    assert "reading: At " in finished.vlmlaw("summary").stdout
    assert finished.planned() == {}


def test_the_order_of_keys_is_no_change(finished):
    size = finished.params["sizes"]["14k"]
    finished.change("sizes.14k", dict(reversed(size.items())))
    assert finished.planned() == {}


@pytest.mark.parametrize(
    ("path", "old", "new", "jobs"),
    [
        ("src/vlmlaw/training/cell.py", "def build_vlm(", "# What a cell starts from.\ndef build_vlm(", {}),
        (
            "src/vlmlaw/training/cell.py",
            "position_embedding=settings.place_embedding",
            "position_embedding=False",
            cells(10),
        ),
        # What cannot change a number reruns nothing.
        ("src/vlmlaw/runtime/progress.py", "s left", "s to go", {}),
        ("src/vlmlaw/runtime/loggers.py", "POINTS = 300", "UNUSED = 1\nPOINTS = 300", {}),
        ("src/vlmlaw/training/settings.py", "default=24 * 60", "default=48 * 60", {}),
        ("src/vlmlaw/compressors/base.py", "found no question_width", "there is no question_width", {}),
        ("src/vlmlaw/laws/render.py", "MAX_LAWS = 6", "MAX_LAWS = 7", {}),
        ("src/vlmlaw/laws/fit.py", "import numpy as np\n", "import numpy as np\n\nUNUSED = 1\n", {}),
        (
            "src/vlmlaw/experiment/file.py",
            "from typing import Any\n",
            "from typing import Any\n\nUNUSED = 1\n",
            {},
        ),
        ("src/vlmlaw/evaluation/card.py", "TEST = ", "UNUSED = 1\nTEST = ", {}),
        ("src/vlmlaw/workflow/stages.py", '"Fit the law"', '"Fit a law"', {}),
        ("src/vlmlaw/vlm/projector.py", "class ", "UNUSED = 1\n\n\nclass ", {}),
        # What can change one reruns what uses it, and what follows.
        ("src/vlmlaw/evaluation/card.py", "## Size and training", "## Size", {"write_cards": 1}),
        ("src/vlmlaw/laws/families/links.py", "special.expit(eta)", "special.expit(1.0 * eta)", LAW),
        ("src/vlmlaw/report/page.py", "def render(study: Study, ", "def render(study: Study, /, ", {"write_report": 1}),
        (
            "src/vlmlaw/training/optimizer.py",
            "BETA1 = 0.9\n",
            "BETA1 = 0.8\n",
            MODELS | cells(10),
        ),
        ("src/vlmlaw/compressors/region_attention.py", "LAYER_NORM_EPS = 1e-6", "LAYER_NORM_EPS = 1e-5", cells(1)),
        ("envs/environment.yaml", "channels:", "# A comment.\nchannels:", {}),
    ],
)
def test_a_change_of_the_code(finished, path, old, new, jobs):
    finished.edit(path, old, new)
    assert finished.planned() == jobs


def test_new_times_of_the_same_files_are_no_change(finished):
    """As after a clone and a pull of the results: Snakemake compares contents."""
    for number, path in enumerate(sorted((finished.folder / "results").rglob("*"), reverse=True)):
        os.utime(path, (1_700_000_000 + number, 1_700_000_000 + number))
    assert finished.planned() == {}


@pytest.mark.parametrize(
    ("lost", "jobs"),
    [("evaluation.json", evaluations(1)), ("model/model.safetensors", cells(1)), ("README.md", {"write_cards": 1})],
)
def test_a_lost_part_of_a_cell_is_made_again(finished, lost, jobs):
    (finished.folder / "results/cells/14k_v4_block_linear_s0" / lost).unlink()
    assert finished.planned() == jobs


def test_another_experiment_has_results_of_its_own(finished):
    """And params.yaml is not merged into it: its sizes would stay in the grid."""
    finished.edit("params.yaml", "results: results\n", "results: elsewhere\n")
    (finished.folder / "params.yaml").rename(finished.folder / "other.yaml")
    (finished.folder / "params.yaml").write_text("not: read\n")
    assert finished.planned("--configfile", "other.yaml")["train_cell"] == 10


def test_a_module_that_is_moved_and_renamed_reruns_nothing(finished):
    code = finished.folder / "src" / "vlmlaw"
    (code / "vlm" / "connectors").mkdir()
    (code / "vlm" / "connectors" / "__init__.py").write_text('"""What stands between tower and LLM."""\n')
    (code / "vlm" / "projector.py").rename(code / "vlm" / "connectors" / "mlp.py")
    for path in code.rglob("*.py"):
        path.write_text(path.read_text().replace("vlmlaw.vlm.projector", "vlmlaw.vlm.connectors.mlp"))
    assert finished.planned() == {}


def test_a_name_taken_from_another_module_counts_by_what_it_is_there(finished):
    """Two definitions of one name are no change where they are alike; they cannot be swapped where they differ."""
    other = finished.folder / "src" / "vlmlaw" / "training" / "schedule.py"
    shutil.copy(other.with_name("optimizer.py"), other)
    wanted = "import learning_rate_share"
    finished.edit("src/vlmlaw/training/loop.py", f"training.optimizer {wanted}", f"training.schedule {wanted}")
    assert finished.planned() == {}
    other.write_text(other.read_text().replace("cosine = 0.5", "cosine = 0.4"))
    assert finished.planned() == MODELS | cells(10)
