"""Mutated records and files of questions: each is used, left out with a reason, or refused in one message."""

import copy
import json
import random

import numpy as np
import pytest
from PIL import Image
from pyarrow import Table, parquet

from vlmlaw.data.llava import SKIPPED, prepare_split, read_rows
from vlmlaw.data.settings import LlavaFile, SplitSettings
from vlmlaw.data.shards import Dataset
from vlmlaw.errors import UserError
from vlmlaw.evaluation.benchmark import said_by_user
from vlmlaw.evaluation.metrics import METRICS
from vlmlaw.evaluation.questions import image_reader, read_questions
from vlmlaw.tokens.token_table import tokenize

N_RECORDS, N_QUESTION_FILES, PER_FILE = 1000, 500, 50
ODD = [
    None,
    True,
    0,
    -1,
    2**70,
    1.5,
    float("nan"),
    "",
    " ",
    "a.png",
    "c.png",
    "none.png",
    "../a.png",
    "/a.png",
    "\0",
    "x" * 5000,
]
ODD += [
    "\ud800",
    "ab\udc00c",
    "<image>",
    "<image><image>",
    "Is <image> it?",
    "<end>",
    "\ufdd0",
    "{{ 7 }}",
    "é漢😺",
    "\u2028",
    "yes",
    "A",
    "1",
]
ODD += [
    [],
    {},
    [[]],
    ["a.png"],
    ["a.png", "b.png"],
    [None],
    [{}],
    {"a": 1},
    {"from": "gpt", "value": "x"},
    {"answer": "x"},
    {"bytes": "x"},
]
KEYS = ["id", "image", "images", "conversations", "context", "suite", "kinds", "from", "value", "model", "odd"]
KEYS += ["question", "answer", "answers", "options", "kind"]


def turns(*said):
    return [{"from": ("human", "gpt")[i % 2], "value": value} for i, value in enumerate(said)]


RECORDS = [
    {"id": "one", "image": "a.png", "conversations": turns("<image>\nshape red", "disc", "pet", "seven")},
    {"id": 2, "image": ["a.png", "b.png"], "conversations": turns("<image> count <image>", "two")},
    {"id": "text", "conversations": turns("letter b2", "Q"), "kinds": ["look-up"], "context": "one green"},
]
QUESTIONS = [
    {"id": 1, "image": "a.png", "question": "Is it red?", "answer": "yes", "kind": "color"},
    {"id": "2", "question": "Which?", "options": ["1", "2", "dog"], "answer": "C"},
    {"id": "3", "image": ["a.png", "b.png"], "question": "Is <image> like <image>?", "answers": ["no"] * 10},
    {"id": "4", "question": "What?", "answers": [{"answer": "net", "answer_id": n} for n in range(10)]},
]


def places(value, at=()):
    """Every place within a value of JSON, its own first."""
    yield at
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield from places(item, (*at, key))


