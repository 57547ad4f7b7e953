"""Questions that explain the law: drawn as they were found, within a page's size, and inert whatever they say."""

import base64
import json
import re
from pathlib import Path

import pytest

from vlmlaw.cli.main import main
from vlmlaw.errors import UserError
from vlmlaw.report.explained import MOST_BYTES, read_explanation
from vlmlaw.report.page import Run, render
from vlmlaw.report.study import Study

from .test_explorer import HOSTILE

PNG = "data:image/png;base64," + base64.b64encode(b"not drawn here").decode()
CELLS = [
    {"training": "t", "is_largest": size == "7b", "measured": {"size": size, "n_visual_tokens": v, "compressor": "x"}}
    for size in ("1b", "7b")
    for v in (1, 4)
]
SHARES = {"larger": 0.1, "tokens": 0.2, "neither": 0.3, "all": 0.25}


def question(picture: str = "0", **more: object) -> dict:
    seen = {
        "4": {"side": 4, "how": "patches", "places": [[0, 1], [3, 2]]},
        "1": {"side": 4, "how": "cells", "places": [[1.5, 1.5]]},
    }
    asked = {"question": "Which?", "answer": "red", "kind": "color", "right": [False, False, True, True]}
    return {"picture": picture, **asked, "seen": seen, **more}


def made(**questions: list[dict]) -> dict:
    asked = {"larger": [], "tokens": [], "neither": []} | questions
    suites = {"reading": {"n_questions": 40, "errors": [1, 1, 0, 0], "shares": SHARES, "questions": asked}}
    return {"cells": CELLS, "pictures": {"0": PNG}, "suites": suites}


def written(folder: Path, content: object) -> Path:
    path = folder / "samples.json"
    path.write_text(json.dumps(content))
    return path


def test_a_question_is_shown_with_who_was_right_and_what_each_v_saw(study: Study, tmp_path: Path) -> None:
    found = read_explanation(written(tmp_path, made(larger=[question()])))
    page = render(study, tmp_path / "index.html", run=Run(explanation=found))
    section = page[page.index('<h2 id="explained">') :]
    section = section[: section.index("<h2 id=", 10)]
    few, many = re.findall(r"(?s)<figure>.*?</figure>", section)
    assert "V = 1" in few and "the whole picture in one token" in few and 'class="lines"' in few
    assert "V = 4" in many and 'd="M0 0H4V4H0Z M1 0h1v1h-1z M2 3h1v1h-1z"' in many
    for figure in (few, many):
        assert '<span class="wrong">1b wrong</span>' in figure and '<span class="right">7b right</span>' in figure
        assert 'role="img" aria-label="the picture at V = ' in figure
    assert section.count(PNG) == 1
    assert "10.0 %" in section and "25.0 %" in section
    assert "More visual tokens alone answer these: no such question was asked" in section
    assert '<a href="#explained">' in page


def test_hostile_texts_stay_texts(study: Study, tmp_path: Path) -> None:
    hostile = question(question=HOSTILE, answer=HOSTILE, kind=HOSTILE)
    content = json.loads(json.dumps(made(tokens=[hostile])).replace('"7b"', json.dumps(HOSTILE)))
    page = render(study, tmp_path / "index.html", run=Run(explanation=read_explanation(written(tmp_path, content))))
    assert page.count("&lt;/script&gt;&lt;!--") >= 5
    assert HOSTILE not in page and "<img src=x" not in page


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (made(larger=[question()]) | {"pictures": {"0": "https://example.org/a.png"}}, "a data URI of a PNG or JPEG"),
        (made(larger=[question()]) | {"pictures": {"0": PNG + '"><script>'}}, "a data URI of a PNG or JPEG"),
        (made(larger=[question(seen={"1": {"side": 4, "how": "magic", "places": []}})]), "seen as 'magic'"),
        (made(larger=[question(seen={"1": {"side": "4", "how": "cells", "places": [["x", 0]]}})]), "could not convert"),
        (made(larger=[question(right=[True])]), "explained questions"),
        ([], "expected what `vlmlaw explain` wrote"),
    ],
)
def test_what_is_no_explanation_is_refused(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_explanation(written(tmp_path, content))


def test_pictures_beyond_what_a_page_may_weigh_are_left_out_evenly(tmp_path: Path) -> None:
    large = "data:image/jpeg;base64," + "A" * (MOST_BYTES // 4)
    names = [str(number) for number in range(6)]
    asked = {"larger": [question(name) for name in names[:3]], "tokens": [question(name) for name in names[3:]]}
    found = read_explanation(written(tmp_path, made(**asked) | {"pictures": dict.fromkeys(names, large)}))
    assert sum(map(len, found.pictures)) <= MOST_BYTES
    assert [len(questions) for _, questions in found.suites["reading"]] == [2, 1, 0]


def test_the_verb_shows_them_beside_a_table_with_a_name(tmp_path: Path, run_folder: Path) -> None:
    path = written(tmp_path, made(neither=[question()]))
    law, table = run_folder / "law" / "law.json", run_folder / "measurements.csv"
    given = ["--law", str(law), "--measurements", f"Mine={table}", "--where", "compressor=block_linear"]
    assert main(["report", *given, "--explained", str(path), "--out", str(tmp_path / "out")]) == 0
    page = (tmp_path / "out" / "index.html").read_text()
    assert "<title>Mine</title>" in page and "None of these cells answers these" in page
    assert len(page) < 3_000_000
