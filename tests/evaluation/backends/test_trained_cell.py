"""A trained cell behind the interface answers as the evaluator of benchmarks does, and counts what it reads."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from vlmlaw.cli.main import main
from vlmlaw.errors import UserError
from vlmlaw.evaluation.backends.trained_cell import TrainedCell
from vlmlaw.evaluation.benchmark import evaluate_benchmark
from vlmlaw.evaluation.settings import BenchmarkSettings


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder, rng, rows = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0), []
    for i in range(12):
        Image.fromarray(rng.integers(0, 255, (48, 48, 3), dtype=np.uint8)).save(folder / f"{i}.png")
        asked = [("shape red", "circle"), ("owner", "ada")]
        rows += [{"id": f"{i}-{j}", "image": f"{i}.png", "question": q, "answer": a} for j, (q, a) in enumerate(asked)]
    (folder / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_its_replies_are_the_evaluators(cell, pictures, tmp_path):
    given = [pictures / "q.jsonl", "--cell", cell, "--metric", "exact_match", "--instruction", ""]
    given += ["--max-new-tokens", "2", "--visual-tokens", "0", "max", "--out", tmp_path / "out"]
    assert main(["measure", *map(str, given)]) == 0
    settings = BenchmarkSettings(
        name="q", suite="reasoning", metric="exact_match", instruction="", max_new_tokens=2, batch_size=5
    )
    evaluate_benchmark(cell / "model", pictures / "q.jsonl", pictures, tmp_path / "q.json", settings=settings)
    lines = [json.loads(line) for line in (tmp_path / "q.jsonl").read_text().splitlines()]
    judged = pd.read_csv(tmp_path / "out" / "questions.csv", keep_default_na=False).query("budget == 'max'")
    assert dict(zip(judged.question, judged.said, strict=True)) == {line["id"]: line["said"] for line in lines}
    assert len({line["said"] for line in lines}) > 2  # else the test says little
    assert set(judged.n_visual_tokens) == {4.0}
    table = pd.read_csv(tmp_path / "out" / "cells.csv", keep_default_na=False)
    assert table.n_text_tokens.nunique() == 1 and list(table.n_visual_tokens) == [0, 4]
    error = json.loads((tmp_path / "q.json").read_text())["scores"]["reasoning"]["q"]["error"]
    assert table[table.budget == "max"].error.item() == pytest.approx(error)


def test_what_it_cannot_make_is_said(cell, tmp_path):
    with pytest.raises(UserError, match=r"cannot be asked at V = 9; it can at 0, 4, max"):
        TrainedCell(cell).check([0, 9])
    with pytest.raises(UserError, match="holds no cell"):
        TrainedCell(tmp_path)
