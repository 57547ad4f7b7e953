"""`make demo-measure`: it says what is missing where no study is there, and its questions are the test split's."""

import importlib.util
import json

import numpy as np
import pytest
import torch
from PIL import Image

from vlmlaw.data.shards import Dataset
from vlmlaw.errors import UserError
from vlmlaw.experiment.experiment import read_experiment

from .project import ROOT


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("demo_measure", ROOT / "workflow" / "demo_measure.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_without_a_study_it_says_what_to_do(script):
    with pytest.raises(UserError, match=r"miniature is not finished: (\d+) of \1 trainings .* Run `make report` first"):
        script.trained_cells(read_experiment(str(ROOT / "params.yaml")))
    with pytest.raises(UserError, match=r"drawn data is a cache. `snakemake data"):
        script.write_questions(ROOT / "no-such-split", ROOT)


def test_questions_and_images_are_those_of_the_split(script, small, tmp_path):
    data = Dataset(small.data["train"])
    rows = [json.loads(line) for line in script.write_questions(data.folder, tmp_path).read_text().splitlines()]
    assert len(rows) == min(script.N_QUESTIONS, len(data.records))
    by_id = {record.id: record for record in data.records}
    for row in rows:
        record = by_id[row["id"]]
        own = [record.context + "\n" * bool(record.context) + question for question in record.questions]
        assert (row["question"], row["answer"]) in zip(own, record.answers, strict=True) and row["kind"] == record.suite
        pixels = np.asarray(Image.open(tmp_path / "images" / row["image"]))
        assert (pixels == data.image(data.image_row(record))).all()


def test_cells_are_asked_with_the_threads_of_their_trainings(script, tmp_path, monkeypatch):
    used, asked = torch.get_num_threads(), []
    monkeypatch.setattr(script, "trained_cells", lambda experiment: [tmp_path / "cell"])
    monkeypatch.setattr(script, "write_questions", lambda split, out: tmp_path / "questions.jsonl")
    monkeypatch.setattr(script, "main", lambda command: asked.append((command, torch.get_num_threads())) or 0)
    wanted = tmp_path / "three.yaml"
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    wanted.write_text(text.replace("threads: 1}", "threads: 3}"), encoding="utf-8")
    try:
        assert script.demo(str(wanted)) == 0
    finally:
        torch.set_num_threads(used)
    ((command, n_threads),) = asked
    assert n_threads == 3 and command[:2] == ["measure", str(tmp_path / "questions.jsonl")]
    at = command.index("--visual-tokens")
    assert command[at + 1 : command.index("--out")] == ["0", "1", "4", "16", "36", "max"]
