"""Compressors side by side on made measurements with a known order: tables, winners, sentences, and the page."""

import re

import numpy as np
import pandas as pd
import pytest

from vlmlaw.laws.analysis import analyse
from vlmlaw.laws.options import LawOptions
from vlmlaw.laws.table import read_measurements
from vlmlaw.report import comparison
from vlmlaw.report.page import Run, render
from vlmlaw.report.study import read_study

from . import made

# (compressor, shift of the logit, extra FLOPs, name of the training)
KINDS = (
    ("average", 0.0, 0, "{size}_v{v}_average_s0"),
    ("costly", -0.5, 30_000_000, "{size}_v{v}_costly_s0"),
    ("m3", 0.1, 0, "{size}_m3_s0"),
    ("average_at_inference", 0.6, 0, "{size}_v144_none_s0"),
    ("tome", 0.3, 1000, "{size}_v144_none_s0"),
)
TOKENS = (1, 4, 16, 36)
SIZES = ("56k", "150k", "310k")


def measured_table() -> pd.DataFrame:
    rows, rng = [], np.random.default_rng(0)
    for name, shift, extra, training in KINDS:
        for size in SIZES:
            for v in TOKENS:
                for row in made.rows_of_cell(size, v, name, 0, rng):
                    if row["kind"] != "all":
                        continue
                    logit = np.log(row["error"] / (1 - row["error"])) + shift
                    row |= {"error": round(float(1 / (1 + np.exp(-logit))), 5), "held_out": False}
                    row |= {"compressor_flops": row["compressor_flops"] + extra}
                    rows.append(row | {"training": training.format(size=size, v=v)})
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("comparison")
    measured_table().to_csv(folder / "measurements.csv", index=False)
    options = LawOptions.from_mapping(made.QUICK | {"bootstrap_draws": 0, "candidates": ["logit"]})
    analyse(read_measurements(folder / "measurements.csv"), options, out=folder / "law.json")
    return read_study(folder / "law.json", folder / "measurements.csv", compressor="average")


@pytest.fixture(scope="module")
def found(study):
    return comparison.compare(study)


def test_each_compressor_is_known_by_how_it_came_by_its_weights(found):
    ways = dict(zip(found.frame["compressor"], found.frame["way"], strict=True))
    assert ways == {
        "average": comparison.OWN,
        "costly": comparison.OWN,
        "m3": comparison.ELASTIC,
        "average_at_inference": comparison.AT_INFERENCE,
        "tome": comparison.AT_INFERENCE,
    }
    assert len(found.frame) == 2 * 5 * 3 * 4


def test_intervals_are_of_the_test_questions():
    lower, upper = comparison.interval(0.3, 0.01, level=0.95)
    assert (lower, upper) == pytest.approx((0.3 - 1.959964 * 0.01, 0.3 + 1.959964 * 0.01))
    assert comparison.interval(0.001, 0.01, level=0.95)[0] == 0.0


def test_every_error_is_in_the_tables_and_the_least_is_marked(found, study):
    tables = comparison.errors(found, "reading", study)
    assert len(tables) == 3
    frame = found.of("reading")
    smallest = frame[frame["N"] == frame["N"].min()]
    header, *_ = tables[0].header, tables[0].rows
    assert header[2:] == ["V = 1", "V = 4", "V = 16", "V = 36"]
    for row in tables[0].rows:
        for v, text in zip(TOKENS, row[2:], strict=True):
            measured = smallest[(smallest["compressor"] == row[0]) & (smallest["V"] == v)].iloc[0]
            lower, upper = comparison.interval(measured["error"], measured["error_se"], level=0.95)
            assert text.removesuffix(" ◂") == f"{measured['error']:.3f} [{lower:.3f}, {upper:.3f}]"
            assert text.endswith("◂") == (measured["error"] == smallest[smallest["V"] == v]["error"].min())


def test_a_winner_is_the_best_that_the_budget_buys(found, study):
    """By brute force at each budget; the costly one wins only where its extra FLOPs are paid for."""
    frame = found.of("reading")
    table = comparison.winners(found, "reading", study)
    budgets = sorted(frame["cost"].unique())
    best = [frame[frame["cost"] <= b].sort_values("error").iloc[0] for b in budgets]
    changes = [b for i, b in enumerate(best) if i == 0 or b.name != best[i - 1].name]
    assert [(row[2], row[3]) for row in table.rows] == [(b["compressor"], f"{b['V']:g}") for b in changes]
    assert "costly" in {row[2] for row in table.rows} and table.rows[0][2] != "costly"
    for row, b in zip(table.rows, changes, strict=True):
        affordable = frame[frame["cost"] <= b["cost"]]
        noise = np.hypot(affordable["error_se"], b["error_se"])
        near = affordable[(affordable["error"] - b["error"] <= 1.96 * noise)]
        assert {part.split(" ")[0] for part in row[5].split(", ")} - {"none"} == set(near["compressor"]) - {
            b["compressor"]
        }


def test_laws_stand_side_by_side(found, study):
    table = comparison.laws(found, "reasoning", study)
    assert [row[0] for row in table.rows] == sorted(name for name, *_ in KINDS)
    fits = {part["compressor"]: part for part in study.law["fits"] if part["suite"] == "reasoning"}
    for row in table.rows:
        assert row[3].startswith(f"{fits[row[0]]['rho']['estimate']:.3g}"[:3])


def test_sentences_count_what_is_told_apart_from_the_baseline(found, study):
    said = comparison.sentences(found, study)
    text = next(s for s in said if s.startswith("reading: of 12 cells applied at inference"))
    frame = found.of("reading").set_index(["N", "V"])
    tome, base = (frame[frame["compressor"] == name] for name in ("tome", "average_at_inference"))
    gap = tome["error"] - base["error"]
    clear = gap.abs() > 1.959964 * np.hypot(tome["error_se"], base["error_se"])
    better, worse = int((clear & (gap < 0)).sum()), int((clear & (gap > 0)).sum())
    assert re.findall(r"\d+", text) == [str(n) for n in (12, better, worse, 12 - better - worse)]
    assert better > worse


def test_the_page_is_about_one_compressor_and_compares_all(study, tmp_path):
    page = render(study, tmp_path / "index.html", run=Run())
    assert {suite.analysis["compressor"] for suite in study.suites} == {"average"}
    assert len(study.suites) == 2
    section = page[page.index('id="compressors"') : page.index('id="laws"')]
    for name, *_ in KINDS:
        assert f">{name}<" in section
    assert section.count("<svg") == 2 * 3 + 2
    assert "shared-weights" in page and "share the weights of" not in section


def test_a_table_of_one_compressor_has_no_comparison(run_folder):
    one = read_measurements(run_folder / "measurements.csv").select(**made.WHERE)
    assert not one.compressors_share_cells


def test_a_compressor_without_a_law_cannot_be_what_the_page_is_about(study):
    from vlmlaw.errors import UserError

    with pytest.raises(
        UserError, match=r"report.compressor is 'quecc', which has no law here; those with one: average"
    ):
        read_study(study.law_path, study.measurements_path, compressor="quecc")
