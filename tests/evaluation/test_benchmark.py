"""A cell on a benchmark: error and replies, the same at any batch size; and benchmarks in an experiment."""

import copy
import json
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

from vlmlaw.cli.main import main
from vlmlaw.data.shards import Dataset
from vlmlaw.errors import UserError
from vlmlaw.evaluation.benchmark import evaluate_benchmark, score_of
from vlmlaw.evaluation.metrics import METRICS, Question, Verdict
from vlmlaw.evaluation.questions import said_by_user
from vlmlaw.evaluation.scores import Score
from vlmlaw.evaluation.settings import BenchmarkSettings
from vlmlaw.experiment.experiment import Experiment
from vlmlaw.settings import to_json
from vlmlaw.training.encoder import normalise
from vlmlaw.vlm.images import pixel_values

SETTINGS = BenchmarkSettings(
    name="mini", suite="reasoning", metric="exact_match", instruction="", max_new_tokens=2, batch_size=3
)


@pytest.fixture(scope="module")
def benchmark(small, tmp_path_factory):
    """The miniature's test questions as a file, their images in its shards."""
    rows = []
    for record in Dataset(small.data["test"]).records:
        for number, (question, answer) in enumerate(zip(record.questions, record.answers, strict=True)):
            said = "\n".join(part for part in (record.context, question) if part)
            rows.append({"id": f"{record.id}-{number}", "image": record.image, "question": said, "answer": answer})
    rows.append({"id": "text", "question": "owner", "answer": "ada"})
    path = tmp_path_factory.mktemp("benchmark") / "mini.json"
    path.write_text(json.dumps(rows))
    return SimpleNamespace(questions=path, images=small.data["test"], n=len(rows))


def test_a_benchmark_ends_in_one_file_with_its_replies_beside(cell, benchmark, tmp_path):
    outs = [tmp_path / f"{size}.json" for size in (1, 3, 64)]
    for out, size in zip(outs, (1, 3, 64), strict=True):
        settings = replace(SETTINGS, batch_size=size)
        evaluate_benchmark(cell / "model", benchmark.questions, benchmark.images, out, settings=settings)
    assert len({out.read_bytes() for out in outs}) == len({out.with_suffix(".jsonl").read_bytes() for out in outs}) == 1
    result = json.loads(outs[0].read_text())
    lines = [json.loads(line) for line in outs[0].with_suffix(".jsonl").read_text().splitlines()]
    assert len(lines) == benchmark.n
    assert len({line["said"] for line in lines}) > 3  # else the test says little
    assert all(line["lost"] == float(line["said"].lower() not in line["answers"]) for line in lines)
    found = result["scores"]["reasoning"]["mini"]
    assert found["error"] == pytest.approx(np.mean([line["lost"] for line in lines]))
    assert found["n_questions"] == benchmark.n
    named = {"size": "3k", "n_visual_tokens": 4, "compressor": "block_linear", "seed": 7}
    assert result["cell"] == named | {"compressor_options": {}}
    assert set(result) == {
        "scores",
        "cell",
        "training",
        "parameters",
        "n_text_tokens",
        "question_tokens",
        "visual_tokens",
        "flops",
        "train_seconds",
        "train_cpu_seconds",
    }


def test_the_command_line_gives_the_same(cell, benchmark, tmp_path):
    evaluate_benchmark(cell / "model", benchmark.questions, benchmark.images, tmp_path / "a.json", settings=SETTINGS)
    arguments = ["--questions", benchmark.questions, "--images", benchmark.images, "--model", cell / "model"]
    arguments += ["--settings", to_json(SETTINGS), "--batch-size", "5", "--out", tmp_path / "b.json"]
    assert main(["benchmark", "run", *map(str, arguments)]) == 0
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_what_cannot_be_asked_is_refused_before_the_model_is_loaded(benchmark, tmp_path):
    nowhere = tmp_path / "no-model"
    settings = replace(SETTINGS, metric="yes_no_f1")
    with pytest.raises(UserError, match="expected one, yes or no"):
        evaluate_benchmark(nowhere, benchmark.questions, benchmark.images, tmp_path / "o.json", settings=settings)
    (tmp_path / "q.json").write_text(json.dumps([{"id": 1, "question": "x", "answer": "No."}]))
    with pytest.raises(UserError, match="no question whose answer is yes, so F1 is not defined"):
        evaluate_benchmark(nowhere, tmp_path / "q.json", tmp_path, tmp_path / "o.json", settings=settings)
    assert not (tmp_path / "o.json").exists()


def test_a_model_that_is_no_cell_is_refused(cell, benchmark, tmp_path):
    import shutil

    shutil.copytree(cell / "model", tmp_path / "model")
    with pytest.raises(UserError, match=r"training.json does not say which cell"):
        evaluate_benchmark(
            tmp_path / "model", benchmark.questions, benchmark.images, tmp_path / "o.json", settings=SETTINGS
        )


def test_the_user_says_question_options_and_instruction():
    asked = Question("1", "What is it?", ("B",), options=("a dog", "a cat"))
    said = said_by_user(asked, METRICS["multiple_choice"].instruction)
    assert said == ("What is it?\nA. a dog\nB. a cat\nAnswer with the option's letter from the given choices directly.")
    assert said_by_user(Question("1", "Why?", ("x",)), "") == "Why?"


