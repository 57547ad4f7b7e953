"""Files of questions: what is read, and everything that is refused before a model is asked."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from vlmlaw.data.shards import ShardWriter
from vlmlaw.errors import UserError
from vlmlaw.evaluation.metrics import METRICS, Question
from vlmlaw.evaluation.questions import image_reader, read_questions

ROWS = [
    {"id": 1, "image": "a.png", "question": "Is it red?", "answer": "yes", "kind": "color"},
    {"id": "2", "question": "Is water dry?", "answers": ["no"]},
]
METRIC = METRICS["exact_match"]


def write(folder, rows, name="questions.json"):
    path = folder / name
    path.write_text("\n".join(map(json.dumps, rows)) if name.endswith("l") else json.dumps(rows))
    return path


@pytest.mark.parametrize("name", ["questions.json", "questions.jsonl"])
def test_questions_are_read(tmp_path, name):
    assert read_questions(write(tmp_path, ROWS, name), metric=METRIC) == [
        Question("1", "Is it red?", ("yes",), image="a.png", kind="color"),
        Question("2", "Is water dry?", ("no",)),
    ]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "holds no question"),
        ({"a": 1}, "holds a dict; expected a list"),
        (["text"], "question 1 of .*found text; expected `id`, `question`"),
        ([{"id": 1, "question": "x"}], "and `answer` or `answers`"),
        ([{"id": 1, "question": "x", "answer": "y", "answers": ["y"]}], "`answer` or `answers`"),
        ([ROWS[0], ROWS[0]], "two questions of .* have the id '1'"),
        ([ROWS[0] | {"choices": ["a"]}], "unknown key 'choices'; the keys are answer, answers, id"),
        ([ROWS[0] | {"answer": " "}], "it has no answer"),
        ([{"id": 1, "question": "x", "answers": "yes"}], "must be lists"),
        (
            [{"id": 1, "question": "x", "answers": [["a"], {"text": "b"}]}],
            "`answers` holds .*expected text or a number",
        ),
        ([{"id": 1, "question": "x", "answers": [{"answer": None}]}], "`answers` holds 'None'; expected text"),
        ([{"id": 1, "question": "x", "answer": True}], "`answers` holds 'True'; expected text"),
        ([{"id": {"a": 1}, "question": "x", "answer": "y"}], "`id` holds"),
        ([{"id": 1, "question": ["x"], "answer": "y"}], "question 1 of .*: `question` holds"),
        ([{"id": 1, "question": "x", "answer": "y", "image": {"bytes": 1}}], "`image` holds"),
        ([{"id": 1, "question": "x", "answer": "y", "options": [{"A": "y"}]}], "`options` holds"),
        ([{"id": 1, "question": "\ud800", "answer": "y"}], "half of a character"),
    ],
)
def test_what_is_no_question_is_refused(tmp_path, rows, message):
    with pytest.raises(UserError, match=message):
        read_questions(write(tmp_path, rows), metric=METRIC)


def test_a_question_that_the_metric_cannot_judge_is_named(tmp_path):
    with pytest.raises(UserError, match=r"question '1' of .*: found 1 answers; VQA accuracy.*use exact_match\."):
        read_questions(write(tmp_path, ROWS), metric=METRICS["vqa"])


def test_a_file_that_is_missing_or_cut_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*none\.json"):
        read_questions(tmp_path / "none.json", metric=METRIC)
    (tmp_path / "cut.json").write_text('[{"id": 1')
    with pytest.raises(UserError, match=re.escape("cut.json")):
        read_questions(tmp_path / "cut.json", metric=METRIC)


def test_images_of_a_folder_and_of_shards_are_the_same(tmp_path):
    pixels = np.random.default_rng(0).integers(256, size=(5, 7, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    with ShardWriter(tmp_path / "shards") as writer:
        writer.add_image("a.png", pixels)
    questions = [Question("1", "?", ("yes",), image="a.png"), Question("2", "?", ("no",))]
    for folder in (tmp_path, tmp_path / "shards"):
        read = image_reader(folder, questions, source=tmp_path / "q.json")
        assert np.array_equal(read("a.png"), pixels)


def test_a_missing_or_broken_image_is_named(tmp_path):
    questions = [Question("1", "?", ("yes",)), Question("7", "?", ("yes",), image="b.png")]
    with pytest.raises(UserError, match=r"question '7' of q.json names the image 'b.png'.*1 of 2 questions"):
        image_reader(tmp_path, questions, source="q.json")
    with ShardWriter(tmp_path / "shards"):
        pass
    with pytest.raises(UserError, match=r"question '7'.*'b.png'"):
        image_reader(tmp_path / "shards", questions, source="q.json")
    (tmp_path / "b.png").write_bytes(b"no picture")
    read = image_reader(tmp_path, questions, source="q.json")
    with pytest.raises(UserError, match=r"the image .*b.png cannot be decoded"):
        read("b.png")


def test_annotators_answers_are_read_as_vqa_publishes_them(tmp_path):
    """v2_mscoco_val2014_annotations.json has ten of these a question."""
    given = [{"answer": "net", "answer_confidence": "maybe", "answer_id": n} for n in range(1, 9)]
    given += [{"answer": "racket", "answer_confidence": "yes", "answer_id": n} for n in (9, 10)]
    path = write(tmp_path, [{"id": 1, "question": "What is it?", "answers": given}])
    (question,) = read_questions(path, metric=METRICS["vqa"])
    assert question.answers == ("net",) * 8 + ("racket",) * 2
    assert METRICS["vqa"].judge("Net.", question).lost == 0
    assert METRICS["vqa"].judge("racket", question).lost == pytest.approx(1 - (2 * (1 / 3) + 8 * (2 / 3)) / 10)
