"""`vlmlaw measure` against a server on loopback: tables, resumption, and what it refuses."""

import csv
import json
import re
import threading
import time
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from tests.evaluation.backends.server import Server, difficulty

from vlmlaw.cli.main import main
from vlmlaw.laws.linter.lint import lint
from vlmlaw.laws.table import read_measurements

N_IMAGES = 20


def knows(model: str, text: str, v: int) -> str:
    """The right answer, yes, of more questions the larger model and V are."""
    n = 1 if "1B" in model else 4
    return "yes" if difficulty(text) < 1 / (1 + np.exp(1 - 0.5 * np.log(n) - 0.3 * np.log(max(v, 1)))) else "no"


@pytest.fixture
def server():
    made = Server(knows)
    yield made
    made.stop()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    rows = []
    for i in range(N_IMAGES):
        Image.new("RGB", (300 + 10 * i, 500), (i, 90, 90)).save(folder / f"{i}.png")
        rows += [
            {"id": f"{i}-{j}", "image": f"{i}.png", "question": f"Is it {7 * i + j}?", "answer": "yes"} for j in (0, 1)
        ]
    (folder / "pages.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def measure(pages, server, out, *more, models=("small-1B", "large-4B"), v=("0", "16", "64", "max")):
    named = [word for model in models for word in ("--model", model)]
    given = [pages / "pages.jsonl", "--endpoint", server.url, *named, "--family", "qwen2.5-vl", "--visual-tokens", *v]
    return main(["measure", *map(str, [*given, "--out", out, *more])])


def test_every_model_is_asked_everything_once_and_tables_say_it(pages, server, tmp_path, capsys):
    assert measure(pages, server, tmp_path, "--concurrency", "3") == 0
    assert len(server.asked) == server.n_requests and set(server.asked.values()) == {1}
    assert server.most_at_once == 3
    cells = pd.read_csv(tmp_path / "cells.csv", keep_default_na=False)
    assert len(cells) == 8 and (cells.n_questions == 2 * N_IMAGES).all()
    judged = pd.read_csv(tmp_path / "questions.csv")
    # Independently of the tables: what the server would say to each question at the V that it counted itself.
    v_of = {(model, text): [] for model, text, _ in server.asked}
    for model, text, v in server.asked:
        v_of[model, text].append(v)
    for cell in cells.itertuples():
        own = judged[judged.cell == cell.cell]
        assert cell.error == pytest.approx(own.lost.mean())
        assert cell.n_visual_tokens == pytest.approx(own.n_visual_tokens.mean())
    right = sum(knows(model, text, v) == "yes" for model, text, v in server.asked)
    assert right == (judged.lost == 0).sum()
    assert sorted(v for vs in v_of.values() for v in vs) == sorted(judged.n_visual_tokens.astype(int))
    shown = capsys.readouterr().out
    assert "small-1B" in shown and "40 questions" in shown


def test_measurements_are_read_by_the_laws(pages, server, tmp_path):
    assert measure(pages, server, tmp_path) == 0
    table = read_measurements(tmp_path / "measurements.csv")
    assert sorted(table.frame.N.unique()) == [1.0, 4.0] and len(table) == 6
    assert not [finding for finding in lint(table) if finding.severity == "error"]
    assert main(["law", "fit", str(tmp_path / "measurements.csv"), "--bootstrap-draws", "0", "--law", "logit"]) == 0


def test_a_second_run_asks_only_what_is_missing(pages, server, tmp_path):
    cut = 90
    server.fail = lambda number: "away" if number >= cut else None
    assert measure(pages, server, tmp_path, "--patience", "0.01") == 2
    first = server.n_requests
    kept = sum(len(path.read_text().splitlines()) for path in tmp_path.rglob("replies.jsonl"))
    assert kept == cut == sum(server.asked.values())
    server.fail = lambda number: None
    assert measure(pages, server, tmp_path) == 0
    assert server.n_requests - first == 8 * 2 * N_IMAGES - cut
    assert set(server.asked.values()) == {1}
    tables = [(tmp_path / name).read_bytes() for name in ("cells.csv", "questions.csv", "measurements.csv")]
    assert measure(pages, server, tmp_path) == 0  # asks nothing, and writes the same
    assert server.n_requests - first == 8 * 2 * N_IMAGES - cut
    assert tables == [(tmp_path / name).read_bytes() for name in ("cells.csv", "questions.csv", "measurements.csv")]


def test_a_server_that_dies_and_comes_back_loses_nothing(pages, server, tmp_path):
    def fail(number):
        if number == 60:
            server.stop()
            threading.Timer(1.0, server.start).start()
            return "away"
        return None

    server.fail = fail
    assert measure(pages, server, tmp_path, "--concurrency", "2", models=("small-1B",)) == 0
    assert len(server.asked) == 4 * 2 * N_IMAGES and set(server.asked.values()) <= {1, 2}
    lines = [json.loads(line) for path in tmp_path.rglob("replies.jsonl") for line in path.read_text().splitlines()]
    assert set(Counter(line["key"] for line in lines).values()) == {1} and len(lines) == 4 * 2 * N_IMAGES


def test_a_changed_question_is_asked_again_and_no_other(pages, server, tmp_path):
    assert measure(pages, server, tmp_path / "out", models=("small-1B",)) == 0
    rows = (pages / "pages.jsonl").read_text().splitlines()
    changed = tmp_path / "pages.jsonl"
    changed.write_text("\n".join([rows[0].replace("Is it", "Was it"), *rows[1:]]))
    before = server.n_requests
    given = ["--images", pages, "--endpoint", server.url, "--model", "small-1B", "--family", "qwen2.5-vl"]
    given += ["--visual-tokens", "0", "16", "64", "max", "--out", tmp_path / "out"]
    assert main(["measure", str(changed), *map(str, given)]) == 0
    assert server.n_requests - before == 4


def test_a_cell_that_lacks_a_reply_is_left_out_and_named(pages, server, tmp_path, capsys):
    whole = 2 * N_IMAGES
    server.fail = lambda number: 400 if number == 2 * whole + 5 else None  # in the third cell
    assert measure(pages, server, tmp_path, models=("small-1B",)) == 1
    assert "small-1B_v64 is left out: 1 of 40 questions have no reply" in " ".join(capsys.readouterr().out.split())
    assert set(pd.read_csv(tmp_path / "cells.csv", keep_default_na=False).budget) == {"0", "16", "max"}


def test_what_limits_trust_is_said(pages, server, tmp_path, capsys):
    server.most_tokens = 50
    assert measure(pages, server, tmp_path / "a", models=("small-1B",)) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "small-1B_vmax: the server read fewer tokens than were sent in 40 of 40 images" in shown
    server.usage = False
    assert measure(pages, server, tmp_path / "b", models=("small-1B",)) == 0
    assert "is the family's rule's, not counted" in " ".join(capsys.readouterr().out.split())
    few = tmp_path / "few.jsonl"
    few.write_text("\n".join((pages / "pages.jsonl").read_text().splitlines()[:6]))
    given = ["--images", pages, "--endpoint", server.url, "--model", "small-1B", "--visual-tokens", "max"]
    assert main(["measure", str(few), *map(str, given), "--out", str(tmp_path / "c")]) == 0
    assert "6 questions on 3 images are few" in capsys.readouterr().out


def test_images_with_a_table_of_two_columns(pages, server, tmp_path):
    with (pages / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["image", "answer"], *([f"{i}.png", "yes"] for i in range(N_IMAGES))])
    try:
        given = ["--question", "Is it?", "--endpoint", server.url, "--model", "small-1B", "--visual-tokens", "max"]
        assert main(["measure", str(pages), *given, "--out", str(tmp_path)]) == 0
        assert len(pd.read_csv(tmp_path / "questions.csv")) == 2 * N_IMAGES
    finally:
        (pages / "labels.csv").unlink()


