"""The frontier by a measured time is the Python API's, and the page says how far 2N(Q + V) is from the clock."""

from pathlib import Path

import pandas as pd
import pytest

from vlmlaw.laws import frontier, read_measurements
from vlmlaw.laws.costs import ColumnCost
from vlmlaw.report import clock, phrasing, tables
from vlmlaw.report.explorer import explorer_data
from vlmlaw.report.figures import gallery
from vlmlaw.report.page import Run, render
from vlmlaw.report.study import Study, read_study

from . import made

TOWER, PER_TOKEN, OF_WEIGHTS = 3.0, 2e-8, 1e-5  # ms; ms of a parameter and token; ms of reading a parameter


def milliseconds(n: float, v: float) -> float:
    return TOWER + OF_WEIGHTS * n + PER_TOKEN * n * (16 + v)


@pytest.fixture(scope="module")
def timed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's table with milliseconds as the workflow adds them, and its law."""
    folder = tmp_path_factory.mktemp("timed")
    made.write_measurements(folder / "measurements.csv")
    table = pd.read_csv(folder / "measurements.csv")
    ms = [milliseconds(n, v) for n, v in zip(table["n_params"], table["n_visual_tokens"], strict=True)]
    llm = [x - TOWER - 0.25 for x in ms]
    parts = {"tower_ms": TOWER, "question_ms": 0.0, "compressor_ms": 0.25, "llm_ms": llm, "timed_text_tokens": 16}
    table.assign(first_token_ms=ms, **parts).to_csv(folder / "measurements.csv", index=False)
    made.write_law(folder / "measurements.csv", folder / "law.json", allow_missing=True)
    return folder


@pytest.fixture(scope="module")
def timed_study(timed: Path) -> Study:
    return read_study(timed / "law.json", timed / "measurements.csv", where=made.WHERE)


def test_the_frontier_by_time_is_that_of_the_api(timed: Path, timed_study: Study) -> None:
    for suite in timed_study.suites:
        table = read_measurements(timed / "measurements.csv").select(suite=suite.name, kind="all", **made.WHERE)
        cost = ColumnCost.from_table(table, "first_token_ms")
        sizes = sorted(n for n, _ in cost.by_cell)  # the held-out one, too
        budgets = sorted(cost.by_cell.values())
        expected = frontier(suite.fit, sizes=sizes, cost=cost, budgets=budgets, tolerance=0.005)
        own = clock.clock_of(suite, timed_study)
        assert own is not None
        pd.testing.assert_frame_equal(suite.frontier(timed_study, own), expected)
        bought = tables.recommended_by_time(suite, timed_study)
        assert bought is not None
        assert bought.header[0] == "ms"
        assert bought.rows[0][0] == phrasing.si(min(cost.by_cell.values()))


def test_the_page_says_how_far_flops_are_from_the_clock(timed_study: Study, tmp_path: Path) -> None:
    page = render(timed_study, tmp_path / "index.html", run=Run())
    n, v = made.SIZES.values(), made.TOKENS
    low, high = (min(n), min(v)), (max(n), max(v))
    flops = (high[0] * (16 + high[1])) / (low[0] * (16 + low[1]))
    time = milliseconds(*high) / milliseconds(*low)
    per_flop = [milliseconds(a, b) / (2 * a * (16 + b)) for a in n for b in v]
    assert f"2N(Q + V) grows by ×{flops:.3g} and the measured time by ×{time:.3g}" in page
    assert f"the time of one FLOP differs by up to ×{max(per_flop) / min(per_flop):.3g}" in page
    assert "the tower takes " in page and "the pass over the question takes" not in page
    assert page.count('<figure id="error_against_time">') == page.count('<figure id="time_against_flops">') == 1


def test_the_explorer_offers_the_whole_time_and_not_its_parts(timed_study: Study) -> None:
    costs = [cost["name"] for cost in explorer_data(timed_study)["series"][0]["costs"]]
    assert "first_token_ms" in costs
    assert not {"tower_ms", "compressor_ms", "llm_ms"} & set(costs)


def test_a_table_without_times_has_neither_figures_nor_a_table_of_them(study: Study) -> None:
    assert all(clock.clock_of(suite, study) is None for suite in study.suites)
    assert all(tables.recommended_by_time(suite, study) is None for suite in study.suites)
    assert all(not p.panels(s, study) for p in gallery.LAW_PICTURES if p.optional for s in study.suites)
