"""Compressors side by side on made measurements with a known order: tables, winners, sentences, and the page."""

import dataclasses
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


def test_without_standard_errors_nothing_is_called_told_apart(found, study):
    blind = dataclasses.replace(found, frame=found.frame.assign(error_se=np.nan))
    (known,) = {one.verdict for one in comparison.differences(blind, "reading", level=0.95)}
    assert known == comparison.UNJUDGED
    said = comparison.sentences(blind, study)
    assert any(comparison.UNJUDGED in line for line in said) and not any("Intervals are" in line for line in said)
    found_in = [comparison.beside_pooling(blind, study), comparison.winners(blind, "reading", study)]
    assert not any("nan" in text for table in found_in for row in table.rows for text in row)
    others = [row[5] for row in found_in[1].rows]
    assert set(others[1:]) == {"not known: no standard errors"}


def test_one_cell_that_is_the_best_at_every_budget_is_told_as_one(found, study):
    cheapest = found.frame.groupby("suite")["cost"].transform("min") == found.frame["cost"]
    alone = dataclasses.replace(found, frame=found.frame.assign(error=np.where(cheapest, 0.01, 0.5)))
    said = " ".join(comparison.sentences(alone, study))
    assert "reading: one cell has the least error at every budget; its compressor is average." in said
    assert "changes at" in " ".join(comparison.sentences(found, study))


def test_laws_stand_side_by_side(found, study):
    table = comparison.laws(found, "reasoning", study)
    assert [row[0] for row in table.rows] == sorted(name for name, *_ in KINDS)
    fits = {part["compressor"]: part for part in study.law["fits"] if part["suite"] == "reasoning"}
    for row in table.rows:
        assert row[3].startswith(f"{fits[row[0]]['rho']['estimate']:.3g}"[:3])


def test_differences_are_means_over_the_same_cells(found):
    """By hand; within each way the order of the made compressors comes out."""
    frame = found.of("reading").set_index(["compressor", "N", "V"])
    by_name = {one.compressor: one for one in comparison.differences(found, "reading", level=0.95)}
    assert set(by_name) == {"costly", "m3", "tome"}
    for name, beside in (("costly", "average"), ("m3", "average"), ("tome", "average_at_inference")):
        one, own, base = by_name[name], frame.loc[name], frame.loc[beside]
        gaps = own["error"] - base["error"]
        noise = 1.959964 * np.sqrt((own["error_se"] ** 2 + base["error_se"] ** 2).sum()) / 12
        assert (one.beside, one.n_cells) == (beside, 12)
        assert (one.mean, one.lower, one.upper) == pytest.approx(
            (gaps.mean(), gaps.mean() - noise, gaps.mean() + noise)
        )
    assert by_name["costly"].verdict == by_name["tome"].verdict == comparison.LOWER
    assert by_name["m3"].verdict == comparison.HIGHER


def test_a_difference_within_its_interval_is_not_told_apart(found):
    wide = found.frame.assign(error_se=0.5)
    judged = comparison.differences(comparison.Comparison(wide, found.cost_name), "reading", level=0.95)
    assert {one.verdict for one in judged} == {comparison.ALIKE}


def test_sentences_and_table_say_the_differences(found, study):
    said = comparison.sentences(found, study)
    assert (
        "reading, beside plain average pooling in the same cells: a lower error with costly and tome; "
        "a higher one with m3." in said
    )
    table = comparison.beside_pooling(found, study)
    assert table.header == ["compressor", "weights", "beside", "cells", "reading", "reasoning"]
    by_suite = {suite: comparison.differences(found, suite, level=study.level) for suite in found.suites}
    for row in table.rows:
        for suite, text in zip(("reading", "reasoning"), row[4:], strict=True):
            one = next(one for one in by_suite[suite] if one.compressor == row[0])
            assert text == f"{one.mean:+.3f} [{one.lower:+.3f}, {one.upper:+.3f}]"


def test_winners_are_counted(found, study):
    steps = len(comparison.winners(found, "reading", study).rows)
    text = next(s for s in comparison.sentences(found, study) if s.startswith("reading: the cell of least error"))
    counts = [int(number) for number in re.findall(r"\d+", text)]
    assert counts[0] == steps == sum(counts[1:])


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