def test_a_server_is_timed_under_each_load(pages, server, tmp_path, capsys):
    given = ["--concurrency", "1", "2", "6"]
    server.fail = lambda number: time.sleep(0.02)  # so that requests meet
    assert measure(pages, server, tmp_path, *given, models=("small-1B",), v=("max",)) == 0
    whole = 2 * 2 * N_IMAGES
    assert 2 < server.most_at_once <= 6
    assert server.n_requests == whole + 2 * (32 + 32 + 48)
    load = pd.read_csv(tmp_path / "load.csv")
    assert list(load.concurrency) == [1, 2, 6] * 2 and list(load.n_requests) == [32, 32, 48] * 2
    assert (load.total_ms >= 20).all() and (load.total_ms <= load.total_ms_p95).all()
    # A closed loop of n slots is never faster than n over the shortest reply.
    assert (load.requests_per_second <= 1000 * load.concurrency / 20).all()
    assert "requests/s" in capsys.readouterr().out and "Under load" in (tmp_path / "index.html").read_text()
    assert measure(pages, server, tmp_path, *given, models=("small-1B",), v=("max",)) == 0
    assert server.n_requests == whole + 2 * (32 + 32 + 48)  # nothing again


@pytest.mark.parametrize(("blind", "said"), [("no", "right in none without the image"), ("yes", "need none")])
def test_models_that_know_all_or_nothing_without_the_image_are_said_so(pages, server, tmp_path, capsys, blind, said):
    server.answer = lambda model, text, v: "yes" if v else blind
    assert measure(pages, server, tmp_path, models=("small-1B",), v=("max",)) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert said in shown and ",  is" not in shown and "nan" not in shown


