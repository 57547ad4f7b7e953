"""The page of several tables: what stands side by side, what the explorer may choose among, and what is refused."""

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from vlmlaw.cli.main import main
from vlmlaw.laws.analysis import analyse
from vlmlaw.laws.options import LawOptions
from vlmlaw.laws.table import read_measurements
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


def test_each_row_has_the_sizes_and_tokens_of_its_own_suite(study: Study, published: Path) -> None:
    first, second = study.suites
    part = replace(second, rows=second.rows[(second.rows["N"] < 2e-4) & (second.rows["V"] == 4)])
    cut = replace(study, suites=[first, part])
    shown = render({"run": cut, "ocr": read_study(published, "li2024_ocr")})  # type: ignore[arg-type]
    rows = re.findall(r"<tr><td class=\"left\">run</td>(.*?)</tr>", shown)
    cells = [re.findall(r">([^<]*)</td>", row) for row in rows]
    assert [row[2:4] for row in cells] == [["56k to 600k", "1 to 144"], ["56k to 150k", "4"]]
    assert "Which tables count" in shown and '<th scope="col" id="x-whose" class="left">table</th>' in shown


def test_the_explorer_may_choose_among_all_tables(page: str, study: Study) -> None:
    data = json.loads(re.search(r'(?s)id="explorer-data">(.*?)</script>', page)[1])  # type: ignore[index]
    assert data["several"] and [one["label"] for one in data["series"]] == ["run", "<img src=x>"]
    labels = [suite.name for suite in study.suites]
    assert data["suites"][:2] == labels and data["suites"][2] == "<img src=x>"
    has = [[suite is not None for suite in one["suites"]] for one in data["series"]]
    assert has == [[True, True, False], [False, False, True]]  # a suite without a name is each table's own


TRUTH = {"small": (0.2, 0.5, (0.25, 0.5, 2)), "large": (0.6, 0.3, (3, 7, 32))}  # slopes in ln N and ln V, sizes


def _two_families(path: Path, *, shared: bool) -> Path:
    """The table of two families with a law each; where a cell is shared, its two sizes have names of their own."""
    rng, rows = np.random.default_rng(0), []
    for family, (a, b, sizes) in TRUTH.items():
        for n in (*sizes[:-1], 7) if shared else sizes:
            for v in (16, 64, 256):
                error = 1 - rng.binomial(40_000, expit(-2 + a * np.log(n) + b * np.log(v))) / 40_000
                row = {"size": f"{family}-{n:g}b", "n_params": n * 1e9, "n_visual_tokens": v, "error": error}
                rows.append(row | {"compressor": family, "family": family, "suite": "pages", "kind": "all"})
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


@pytest.mark.parametrize("shared", [False, True])
def test_each_family_of_released_models_has_its_law_and_its_own_sizes(shared: bool, tmp_path: Path) -> None:
    table = _two_families(tmp_path / "measurements.csv", shared=shared)
    options = LawOptions(law="logit", candidates=("logit",), bootstrap_draws=0, allow_missing=True)
    found = analyse(read_measurements(table), options, out=tmp_path / "law.json")
    rho = {part["compressor"]: part["rho"]["estimate"] for part in found["fits"]}
    for family, (a, b, _) in TRUTH.items():
        assert rho[family] == pytest.approx(a / b, rel=0.15)
    out = tmp_path / "page"
    assert main(["report", "--law", f"{tmp_path}/law.json", "--measurements", str(table), "--out", str(out)]) == 0
    page = (out / "index.html").read_text()
    assert "2 families of released models" in page and "Each family has its own law." in page
    assert "Which families count" in page
    for family, other in (("small", "large"), ("large", "small")):
        own = (out / family / "index.html").read_text()
        sizes = (*TRUTH[family][2][:-1], 7) if shared else TRUTH[family][2]
        assert all(f"{family}-{n:g}b" in own for n in sizes) and f"{other}-7b" not in own


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
