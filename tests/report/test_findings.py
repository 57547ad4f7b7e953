"""Claims follow from intervals, and noise from replicates."""

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from vlmlaw.report import findings, phrasing, tables
from vlmlaw.report.study import Study, Suite


def interval(estimate: float | None, lower: float | None, upper: float | None) -> dict:
    return {"estimate": estimate, "lower": lower, "upper": upper, "level": 0.95, "method": "profile"}


INFINITE = interval(None, None, None) | {"infinite": 1}  # tokens gain nothing
NOTHING_GAINED = interval(None, None, None) | {"infinite": -1}  # neither size nor tokens do


def with_rho(suite: Suite, rho: dict, others: list[dict] | None = None) -> Suite:
    analysis = copy.deepcopy(dict(suite.analysis)) | {"rho": rho, "rho_intervals": [rho, *(others or [])]}
    return replace(suite, analysis=analysis)


@pytest.mark.parametrize(
    ("rho", "side"),
    [
        (interval(4.7, 4.3, 5.2), "size"),
        (interval(None, 2.0, None), "size"),
        (interval(0.6, 0.4, 0.8), "tokens"),
        (interval(0.1, -0.2, 0.4), "tokens"),
        (interval(1.4, 0.9, 2.0), "unsettled"),
        (interval(-3.0, None, -1.0), "unsettled"),
        (interval(6.0, None, None), "unsettled"),
        (INFINITE, "size"),
        (NOTHING_GAINED, "unsettled"),
        (None, "unsettled"),
    ],
)
def test_what_an_interval_shows(rho: dict | None, side: str) -> None:
    assert phrasing.side(rho) == side


def test_each_suites_claim_is_that_of_its_interval(study: Study) -> None:
    claims = " ".join(findings.contrast(study))
    assert "reasoning: ρ > 1 is shown at the 95 % level" in claims
    assert "reading: ρ < 1 is shown at the 95 % level" in claims
    assert "do not overlap" in claims


def test_a_claim_that_one_method_does_not_share_says_so(study: Study) -> None:
    wide = interval(4.5, 0.8, 9.0) | {"method": "whole-size bootstrap"}
    suite = with_rho(study.suites[0], interval(4.5, 4.0, 5.0), [wide])
    (claim,) = findings.contrast(replace(study, suites=[suite]))
    assert "but not by every method: whole-size bootstrap [0.800, 9.00]" in claim


def test_an_interval_with_1_in_it_settles_nothing(study: Study) -> None:
    suite = with_rho(study.suites[0], interval(1.2, 0.9, 1.6))
    assert "neither ρ > 1 nor ρ < 1 is shown" in findings.contrast(replace(study, suites=[suite]))[0]
    assert "contains 1" in findings.headline(suite, study)
    assert phrasing.advice(suite.rho) == "not settled"


def test_noise_between_seeds_is_the_pooled_deviation_of_replicates(study: Study) -> None:
    suite = study.suites[0]
    smallest = suite.rows[suite.rows["N"] == suite.rows["N"].min()]
    pairs = [smallest.loc[smallest["V"] == v, "error"].to_numpy() for v in (1, 16)]
    deviation, n_cells = findings.seed_noise(suite) or (np.nan, 0)
    assert n_cells == 2
    assert deviation == pytest.approx(np.sqrt(np.mean([pair.var(ddof=1) for pair in pairs])))


def test_without_replicates_noise_is_said_to_be_unknown(study: Study) -> None:
    suite = study.suites[0]
    single = replace(suite, rows=suite.rows[suite.rows["seed"] == "0"])
    assert findings.seed_noise(single) is None
    limits = findings.limits(replace(study, suites=[single]), is_miniature=False)
    assert any("no cell was measured with several seeds" in sentence for sentence in limits)


def test_without_a_method_by_whole_size_the_claim_says_so(study: Study) -> None:
    suite = next(suite for suite in study.suites if phrasing.side(suite.rho) != "unsettled")
    agreeing = [i for i in suite.analysis["rho_intervals"] if phrasing.side(i) == phrasing.side(suite.rho)]
    for methods, independent in (
        (agreeing, False),
        ([i for i in agreeing if "size" not in i["method"] and "shared" not in i["method"]], True),
    ):
        analysis = dict(suite.analysis) | {"rho_intervals": methods}
        sentence = findings._shown(replace(suite, analysis=analysis), study)
        assert sentence.endswith("all of which take cells as independent.") == independent
        assert "by every method that was tried" in sentence


def test_error_that_rises_with_tokens_beyond_noise_is_told(study: Study) -> None:
    suite = study.suites[0]
    rows = suite.rows.copy()
    assert not findings._wrong_way(suite)
    rows.loc[rows["V"] == rows["V"].max(), "error"] = 0.99
    (sentence,) = findings._wrong_way(replace(suite, rows=rows))
    assert "in 4 of 4 sizes the error at V = 144 is higher" in sentence


