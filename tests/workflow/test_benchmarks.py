"""Benchmarks in the workflow: a job for each cell and benchmark, and nothing else runs again for them."""

import json

import pandas as pd
import pytest

from vlmlaw.data.shards import Dataset

pytestmark = pytest.mark.workflow
TABLE = "results/measurements.csv"


@pytest.fixture
def three_cells(finished):
    """The finished run with three of its cells, and questions about its test pictures."""
    finished.change("grid.visual_tokens", [4])
    finished.change("grid.more", [])
    data = Dataset(finished.folder / "results" / "data" / "test")
    several = [record for record in data.records if len(record.questions) > 1]  # a page of one word has one question
    for name, records in (("a", several[:10]), ("b", several[10:14])):
        rows = [
            {"id": f"{r.id}-{n}", "image": r.image, "question": r.prompt(r.questions[n]), "answer": r.answers[n]}
            for r in records
            for n in range(2)
        ]
        (finished.folder / f"{name}.json").write_text(json.dumps(rows))
    return finished


def section(name):
    return {
        "name": name,
        "questions": f"{name}.json",
        "images": "results/data/test",
        "suite": "reasoning",
        "metric": "exact_match",
    }


def test_benchmarks_run_for_themselves(three_cells):
    three_cells.change("evaluation.benchmarks", [section("a")])
    collected = {"collect_measurements": 1}
    assert three_cells.planned(TABLE) == {"evaluate_benchmark": 3} | collected
    three_cells.snakemake(TABLE)
    table = pd.read_csv(three_cells.folder / TABLE)
    of_benchmark = table[table.kind == "a"]
    assert len(of_benchmark) == 3 and set(of_benchmark.n_questions) == {20}
    assert of_benchmark.error.between(0, 1).all()
    assert three_cells.planned(TABLE) == {}
    # A new benchmark asks its own questions; changed questions are asked again; a batch size changes no reply.
    three_cells.change("evaluation.benchmarks", [section("a"), section("b")])
    assert three_cells.planned(TABLE) == {"evaluate_benchmark": 3} | collected
    three_cells.change("evaluation.benchmarks", [section("a")])
    rows = json.loads((three_cells.folder / "a.json").read_text())
    (three_cells.folder / "a.json").write_text(json.dumps(rows[:-1]))
    assert three_cells.planned(TABLE) == {"evaluate_benchmark": 3} | collected


def test_what_cannot_be_run_is_refused_before_anything_runs(three_cells):
    three_cells.change("evaluation.benchmarks", [section("a") | {"metric": "bleu"}])
    done = three_cells.snakemake("--dry-run", TABLE, check=False)
    assert done.returncode != 0
    assert "no metric is called 'bleu'" in done.stdout + done.stderr


def test_lmms_eval_is_one_more_runner(three_cells):
    three_cells.change("evaluation.benchmarks", [{"name": "gqa", "by": "lmms-eval"}, section("b")])
    planned = three_cells.planned(TABLE)
    assert planned == {"evaluate_benchmark": 3, "evaluate_by_lmms_eval": 3, "collect_measurements": 1}
