"""lmms-eval's results as measurements; and, where it is installed, lmms-eval itself on a cell.

The second part runs where VLMLAW_LMMS_PYTHON names the interpreter of an environment with it (envs/lmms-eval.yaml).
"""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from vlmlaw.cli.main import main
from vlmlaw.data.shards import Dataset
from vlmlaw.errors import UserError
from vlmlaw.evaluation.benchmark import evaluate_benchmark
from vlmlaw.evaluation.lmms_eval import run
from vlmlaw.evaluation.lmms_eval.run import PYTHON, import_results, run_lmms_eval
from vlmlaw.evaluation.measurements import collect
from vlmlaw.evaluation.metrics import METRICS
from vlmlaw.evaluation.settings import BenchmarkSettings
from vlmlaw.evaluation.suites import BENCHMARKS, Benchmark, benchmark_of_task, table_lines

# The layout that lmms-eval 0.7.3 wrote of a local task, with the tasks and scores of its own task files.
RESULTS = {
    "results": {
        "gqa": {
            "alias": "gqa",
            "exact_match,none": 0.625,
            "exact_match_stderr,none": 0.5,
            "exact_match_stderr_clt,none": 0.03,
            "exact_match_stderr_clustered,none": "N/A",
        },
        "mme": {
            "alias": "mme",
            "mme_perception_score,none": 1500.0,
            "mme_perception_score_stderr,none": "N/A",
            "mme_perception_score_stderr_clt,none": 0.007,
            "mme_cognition_score,none": 250.0,
            "mme_cognition_score_stderr,none": "N/A",
        },
        "ai2d": {"alias": "ai2d", "exact_match,flexible-extract": 0.5, "exact_match_stderr,flexible-extract": 0.02},
    },
    "group_subtasks": {"gqa": [], "mme": [], "ai2d": []},
    "n-samples": {
        "gqa": {"original": 200, "effective": 200},
        "mme": {"original": 2374, "effective": 2374},
        "ai2d": {"original": 100, "effective": 100},
    },
}


@pytest.fixture
def results(tmp_path):
    """A function that writes a results file, changed as asked, with its samples."""

    def write(change=lambda found: None, samples=("gqa", "mme", "ai2d")):
        found = json.loads(json.dumps(RESULTS))
        change(found)
        path = tmp_path / "model" / "20261120_120000_results.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(found))
        for task in samples:
            lines = [json.dumps({"doc_id": i, "input": "shape red" + " left" * i}) for i in range(3)]
            path.with_name(f"20261120_120000_samples_{task}.jsonl").write_text("\n".join(lines) + "\n")
        return path

    return write


def test_scores_become_errors_by_the_table(cell, results, tmp_path):
    written = import_results(results(), cell / "model", tmp_path / "out")
    assert [path.name for path in written] == ["gqa.json", "mme.json", "ai2d.json"]
    found = {path.stem: json.loads(path.read_text()) for path in written}
    gqa = found["gqa"]["scores"]["reasoning"]["gqa"]
    assert gqa.items() >= {"error": 0.375, "error_se": 0.03, "n_questions": 200, "unread": None}.items()
    # 1750 of 2800; pairs of questions, binomial.
    mme = found["mme"]["scores"]["reasoning"]["mme"]
    assert mme["error"] == pytest.approx(0.375)
    assert mme["error_se"] == pytest.approx((0.375 * 0.625 / 1187) ** 0.5)
    ai2d = found["ai2d"]["scores"]["reasoning"]["ai2d"]
    assert ai2d.items() >= {"error": 0.5, "error_se": 0.02, "n_questions": 100}.items()
    named = {"size": "3k", "n_visual_tokens": 4, "compressor": "block_linear", "seed": 7}
    assert found["gqa"]["cell"] == named | {"compressor_options": {}}
    assert found["gqa"]["n_text_tokens"] == 3  # of 2, 3 and 4 words


def test_they_flow_into_the_measurements(cell, results, tmp_path):
    import pandas as pd

    written = import_results(results(), cell / "model", tmp_path / "out")
    collect(written, tmp_path / "measurements.csv", held_out=None)
    table = pd.read_csv(tmp_path / "measurements.csv").set_index("kind")
    assert set(table.index) == {"all", "gqa", "mme", "ai2d"}
    assert table.loc["all", "error"] == pytest.approx((0.375 + 0.375 + 0.5) / 3)
    assert set(table.cell) == {"3k_v4_block_linear_s7"}


def test_a_task_of_ones_own_is_said_on_the_command_line(cell, results, tmp_path, capsys):
    def rename(found):
        found["results"] = {"vqav2_val": {"alias": "vqav2_val", "exact_match,none": 62.5}}
        found["n-samples"] = {"vqav2_val": {"original": 50, "effective": 50}}

    path = results(rename, samples=())
    arguments = ["benchmark", "import", str(path), "--model", str(cell / "model"), "--out", str(tmp_path / "out")]
    assert main(arguments) == 2
    assert "'vqav2_val' of lmms-eval is not in the table" in capsys.readouterr().err
    arguments += ["--task", "vqav2_val:reasoning:exact_match:100"]
    assert main(arguments) == 2
    assert "samples_vqav2_val.jsonl is missing" in capsys.readouterr().err
    assert main([*arguments, "--text-tokens", "9"]) == 0
    found = json.loads((tmp_path / "out" / "vqav2_val.json").read_text())
    assert found["scores"]["reasoning"]["vqav2_val"]["error"] == 0.375
    assert found["n_text_tokens"] == 9
    assert main([*arguments[:-1], "vqav2_val:ocr:exact_match:100"]) == 2
    assert "expected reasoning or reading as SUITE" in capsys.readouterr().err


