"""The templates' environment: names that would turn the direction of a sentence stay visible and turn nothing."""

import pytest
from jinja2 import UndefinedError
from markupsafe import Markup

from vlmlaw.report.tables import Table
from vlmlaw.report.templating import environment, without_directions

RIGHT_TO_LEFT = "\u202e"


@pytest.mark.parametrize("mark", [chr(x) for x in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))])
def test_marks_of_direction_are_replaced(mark: str) -> None:
    assert without_directions(f"7B{mark} 0.12") == "7B\ufffd 0.12"


def test_text_and_drawings_are_both_treated_and_text_alone_is_escaped() -> None:
    template = environment().from_string("{{ text }} {{ drawing }} {{ number }}")
    rendered = template.render(text=f"<7B{RIGHT_TO_LEFT}", drawing=Markup(f"<b>{RIGHT_TO_LEFT}</b>"), number=3)
    assert rendered == "&lt;7B\ufffd <b>\ufffd</b> 3"


def test_a_missing_name_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="nobody"):
        environment().from_string("{{ nobody }}").render()


@pytest.mark.parametrize(
    ("caption", "shown"),
    [
        ("Two sentences. Of a caption.", "Two sentences. Of a caption. Bold: the best."),
        ("errors of a suite", "errors of a suite; bold: the best"),
        ("", "bold: the best"),
    ],
)
def test_a_caption_says_what_bold_rows_are(caption: str, shown: str) -> None:
    template = environment().from_string('{% from "macros.html" import table %}{{ table(t) }}')
    page = template.render(t=Table(["model"], [["a"], ["b"]], mark=(1,), marked="the best", caption=caption))
    assert f"<caption><span>{shown}</span></caption>" in page
