"""The page holds everything that it shows, says what the analysis says, and works for a user's own table."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from vlmlaw.laws.analysis import analyse
from vlmlaw.laws.options import LawOptions
from vlmlaw.laws.table import read_measurements
from vlmlaw.report import phrasing, tables
from vlmlaw.report.page import write_page
from vlmlaw.report.study import Study, read_study

from . import made


class Links(HTMLParser):
    """Every id, every thing that a browser would load, and every link of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.tags.add(tag)
        self.ids += [given["id"]] if "id" in given else []
        self.loaded += [given[name] for name in ("src", "srcset", "data", "poster") if name in given]
        if "href" in given or "xlink:href" in given:
            (self.links if tag == "a" else self.loaded).append(given.get("href", given.get("xlink:href", "")))


def without_scripts(page: str) -> str:
    return re.sub(r"(?s)<script[ >].*?</script>", "", page)


@pytest.fixture(scope="module")
def own_page(published: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("own") / "index.html"
    write_page(read_study(published, Path("li2024_ocr")), out)
    return out.read_text(encoding="utf-8")


@pytest.mark.parametrize("which", ["run_page", "own_page"])
def test_the_page_loads_nothing_from_outside(which: str, request: pytest.FixtureRequest) -> None:
    page = request.getfixturevalue(which)
    found = Links(page)
    assert not found.tags & {"link", "iframe", "object", "embed"}
    assert all(target.startswith(("#", "data:")) for target in found.loaded)  # of scripts, too
    # Vega could load data by address; the policy makes browsers refuse that.
    assert """http-equiv="Content-Security-Policy" content="default-src 'none';""" in page
    assert not re.search(r"@import|url\((?!#)|https?://", without_scripts(page))


@pytest.mark.parametrize("which", ["run_page", "own_page"])
def test_names_within_the_page_are_unique_and_there(which: str, request: pytest.FixtureRequest) -> None:
    page = request.getfixturevalue(which)
    found = Links(page)
    assert len(found.ids) == len(set(found.ids))
    wanted = {name for name in re.findall(r"url\(#([^)]+)\)", without_scripts(page))}
    wanted |= {target[1:] for target in (*found.loaded, *found.links) if target.startswith("#")}
    assert wanted <= set(found.ids)


def test_links_to_cells_lead_to_their_folders(run_page: str, run_folder: Path) -> None:
    targets = [target for target in Links(run_page).links if not target.startswith("#")]
    assert len(targets) >= len(made.SIZES) * len(made.TOKENS)
    assert all((run_folder / "report" / target).is_dir() for target in targets)


def test_title_and_samples_are_the_settings(run_page: str) -> None:
    assert "<h1>A title of its own</h1>" in run_page
    assert run_page.count("data:image/png;base64") == 4


def test_every_drawing_has_a_whole_name_and_every_table_can_be_reached(own_page: str) -> None:
    names = re.findall(r'<svg role="img" aria-label="([^"]*)"', own_page)
    assert names[0] == "Error against visual tokens" and all(name and not name.endswith(", ") for name in names)
    assert '<th scope="col"></th>' not in own_page
    boxes = re.findall(r'<div class="scroll"([^>]*)>', without_scripts(own_page).split('<h2 id="run">')[1])
    assert boxes and all('tabindex="0" role="region" aria-label=' in box for box in boxes)
    assert "bold: the chosen law</span></caption>" in own_page


def test_the_headline_is_the_analysis(run_page: str, study: Study) -> None:
    for suite in study.suites:
        assert phrasing.rho(suite.rho) in run_page
        assert phrasing.v_star(suite.v_star(study), at=study.question_tokens) in run_page
    assert "buy the larger LLM" in run_page and "buy more visual tokens" in run_page


def test_the_page_tells_where_its_numbers_come_from(run_page: str, study: Study) -> None:
    assert study.measurements.sha256 in run_page
    assert "snakemake --cores all" in run_page and "vlmlaw law fit" in run_page


def test_samples_are_shown_as_text_not_as_markup(run_page: str) -> None:
    assert "what &lt;is&gt; it" in run_page and "<is>" not in run_page


def test_the_miniature_says_that_its_contrast_is_partly_built_in(run_page: str, own_page: str) -> None:
    assert "partly built into the questions" in run_page
    assert "partly built into the questions" not in own_page


def test_a_users_own_table_gets_a_page_without_the_runs_parts(own_page: str) -> None:
    assert "Training curves" not in own_page and "test pictures" not in own_page
    assert "vlmlaw report --law" in own_page and "Every measured cell" in own_page


def test_the_share_of_unread_replies_stands_beside_every_score(study: Study) -> None:
    suite = study.suites[0]
    assert "replies not read" not in tables.every_cell(study, suite).header
    known = suite.rows.assign(unread=0.125)
    found = tables.every_cell(study, replace(suite, rows=known))
    place = found.header.index("replies not read")
    shares = {row[place] for row in found.rows}
    assert phrasing.percent(0.125) in shares and shares <= {phrasing.percent(0.125), phrasing.NOTHING}


def test_what_the_linter_found_is_on_the_page(own_page: str) -> None:
    assert "What the linter says" in own_page and "4B value at 576 tokens" in own_page


def test_the_same_page_twice(published: Path, own_page: str, tmp_path: Path) -> None:
    write_page(read_study(published, Path("li2024_ocr")), tmp_path / "index.html")
    again = (tmp_path / "index.html").read_text(encoding="utf-8")
    # The command to make the page again names its own folder.
    pages = ["\n".join(x for x in page.splitlines() if "vlmlaw report" not in x) for page in (own_page, again)]
    assert pages[0] == pages[1]


def test_a_law_without_a_single_rho(tmp_path: Path) -> None:
    options = LawOptions(law="additive", candidates=("additive",), bootstrap_draws=0)
    analyse(read_measurements("li2024_ocr"), options, out=tmp_path / "law.json")
    write_page(read_study(tmp_path / "law.json", Path("li2024_ocr")), tmp_path / "index.html")
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "it depends on the cell" in page and "this law has no single ρ" in page