def test_kinds_that_hardly_move_are_named_in_the_right_number(study: Study) -> None:
    suite = study.suites[0]
    first, second, *_ = study.kinds[suite.label]
    still = [replace(kind, rows=kind.rows.assign(error=0.4)) for kind in (first, second)]
    for kinds, says in ((still[:1], "this kind says little"), (still, "these kinds say little")):
        (sentence,) = findings._poor_kinds(suite, replace(study, kinds={suite.label: kinds}))
        assert says in sentence and first.name in sentence


def test_a_list_of_missing_cells_says_how_many_it_leaves_out(study: Study) -> None:
    suite = study.suites[0]
    places = suite.rows[["N", "V"]].drop_duplicates()
    for n_missing, end in ((2, None), (8, None), (10, " and 2 more.")):
        gone = places.iloc[1 : 1 + n_missing]
        rows = suite.rows.merge(gone, how="left", indicator=True).query("_merge == 'left_only'")
        sentence = findings._missing(replace(suite, rows=rows), study)
        assert f": {n_missing} cells missing and not fitted: " in sentence
        assert sentence.endswith(end) if end else " more." not in sentence


def test_what_the_data_do_not_bound_has_no_number(study: Study) -> None:
    row = study.suites[0].v_star(study)
    assert phrasing.rho(None) == "no single ρ" and phrasing.advice(None) == "it depends on the cell"
    assert phrasing.rho(interval(None, None, None)) == "ρ not bounded"
    assert phrasing.rho(interval(6.0, None, None)) == "ρ not bounded, best fit 6.00"
    assert phrasing.rho(interval(None, 2.0, None)) == "ρ = ∞ [2.00, ∞]"
    assert phrasing.rho(interval(None, None, 0.5)) == "ρ = −∞ [−∞, 0.500]"
    assert phrasing.rho(interval(None, None, -4.49)) == "ρ below 0: error does not fall with LLM size"
    assert phrasing.best(interval(6.0, None, None), row, at=8) == "V* not bounded at Q = 8"


def test_an_infinite_rho_is_an_answer_and_not_a_lack_of_one(study: Study) -> None:
    suite = with_rho(study.suites[0], INFINITE)
    row = suite.v_star(study) | {"v_star": 1.0, "lower": 1.0, "upper": 1.0, "corner": "smallest"}
    assert phrasing.advice(INFINITE) == "take the fewest visual tokens"
    assert phrasing.rho(INFINITE) == "ρ infinite: error does not fall with visual tokens"
    assert phrasing.ends(INFINITE) == "[∞, ∞]" and phrasing.estimate(INFINITE) == "∞"
    assert phrasing.best(INFINITE, row, at=8) == "V* = 1 at Q = 8, the fewest measured"
    assert findings.headline(suite, study) == suite.analysis["verdict"][0]
    claims = findings.contrast(replace(study, suites=[suite, study.suites[1]]))
    assert claims[0].startswith("reading: ρ > 1 is shown at the 95 % level (ρ infinite")
    assert claims[-1].endswith("do not overlap: the two differ.")


def test_where_nothing_is_gained_there_is_no_rho_and_no_best_v(study: Study) -> None:
    suite = with_rho(study.suites[0], NOTHING_GAINED)
    assert phrasing.advice(NOTHING_GAINED) == "nothing to trade off" and phrasing.ends(NOTHING_GAINED) == "[−∞, −∞]"
    assert phrasing.best(NOTHING_GAINED, suite.v_star(study), at=8).startswith("no V*")
    assert tables.best_tokens(suite).rows == []
    (claim,) = findings.contrast(replace(study, suites=[suite]))
    assert claim == "reading: error falls neither with LLM size nor with visual tokens, so there is no ρ."


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((4.7152, "4.72"), (0.000123, "0.000123"), (-0.3645, "−0.364"), (0, "0"), (None, "–"), (float("inf"), "∞")),
        *((9.996, "10.0"), (-0.09999, "−0.100"), (999_999.7, "1.00e+06"), (2e-7, "2.00e−07")),
    ],
)
def test_numbers_have_three_digits(value: float | None, text: str) -> None:
    assert phrasing.number(value) == text


def test_sizes_and_costs_are_read_at_a_glance() -> None:
    assert [phrasing.si(x) for x in (9.5e5, 1.27e12, 12)] == ["950 k", "1.27 T", "12"]
    assert [phrasing.si(x) for x in (999_999, 999_499, 0, np.nan)] == ["1 M", "999 k", "0", "–"]
    assert phrasing.percent(np.inf) == "∞" and phrasing.percent(0.0312) == "3.1 %"
    assert phrasing.span(3.99999999, 4) == "4" and phrasing.span(4, 9) == "4 to 9"


def test_the_page_says_which_luck_no_interval_holds(study: Study) -> None:
    def told(grid: dict[str, Any]) -> str:
        return " ".join(findings.limits(replace(study, experiment={"grid": grid}), is_miniature=True))

    assert "noise between pretrainings and between data sets is in no interval" in told({})
    said = told({"pretrain_each_seed": True})
    assert "noise between data sets is in no interval" in said and "pretrainings" not in said