def mutated(value, rng):
    """The value changed in one to three places: another value, another key, one more, one less, a letter exchanged."""
    value = copy.deepcopy(value)
    for _ in range(rng.randint(1, 3)):
        *way, last = rng.choice(list(places(value))[1:] or [(None,)])
        if last is None:
            return rng.choice(ODD)
        inside = value
        for key in way:
            inside = inside[key]
        change = rng.choice(["replace", "replace", "replace", "remove", "add", "rename", "twice", "spoil"])
        if change == "remove":
            del inside[last]
        elif change == "add" and isinstance(inside, dict):
            inside[rng.choice(KEYS)] = copy.deepcopy(rng.choice(ODD))
        elif change == "rename" and isinstance(inside, dict):
            inside[rng.choice(KEYS)] = inside.pop(last)
        elif change == "twice" and isinstance(inside, list):
            inside.append(copy.deepcopy(inside[last]))
        elif change == "spoil" and isinstance(inside[last], str) and inside[last]:
            place = rng.randrange(len(inside[last]))
            inside[last] = inside[last][:place] + rng.choice("\0\ud800<>\n😺") + inside[last][place + 1 :]
        else:
            inside[last] = copy.deepcopy(rng.choice(ODD))
    return value


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder with two images and a damaged one."""
    folder = tmp_path_factory.mktemp("images")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "a.png")
    Image.fromarray(np.zeros((4, 8), np.uint8)).save(folder / "b.png")
    (folder / "c.png").write_bytes((folder / "a.png").read_bytes()[:40])
    return folder


def test_a_thousand_mutated_records_end_in_nothing_but_a_skip_or_an_error_that_says_why(images, words, tmp_path):
    rng = random.Random(0)
    records = [mutated(rng.choice(RECORDS), rng) for _ in range(N_RECORDS)]
    n_kept = n_skipped = n_refused = 0
    for start in range(0, N_RECORDS, PER_FILE):
        path = tmp_path / f"records{start}.json"
        path.write_text(json.dumps(records[start : start + PER_FILE]))
        more = tmp_path / "more.jsonl"  # a second file of the split
        more.write_text(json.dumps(RECORDS[2]))
        files = {name: LlavaFile(conversations=str(one), images=str(images)) for name, one in (("", path), ("2", more))}
        for one_question_each in (False, True):
            settings = SplitSettings(
                files=files, image_px=8, fit="pad", pad_color=(0, 0, 0), one_question_each=one_question_each
            )
            out = tmp_path / f"out{start}{one_question_each}"
            with pytest.raises(UserError, match=f"record .* of {path}"):
                prepare_split(out, settings=settings)
            prepare_split(out, settings=SplitSettings(**{**vars(settings), "skip_at_most": 1.0}))
            told = json.loads((out / SKIPPED).read_text())
            assert told["records"] == PER_FILE + 1
            assert all(one["reason"].strip() for one in told["skipped"])
            assert len(told["skipped"]) + len(Dataset(out).records) >= PER_FILE + 1
            try:
                table = tokenize(Dataset(out), words, independent=one_question_each)
                assert table.n_images.sum() == sum(len(record.images) for record in Dataset(out).records)
            except UserError as error:
                assert str(error).startswith("record ")
                n_refused += 1
        n_kept, n_skipped = n_kept + told["kept"], n_skipped + len(told["skipped"])
    assert n_skipped > 300 and n_kept > 100 and n_refused < 10, (n_kept, n_skipped, n_refused)


def test_each_mutated_record_alone_is_named_with_its_file(images, tmp_path):
    rng, refused = random.Random(1), 0
    path = tmp_path / "r.json"
    for number in range(100):
        path.write_text(json.dumps([mutated(rng.choice(RECORDS), rng)]))
        file = LlavaFile(conversations=str(path), images=str(images))
        settings = SplitSettings(files={"": file}, image_px=8, fit="pad", pad_color=(0, 0, 0))
        try:
            prepare_split(tmp_path / f"out{number}", settings=settings)
        except UserError as error:
            assert str(path) in str(error) and str(error).isprintable(), str(error)
            refused += 1
    assert refused > 30


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".parquet"])
def test_a_damaged_file_of_records_is_read_or_named(images, tmp_path, suffix):
    """Bytes lost, exchanged or cut off, in each format; what can be read is read as records."""
    path, rng, n_refused = tmp_path / f"r{suffix}", random.Random(3), 0
    rows = [RECORDS[0] | {"id": str(number)} for number in range(5)]
    if suffix == ".parquet":
        parquet.write_table(Table.from_pylist(rows), path)
    else:
        path.write_text(json.dumps(rows) if suffix == ".json" else "\n".join(map(json.dumps, rows)))
    whole = path.read_bytes()
    assert read_rows(path) == rows
    for number in range(60):
        content, place = bytearray(whole), rng.randrange(len(whole))
        change = rng.choice(["cut", "lose", "exchange"])
        content[place : None if change == "cut" else place + 1] = bytes([rng.randrange(256)] * (change == "exchange"))
        path.write_bytes(bytes(content))
        file = LlavaFile(conversations=str(path), images=str(images), records=5)
        settings = SplitSettings(files={"": file}, image_px=8, fit="pad", pad_color=(0, 0, 0))
        try:
            prepare_split(tmp_path / f"out{number}", settings=settings)
        except UserError as error:
            assert str(path) in str(error), str(error)
            n_refused += 1
    assert n_refused > 20


def test_five_hundred_mutated_files_of_questions_are_read_or_refused(images, tmp_path):
    rng, n_read = random.Random(2), 0
    for number in range(N_QUESTION_FILES):
        rows = [mutated(row, rng) if rng.random() < 0.3 else row for row in QUESTIONS]
        rows = mutated(rows, rng) if rng.random() < 0.1 else rows
        text = json.dumps(rows)
        if rng.random() < 0.1:
            text = text[: rng.randrange(len(text))]
        path = tmp_path / f"q{number % 7}{rng.choice(['.json', '.jsonl'])}"
        path.write_text(
            "\n".join(map(json.dumps, rows)) if path.suffix == ".jsonl" and isinstance(rows, list) else text
        )
        metric = METRICS[rng.choice(list(METRICS))]
        try:
            questions = read_questions(path, metric=metric)
            read = image_reader(images, questions, source=path)
            n_read += 1
            for question in questions:
                said_by_user(question, metric.instruction).encode()
                verdict = metric.judge(rng.choice(["yes", "A", "", "1 or 2", "\0", "dog"]), question)
                assert 0 <= verdict.lost <= 1
                for name in question.images:
                    read(name)
        except UserError as error:
            assert str(path) in str(error) or str(images) in str(error), str(error)
    assert n_read > 30