WRONG = {
    "several at a time": (["--cell", "x", "--concurrency", "1", "4"], "one question at a time; only a server"),
    "no server": (["--model", "small-1B"], "has no server; give --endpoint"),
    "no folder of images": (["--endpoint", "URL", "--model", "small-1B", "--images", "q.jsonl"], "is no folder"),
    "a file to write to": (
        ["--endpoint", "URL", "--model", "small-1B", "--out", __file__],
        "is a file; expected a",
    ),
    "no model": (["--endpoint", "URL"], "no model is named"),
    "not served": (["--endpoint", "URL", "--model", "x"], "does not answer as 'x'.*lists small-1B"),
    "no such V": (["--endpoint", "URL", "--model", "qwen3-vl-2B", "--visual-tokens", "16"], "makes 64 to 16384"),
    "no rule": (["--endpoint", "URL", "--model", "small-1B", "--visual-tokens", "16"], "0 .no image. and max.*family"),
    "no number": (["--endpoint", "URL", "--model", "small-1B", "--visual-tokens", "many"], "expected a whole number"),
    "no family": (["--endpoint", "URL", "--model", "small-1B", "--family", "cats"], "no family is called 'cats'"),
    "no limit": (["--endpoint", "URL", "--model", "small-1B", "--limit-ms", "-3"], "--limit-ms: found -3"),
    "no price": (["--endpoint", "URL", "--model", "small-1B", "--cost", "money"], "needs a price of small-1B"),
    "no image": (["--endpoint", "URL", "--model", "small-1B", "--images", "."], "names the image '0.png'"),
}


@pytest.mark.parametrize("what", WRONG)
def test_bad_input_ends_before_anything_is_asked(what, pages, server, tmp_path, capsys):
    given, wanted = WRONG[what]
    arguments = [server.url if word == "URL" else word for word in given]
    assert main(["measure", str(pages / "pages.jsonl"), "--out", str(tmp_path), *arguments]) == 2
    assert re.search(wanted, capsys.readouterr().err)
    assert not server.asked


QUESTION = {"id": "0", "image": "0.png", "question": "Is it?", "answer": "yes"}
UNFIT = {
    "one image": ([QUESTION, QUESTION | {"id": "1"}], "are all on one image"),
    "no image": (
        [{"id": str(i), "question": "Is it?", "answer": "yes"} for i in range(3)],
        "no question of .* has an image",
    ),
    "no text": (
        [QUESTION | {"question": " "}, QUESTION | {"id": "1", "image": "1.png"}],
        "question '0' of .* has no text",
    ),
    "no picture": ([QUESTION, QUESTION | {"id": "1", "image": "broken.png"}], "broken.png cannot be decoded"),
}


@pytest.mark.parametrize("what", UNFIT)
def test_questions_that_cannot_be_measured_end_before_anything_is_asked(what, server, tmp_path, capsys):
    rows, wanted = UNFIT[what]
    for name in ("0.png", "1.png"):
        Image.fromarray(np.zeros((60, 60, 3), dtype=np.uint8)).save(tmp_path / name)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = [str(tmp_path / "q.jsonl"), "--endpoint", server.url, "--model", "small-1B", "--out", str(tmp_path / "out")]
    assert main(["measure", *given]) == 2
    assert re.search(wanted, capsys.readouterr().err) and not server.asked
