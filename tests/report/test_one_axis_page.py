"""The page of a table with one size, or one number of visual tokens."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from vlmlaw.cli.main import main
from vlmlaw.report.figures import style
from vlmlaw.report.one_axis_page import draw_curve
from vlmlaw.report.terminal import summary

from .test_explorer import HOSTILE

TOKENS = (1, 4, 9, 16, 36, 64, 144, 256, 576)
PLATEAU = (0.61, 0.55, 0.521, 0.5, 0.471, 0.451, 0.45, 0.451, 0.45)  # nothing is gained from 64 tokens on


def page_of(folder: Path, frame: pd.DataFrame) -> str:
    frame.to_csv(folder / "table.csv", index=False)
    assert main(["report", str(folder / "table.csv"), "--out", str(folder / "page")]) == 0
    return (folder / "page" / "index.html").read_text(encoding="utf-8")


def tags_of(page: str) -> set[str]:
    found: set[str] = set()
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: found.add(tag)  # type: ignore[method-assign]
    parser.feed(page)
    return found


def test_one_size_has_the_error_against_tokens(tmp_path: Path) -> None:
    rows = [
        {"suite": suite, "N": 7, "V": v, "error": error, "n_questions": 5000}
        for suite in ("reading", HOSTILE)
        for v, error in zip(TOKENS, PLATEAU, strict=True)
    ]
    page = page_of(tmp_path, pd.DataFrame(rows))
    assert "from 36 tokens on nothing is gained that 5000 questions could show" in page
    assert page.count('role="img"') == 3 and "visual tokens V" in page  # two suites and their mean
    assert not {"script", "img"} & tags_of(page)
    first = page[page.index('<h2 id="cells">') :]
    cells = re.findall(r'<tr(| class="mark")><td>(\d+)</td><td>([.\d]+)</td>', first)[: len(TOKENS)]
    assert [(int(v), float(error)) for _, v, error in cells] == [
        (v, pytest.approx(error, abs=5e-4)) for v, error in zip(TOKENS, PLATEAU, strict=True)
    ]
    assert [int(v) for mark, v, _ in cells if mark] == [36]
    assert "bold: from here on nothing more is gained" in page
    assert "<h1>Error along one axis</h1>" in page  # no question that one size cannot answer


def test_one_number_of_tokens_has_the_error_against_size(tmp_path: Path) -> None:
    sizes = (0.5, 1.5, 3, 7, 14, 32)
    page = page_of(tmp_path, pd.DataFrame({"N": sizes, "V": 576, "error": [0.6, 0.52, 0.47, 0.41, 0.37, 0.32]}))
    assert "the one number of visual tokens measured" in page and "LLM size N" in page
    assert "no budget\nto explore" in page and 'id="explorer"' not in page


def test_what_is_drawn_are_the_cells() -> None:
    group = {
        "axis": "V",
        "flat_from": 4.0,
        "cells": [{"V": v, "error": error, "predicted": error + 0.01} for v, error in ((9, 0.4), (1, 0.6), (4, 0.41))],
    }
    with style.look():
        figure, panels = style.new_figure(1, 1)
        draw_curve(panels[0, 0], group)
    curve, points = panels[0, 0].lines
    assert list(points.get_xdata()) == [1, 4, 9] and list(points.get_ydata()) == [0.6, 0.41, 0.4]
    assert list(curve.get_ydata()) == pytest.approx([0.61, 0.42, 0.41])
    assert len(panels[0, 0].patches) == 1 and figure.axes  # what is shaded, from 4 to 9


def test_too_few_cells_for_a_law_are_shown_where_a_workflow_trained_them(tmp_path: Path) -> None:
    """One size at two V; by hand, a table like this is refused."""
    rows = [("average", 4, 0.81), ("average", 36, 0.52), ("resampler", 4, 0.9), ("resampler", 36, 0.88)]
    frame = pd.DataFrame([{"compressor": name, "N": 7, "V": v, "error": error} for name, v, error in rows])
    frame.to_csv(tmp_path / "table.csv", index=False)
    fit = ["law", "fit", str(tmp_path / "table.csv"), "--out", str(tmp_path / "law.json")]
    assert main(fit) == 2
    assert main(["--record", str(tmp_path / "record.json"), *fit]) == 0
    law = ["--law", str(tmp_path / "law.json"), "--measurements", str(tmp_path / "table.csv")]
    assert main(["report", *law, "--out", str(tmp_path)]) == 0
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "These cells are too few for a law in N and V" in page and 'href="#figures"' not in page
    cells = re.findall(r"7 B</t[dh]>\s*<td>(\d+)</td>\s*<td>([.\d]+)</td>", page)
    assert [(int(v), float(error)) for v, error in cells] == [(v, error) for _, v, error in rows]
    said = summary(tmp_path / "law.json", page=None)
    assert "Too few cells for a law" in said and "resampler: error 0.900 of 7 B at V = 4; error 0.880" in " ".join(
        said.split()
    )