def set_score(task, name, value):
    return lambda found: found["results"][task].update({name: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_score("mme", "mme_cognition_score,none", None), "mme: mme_cognition_score is missing, not a number"),
        (
            set_score("mme", "mme_cognition_score,none", 801),
            "mme_cognition_score is 801.0; expected a number between 0",
        ),
        (set_score("gqa", "exact_match,none", float("nan")), "gqa: exact_match is missing, not a number"),
        (lambda found: found["results"]["gqa"].pop("exact_match,none"), "gqa: exact_match is missing"),
        (lambda found: found["n-samples"]["gqa"].update(effective=8), "8 of 200 questions were asked"),
        (lambda found: found.pop("n-samples"), "is no result of lmms-eval"),
        (lambda found: found.update(results={}), "holds no task's scores"),
        (lambda found: found["results"].update(other={}), "'other' of lmms-eval is not in the table"),
    ],
)
def test_a_score_that_is_missing_is_an_error(cell, results, tmp_path, change, message):
    with pytest.raises(UserError, match=re.escape(message)):
        import_results(results(change), cell / "model", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_limited_run_and_a_group_are_taken_when_said(cell, results, tmp_path):
    def limit(found):
        found["n-samples"]["gqa"].update(effective=8)
        found["results"]["everything"] = {"alias": "everything"}
        found["group_subtasks"]["everything"] = ["gqa", "mme"]

    written = import_results(results(limit), cell / "model", tmp_path / "out", partial=True)
    assert json.loads(written[0].read_text())["scores"]["reasoning"]["gqa"]["n_questions"] == 8


def test_lmms_eval_that_is_not_there_is_an_error(cell, tmp_path, monkeypatch):
    monkeypatch.setenv(PYTHON, "/bin/false")
    with pytest.raises(UserError, match=r"status 1 and 0 result files on gqa.*envs/lmms-eval.yaml"):
        run_lmms_eval(cell / "model", tmp_path / "gqa.json", name="gqa", dtype="float32", batch_size=1)


# The table.


def test_every_error_is_within_0_and_1():
    for name, benchmark in BENCHMARKS.items():
        whole = dict(benchmark.parts)
        assert benchmark.error(whole) == 0, name
        assert benchmark.error(dict.fromkeys(whole, 0.0)) == 1, name
        assert benchmark.metric is None or benchmark.metric in METRICS, name
        assert benchmark_of_task(benchmark.task) == name
    assert BENCHMARKS["mme"].formula == "1 - (`mme_perception_score` + `mme_cognition_score`) / 2800"
    assert [name for name, b in BENCHMARKS.items() if b.suite == "reading"] == ["textvqa", "docvqa"]
    assert len(BENCHMARKS) == 11


def test_the_docs_have_the_table_of_the_code(capsys):
    docs = (Path(__file__).parents[3] / "docs" / "benchmarks.md").read_text()
    assert "\n".join(table_lines()) in docs, "print it by `vlmlaw benchmark table`"
    assert main(["benchmark", "table"]) == 0
    assert capsys.readouterr().out.splitlines() == list(table_lines())


# lmms-eval itself.

installed = pytest.mark.skipif(not os.environ.get(PYTHON), reason=f"{PYTHON} names no interpreter with lmms-eval")

TASK = """
dataset_path: json
dataset_kwargs:
  data_files: {folder}/data.jsonl
task: vlmlaw_local
test_split: train
output_type: generate_until
doc_to_visual: !function utils.visual
doc_to_text: !function utils.text
doc_to_target: answer
generation_kwargs: {{max_new_tokens: 3, temperature: 0, do_sample: false}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true, ignore_case: true, ignore_punctuation: true}}
"""
UTILS = """
from pathlib import Path
from PIL import Image

def visual(doc):
    return [Image.open(Path(__file__).parent / doc["image"]).convert("RGB")]

def text(doc, lmms_eval_specific_kwargs=None):
    return doc["question"]
"""


@pytest.fixture
def local_task(small, tmp_path):
    """A folder with a task of lmms-eval that reads the miniature's test questions from this machine."""
    folder = tmp_path / "task"
    folder.mkdir()
    rows, data = [], Dataset(small.data["test"])
    for record in data.records:
        Image.fromarray(data.image(data.image_row(record))).save(folder / f"{record.id}.png")
        for number, (question, answer) in enumerate(zip(record.questions, record.answers, strict=True)):
            said = "\n".join(part for part in (record.context, question) if part)
            rows.append(
                {"id": f"{record.id}-{number}", "image": f"{record.id}.png", "question": said, "answer": answer}
            )
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "task.yaml").write_text(TASK.format(folder=folder))
    (folder / "utils.py").write_text(UTILS)
    return folder


@installed
def test_lmms_eval_says_the_same_as_the_own_evaluator(cell, local_task, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    own = Benchmark("local", "reading", "", "", "exact_match", "vlmlaw_local", {"exact_match": 1.0}, reports_se=True)
    monkeypatch.setitem(run.BENCHMARKS, "local", own)
    out = tmp_path / "benchmarks" / "local.json"
    run_lmms_eval(cell / "model", out, name="local", dtype="float32", batch_size=5, tasks=local_task)
    settings = BenchmarkSettings(name="local", suite="reading", metric="exact_match", instruction="", max_new_tokens=3)
    evaluate_benchmark(cell / "model", local_task / "data.jsonl", local_task, tmp_path / "own.json", settings=settings)
    found, expected = (json.loads(path.read_text()) for path in (out, tmp_path / "own.json"))
    assert found["scores"]["reading"]["local"]["error"] == expected["scores"]["reading"]["local"]["error"]
    assert found["scores"]["reading"]["local"]["n_questions"] == 32
    assert found["n_text_tokens"] == expected["n_text_tokens"]
    shutil.rmtree(tmp_path / "hub", ignore_errors=True)