def test_questions_on_one_image_are_one_cluster():
    asked = [Question(str(i), "?", ("x",), image=image) for i, image in enumerate(["a", "a", "b", None, None])]
    found = score_of([Verdict(1.0), Verdict(1.0), Verdict(0.0), Verdict(0.0), Verdict(1.0)], asked)
    # Residuals .4 .4 -.6 -.6 .4; clusters .8, -.6, -.6, .4; G/(G-1) = 4/3.
    assert found == Score(0.6, pytest.approx(np.sqrt(4 / 3 * (0.64 + 0.36 + 0.36 + 0.16)) / 5), 5)


def test_the_share_of_replies_that_were_not_read_stands_beside_the_score():
    asked = [Question(str(i), "?", ("yes",)) for i in range(4)]
    judge = METRICS["yes_no"].judge
    found = score_of([judge(said, q) for said, q in zip(["yes", "no", "perhaps", ""], asked, strict=True)], asked)
    assert (found.error, found.unread) == (0.75, 0.5)


def test_pictures_become_what_the_tower_was_trained_on(small):
    images = list(Dataset(small.data["test"]).images(range(2)))
    assert torch.equal(pixel_values(images, looks(96, mean=[0.3] * 3, std=[0.25] * 3)), normalise(np.stack(images)))


def looks(image_px, *, mean, std, fit="pad"):
    """What a cell's config says of images."""
    tower = SimpleNamespace(image_size=image_px)
    return SimpleNamespace(vision_config=tower, image_fit=fit, pad_color=[0, 0, 0], image_mean=mean, image_std=std)


def test_pictures_for_clip_are_those_of_its_own_processor():
    from transformers import CLIPImageProcessorPil

    rng = np.random.default_rng(0)
    pixels = rng.integers(256, size=(40, 40, 3), dtype=np.uint8)
    processor = CLIPImageProcessorPil(size={"height": 28, "width": 28}, do_center_crop=False)
    expected = processor(pixels, return_tensors="pt")["pixel_values"]
    config = looks(28, mean=processor.image_mean, std=processor.image_std, fit="stretch")
    assert torch.allclose(pixel_values([pixels], config), expected, atol=1e-5)


# Benchmarks in an experiment.

TINY = yaml.safe_load((Path(__file__).parents[2] / "workflow/experiments/tiny.yaml").read_text())


def with_benchmarks(*sections, **evaluation):
    mapping = copy.deepcopy(TINY)
    mapping["evaluation"] = {"benchmarks": list(sections)} | evaluation
    return Experiment.from_mapping(mapping)


def test_the_tables_say_what_the_file_leaves_out():
    found = with_benchmarks(
        {"name": "pope", "questions": "pope.json"},
        {"name": "own", "questions": "q.json", "suite": "reading", "metric": "anls", "max_new_tokens": 5},
        {"name": "mme", "by": "lmms-eval"},
        batch_size=7,
    ).benchmarks
    assert list(found) == ["pope", "own", "mme"]
    assert asdict(found["pope"]) == {
        "name": "pope",
        "suite": "reasoning",
        "metric": "pope",
        "instruction": METRICS["pope"].instruction,
        "max_new_tokens": 16,
        "dtype": "float32",
        "batch_size": 7,
    }
    assert (found["own"].suite, found["own"].metric, found["own"].max_new_tokens) == ("reading", "anls", 5)
    assert (found["mme"].suite, found["mme"].metric) == ("reasoning", "")


def test_benchmarks_change_nothing_else():
    """What the test split's evaluation depends on is the same with them, and theirs at any batch size."""
    plain, more = with_benchmarks(), with_benchmarks({"name": "pope", "questions": "pope.json"})
    assert to_json(plain.evaluation) == to_json(more.evaluation)
    other = with_benchmarks({"name": "pope", "questions": "pope.json"}, batch_size=3)
    assert to_json(more.benchmarks["pope"]) == to_json(other.benchmarks["pope"])


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"name": "all", "questions": "q"}, "found the name 'all'"),
        ({"name": "A B", "questions": "q"}, "found the name 'A B'"),
        ({"name": "own", "questions": "q", "metric": "anls"}, "own is no known benchmark .mme, "),
        ({"name": "own", "questions": "q", "suite": "speaking"}, "found the suite 'speaking' of own"),
        ({"name": "own", "questions": "q", "suite": "reading"}, "own has no metric of the project's own; name one"),
        ({"name": "mme", "questions": "q"}, "mme has no metric of the project's own; take `by: lmms-eval`"),
        ({"name": "gqa", "questions": "q", "metric": "bleu"}, "no metric is called 'bleu'"),
        ({"name": "gqa"}, "gqa has no `questions`"),
        ({"name": "own", "by": "lmms-eval", "suite": "reading"}, "lmms-eval's error of own is not known"),
        ({"name": "gqa", "by": "lmms-eval", "questions": "q"}, "brings its own questions"),
        ({"name": "gqa", "by": "me"}, "expected one of vlmlaw, lmms-eval"),
    ],
)
def test_a_benchmark_that_cannot_be_run_is_refused(section, message):
    with pytest.raises(UserError, match=message):
        with_benchmarks(section)


def test_a_benchmark_is_named_once():
    with pytest.raises(UserError, match=r"benchmarks\[1\]: found the name 'gqa'"):
        with_benchmarks({"name": "gqa", "questions": "a"}, {"name": "gqa", "questions": "b"})
