"""The page of several tables: what stands side by side, what the explorer may choose among, and what is refused."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from vlmlaw.cli.main import main
from vlmlaw.report.several_page import render
from vlmlaw.report.study import Study, read_study


@pytest.fixture(scope="module")
def page(study: Study, published: Path) -> str:
    return render({"run": study, "<img src=x>": read_study(published, "li2024_ocr")})  # type: ignore[arg-type]


def test_tables_keep_their_laws_and_their_pages(page: str, study: Study) -> None:
    assert "run and &lt;img src=x&gt;, side by side" in page and "<img src=x>" not in page
    assert 'href="run/index.html"' in page and 'href="%3Cimg%20src%3Dx%3E/index.html"' in page
    answers = re.findall(r"<h3>(.*?)</h3>\n<p class=\"advice\">", page)
    assert [a.split(" · ")[0] for a in answers] == ["run", "run", "&lt;img src=x&gt;"]
    ids = Counter(re.findall(r'\bid="([^"]+)"', re.sub(r"(?s)<script.*?</script>", "", page)))
    assert [name for name, count in ids.items() if count > 1] == []
    assert len(page.encode()) < 3_000_000


def test_the_explorer_may_choose_among_all_tables(page: str, study: Study) -> None:
    data = json.loads(re.search(r'(?s)id="explorer-data">(.*?)</script>', page)[1])  # type: ignore[index]
    assert data["several"] and [one["label"] for one in data["series"]] == ["run", "<img src=x>"]
    labels = [suite.name for suite in study.suites]
    assert data["suites"][:2] == labels and data["suites"][2].startswith("<img src=x>: ")
    has = [[suite is not None for suite in one["suites"]] for one in data["series"]]
    assert has == [[True, True, False], [False, False, True]]  # a suite without a name is each table's own


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["li2024_ocr", "li2024_ocr"], "is there twice"),
        (["a b=li2024_ocr", "li2024_reasoning"], "letters, digits"),
        (["li2024_ocr", "li2024_reasoning", "--cells", "x"], "Expected tables alone"),
        (["--law", "x.json", "--measurements", "a.csv", "--measurements", "b.csv"], "found 1 of --law and 2"),
    ],
)
def test_what_several_tables_cannot_be(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["report", *arguments, "--out", str(tmp_path / "page")]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "page").exists()
