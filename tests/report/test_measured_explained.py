"""Questions that explain, on the page of a measurement: what is drawn, what is inert, what fits."""

import re
from dataclasses import replace

from vlmlaw.evaluation.measuring.explained import Compared, Seen, Shown
from vlmlaw.report.explained import MOST_BYTES
from vlmlaw.report.measured_explained import explained_groups
from vlmlaw.report.templating import environment

from .test_explorer import HOSTILE

PNG = "data:image/png;base64,aGVyZQ=="
SEEN = Seen("16", 14.0, PNG, 84, 112, 3, 4, {"small": False, "large": True})
BLIND = Seen("0", 0.0, "", 0, 0, 0, 0, {"small": False, "large": False})
SHARES = {"larger": 0.1, "tokens": 0.2, "neither": 0.3, "all": 0.25}


def made(*shown: Shown, models: tuple[str, ...] = ("small", "large")) -> Compared:
    return Compared(models, ("0", "16"), 40, SHARES, {"larger": shown, "tokens": (), "neither": ()})


def html_of(found: list[Compared]) -> str:
    groups, pictures = explained_groups(found)
    template = environment().from_string(
        '{% from "explained_questions.html" import store, questions_of %}{{ store(pictures) }}'
        "{% for group in groups %}{{ group.title }} {{ questions_of(group.reasons) }}{% endfor %}"
    )
    return template.render(groups=groups, pictures=pictures)


def test_a_picture_is_stored_once_with_the_grid_of_its_tokens_over_it() -> None:
    shown = Shown("Which?", "red", "color", [BLIND, SEEN, SEEN])
    html = html_of([made(shown)])
    assert html.count(PNG) == 1 and html.count('href="#explained-0"') == 2
    blind, seen, _ = re.findall(r"(?s)<figure>.*?</figure>", html)
    assert "<svg" not in blind and "V = 0</b>: without the image" in blind
    assert "V = 14</b>: 112 × 84 px, 4 × 3 cells, a token each" in seen
    # 3 rows and 4 columns of 28 px: lines at 0, 28, 56, 84 down and 0, 28, 56, 84, 112 across.
    assert 'd="M0 0H112 M0 28H112 M0 56H112 M0 84H112 M0 0V84 M28 0V84 M56 0V84 M84 0V84 M112 0V84"' in seen
    assert '<span class="wrong">small wrong</span>' in seen and '<span class="right">large right</span>' in seen


def test_an_uncounted_v_is_no_number() -> None:
    seen = replace(SEEN, n_visual_tokens=float("nan"), rows=0, columns=0)
    html = html_of([made(Shown("Which?", "red", "", [seen]))])
    assert "V not counted</b>: 112 × 84 px<" in html and "nan" not in html and 'class="lines"' not in html


def test_one_model_alone_is_not_called_the_larger() -> None:
    (group,), _ = explained_groups([made(models=("one",))])
    assert [text for text, _ in group.reasons] == [
        "More visual tokens alone answer these",
        "None of these cells answers these",
    ]
    assert "larger" not in group.how and "V = 0 is the question without its image" in group.how
    assert group.shares.rows == [["40", "20.0 %", "30.0 %", "25.0 %"]]


def test_names_and_questions_are_text() -> None:
    seen = replace(SEEN, right={HOSTILE: True})
    html = html_of([made(Shown(HOSTILE, HOSTILE, HOSTILE, [seen]), models=(HOSTILE, "x"))])
    assert "<script" not in html and "<img" not in html


def test_what_does_not_fit_is_left_out_whole() -> None:
    big = [replace(SEEN, picture=PNG + letter * (MOST_BYTES // 3)) for letter in "ABCD"]
    fits = Shown("first?", "red", "", [big[0], big[1]])
    too_much = Shown("second?", "red", "", [big[2], big[3]])
    (group,), pictures = explained_groups([made(fits, too_much)])
    assert [q.question for q in group.reasons[0][1]] == ["first?"] and len(pictures) == 2
