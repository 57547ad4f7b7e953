"""The frontier and V*: closed forms against numerical minimisation, exhaustive search, caps, regret."""

import dataclasses
import re

import numpy as np
import pandas as pd
import pytest

from vlmlaw.errors import UserError
from vlmlaw.laws import LawOptions, analyse, read_measurements
from vlmlaw.laws.bootstrap import residual_bootstrap
from vlmlaw.laws.costs import BILLION, ColumnCost, Cost
from vlmlaw.laws.decision import recommend, regret, sensitivity
from vlmlaw.laws.fit import fit_cells
from vlmlaw.laws.optimum import candidate_cells, flat_region, frontier, middling_budget, numeric_v_star, v_star
from vlmlaw.laws.table import as_measurements

from .conftest import make_cells

LINKS = ["logit", "probit", "cloglog", "loglog", "log_linear", "accuracy_power", "power_d0", "power"]
WIDE = (0.01, 1e5)


@pytest.fixture(scope="module")
def reasoning():
    return fit_cells(read_measurements("li2024_reasoning").cells(), "logit")


@pytest.mark.parametrize("law", LINKS)
@pytest.mark.parametrize("q", [3.0, 50.0, 700.0])
@pytest.mark.parametrize("times", [0.3, 1.0, 5.0])
def test_closed_form_is_the_numerical_minimum_whatever_the_budget_and_the_link(law, q, times):
    fit = fit_cells(read_measurements("li2024_reasoning").cells(), law)
    cost = Cost(question_tokens=q)
    found = numeric_v_star(fit, cost, budget=times * middling_budget(fit, cost), tokens=WIDE)
    assert found == pytest.approx(q / (fit.rho - 1), rel=1e-3)


def test_corners(reasoning):
    assert v_star(reasoning, 0).iloc[0][["v_star", "corner"]].tolist() == [1.0, "smallest"]
    assert numeric_v_star(reasoning, Cost(question_tokens=0), tokens=(1, 576)) == pytest.approx(1)
    ocr = fit_cells(read_measurements("li2024_ocr").cells(), "logit")
    assert v_star(ocr, 50).iloc[0][["v_star", "corner"]].tolist() == [576.0, "largest"]
    assert numeric_v_star(ocr, Cost(question_tokens=50), tokens=(1, 576)) == pytest.approx(576)


def test_generated_tokens_act_as_question_tokens_do(reasoning):
    both = v_star(reasoning, 30, generated_tokens=20).iloc[0]
    assert both["v_star"] == v_star(reasoning, 50).iloc[0]["v_star"]
    assert Cost(30, 20).of(7, 16) == Cost(50).of(7, 16)


def test_question_pass_counts_the_tokens_of_the_question_alone(reasoning):
    def best(q, **options):
        return v_star(reasoning, q, **options).iloc[0]["v_star"]

    assert best(25, question_pass=True, pass_tokens=25) == best(50)
    assert best(43, question_pass=True) == best(50)  # as published: 7 tokens
    assert best(4, question_pass=True) == best(8)  # no question is longer than its prompt


def test_question_pass_takes_its_length_from_the_table(reasoning):
    table = read_measurements("li2024_reasoning").frame.assign(question_tokens=12.0)
    options = {"candidates": ("power",), "bootstrap_draws": 0, "question_tokens": (50,), "question_pass": True}
    found = analyse(table, LawOptions(**options))
    expected = analyse(table, LawOptions(**options, pass_tokens=12))
    assert found["fits"][0]["v_star"] == expected["fits"][0]["v_star"]
    assert found["fits"][0]["v_star"] != analyse(table, LawOptions(**options, pass_tokens=7))["fits"][0]["v_star"]
    assert found["provenance"]["options"]["pass_tokens"] == 12


def test_constant_vision_cost_does_not_move_v_star(reasoning):
    """It only shifts the budget: the LLM's share of it decides."""
    llm, whole = Cost(50), Cost(50, vision_flops=366e9)
    budget = middling_budget(reasoning, llm)
    assert numeric_v_star(reasoning, llm, budget=budget) == numeric_v_star(reasoning, whole, budget=budget)
    assert whole.of(7, 16) - llm.of(7, 16) == pytest.approx(366e9)


def test_v_star_of_a_law_without_rho_is_numerical():
    fit = fit_cells(read_measurements("li2024_reasoning").cells(), "logit_interaction")
    row = v_star(fit, 50).iloc[0]
    assert 5 < row["v_star"] < 40
    assert np.isnan(row["lower"])


@pytest.mark.parametrize("tolerance", [0.001, 0.005, 0.02])
def test_flat_region_is_what_exhaustive_search_finds(reasoning, tolerance):
    cost = Cost(50)
    budget = middling_budget(reasoning, cost)
    v = np.arange(1, 577)
    error = reasoning.predict(budget / (2 * BILLION * (50 + v)), v)
    best = reasoning.predict(budget / (2 * BILLION * (50 + 50 / (reasoning.rho - 1))), 50 / (reasoning.rho - 1))
    inside = v[error <= best * (1 + tolerance)]
    assert flat_region(reasoning, cost, tolerance=tolerance) == (inside[0], inside[-1])


def test_a_flat_region_without_a_whole_v_is_the_best_whole_v(reasoning):
    cost = Cost(9)
    budget = middling_budget(reasoning, cost)
    best = numeric_v_star(reasoning, cost, budget=budget)
    neighbours = np.array([np.floor(best), np.ceil(best)])
    error = reasoning.predict(budget / (2 * BILLION * (9 + neighbours)), neighbours)
    whole = neighbours[np.argmin(error)]
    assert neighbours[0] < best < neighbours[1]
    assert flat_region(reasoning, cost, tolerance=1e-9) == (whole, whole)


@pytest.mark.parametrize("q", [0, 50, 400])
def test_frontier_is_what_exhaustive_search_finds(reasoning, q):
    cost = Cost(q)
    table = frontier(reasoning, cost=cost)
    for row in table.itertuples():
        cells = [(reasoning.predict(n, v), n, v) for n in (0.5, 1.8, 4, 7) for v in (1, 4, 16, 36, 64, 144, 576)]
        error, n, v = min(cell for cell in cells if cost.of(cell[1], cell[2]) <= row.budget * (1 + 1e-12))
        assert (n, v) == (row.N, row.V)
        assert row.error == pytest.approx(float(error))
    assert table["error"].is_monotonic_decreasing
    assert (table["lower"] < table["error"]).all()
    assert (table["cost"] <= table["budget"] * (1 + 1e-12)).all()


def test_past_the_largest_size_the_best_token_count_rises_again(reasoning):
    table = frontier(reasoning, cost=Cost(50))
    capped = table[table["capped"]]
    assert capped["V"].is_monotonic_increasing
    assert capped["V"].iloc[-1] == 576
    assert table[~table["capped"]]["V"].max() < 144


def test_budget_below_the_cheapest_cell_buys_nothing(reasoning):
    table = frontier(reasoning, budgets=[1.0, 1e12])
    assert table["N"].isna().tolist() == [True, False]
    assert table["flat"].tolist()[0] == []
    with pytest.raises(UserError, match="no cell costs 1 FLOPs or less"):
        recommend(reasoning, flops=1.0)


def test_a_refused_budget_is_told_with_digits_that_differ_from_the_cheapest_cell(reasoning):
    least = candidate_cells(reasoning, cost=Cost(question_tokens=50))["cost"].min()
    with pytest.raises(UserError, match="or less; the cheapest costs ") as caught:
        recommend(reasoning, flops=0.9999 * least)
    budget, cheapest = (float(x) for x in re.findall(r"costs ([\d.e+]+)", str(caught.value)))
    assert budget < cheapest == pytest.approx(least, rel=1e-5)


def test_draws_give_the_range_of_the_choice(reasoning):
    table = frontier(reasoning, budgets=[1e12], draws=residual_bootstrap(reasoning, n_draws=500))
    row = table.iloc[0]
    assert row["v_lower"] <= row["V"] <= row["v_upper"]
    assert {row["v_lower"], row["v_upper"]} <= {1, 4, 16, 36, 64, 144, 576}


def test_sizes_and_tokens_of_ones_own(reasoning):
    row = frontier(reasoning, sizes=[3, 14], tokens=[8, 32], budgets=[3e12]).iloc[0]
    assert (row["N"], row["V"]) == (14, 32)


def test_recommendation_lists_what_else_is_as_good(reasoning):
    chosen = recommend(reasoning, flops=1e12, question_tokens=50, tolerance=0.03)
    assert (chosen.n, chosen.v) == (7, 16)
    assert chosen.flat == (4, 16, 64)
    assert chosen.alternatives["regret"].min() == 0
    assert chosen.error_lower < chosen.error < chosen.error_upper


def test_recommendation_warns_outside_what_was_measured(reasoning):
    chosen = recommend(reasoning, flops=1e14, sizes=[70], tokens=[16])
    assert any("N = 70 B lies outside what was measured (0.5 B to 7 B)" in warning for warning in chosen.warnings)
    assert any("dearest cell" in warning for warning in chosen.warnings)


@pytest.mark.parametrize("flops", [0, -1, float("nan")])
def test_impossible_budget_is_refused(reasoning, flops):
    with pytest.raises(UserError, match="the budget is"):
        recommend(reasoning, flops=flops)


def test_regret_is_zero_for_the_best_choice_and_positive_for_others(reasoning):
    assert regret(reasoning, 7, 16)["relative"] == 0
    worse = regret(reasoning, 0.5, 576)
    assert worse["relative"] > 0.09
    assert (worse["best_n"], worse["best_v"]) == (4, 16)
    assert worse["absolute"] == pytest.approx(worse["error"] - worse["best_error"])


def test_regret_beyond_the_budget_is_refused(reasoning):
    with pytest.raises(UserError, match="above the budget"):
        regret(reasoning, 7, 576, budget=1e11)


def test_measured_column_as_cost(grid_frame):
    table = as_measurements(grid_frame.assign(latency_ms=10 * grid_frame["N"] + grid_frame["V"]))
    cost = ColumnCost.from_table(table, "latency_ms", unit="ms")
    fit = fit_cells(table.cells(), "logit")
    row = frontier(fit, cost=cost, budgets=[60.0]).iloc[0]
    assert (row["N"], row["V"], row["cost"]) == (4, 16, 56)
    with pytest.raises(UserError, match="not known for N = 3"):
        regret(fit, 3, 16, cost=cost)
    with pytest.raises(UserError, match="known in none"):
        frontier(fit, sizes=[3], tokens=[5], cost=cost)


def test_cost_column_must_be_a_positive_number_everywhere(grid_frame):
    table = as_measurements(grid_frame.assign(price=0.0))
    with pytest.raises(UserError, match="'price' is not a number above 0"):
        ColumnCost.from_table(table, "price")
    with pytest.raises(UserError, match="no column 'joules'"):
        ColumnCost.from_table(table, "joules")


def test_compressor_flops_enter_the_cost():
    cost = Cost(50, question_pass=True, compressor_flops=lambda n, v: 1e9 * v + 0 * n)
    assert cost.of(1, 16) == pytest.approx(2e9 * (50 + 7 + 16) + 16e9)
    assert cost.name == "2N(Q+V) + 2Nq, q = 7 + compressor"


@pytest.mark.parametrize("field", ["question_tokens", "generated_tokens", "vision_flops"])
def test_cost_refuses_negative_numbers(field):
    with pytest.raises(UserError, match=field):
        Cost(**{field: -1.0})


def test_cost_models_are_immutable():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Cost(50).question_tokens = 3


def test_what_changes_when_the_question_or_the_answer_grows(reasoning):
    table = sensitivity(reasoning, flops=5e11, question_tokens=[0, 50, 200], generated_tokens=[0, 100])
    assert len(table) == 6
    same_total = table[table["question_tokens"] + table["generated_tokens"] == 100]
    assert len(same_total) == 1
    by_q = table[table["generated_tokens"] == 0]
    assert by_q["error"].is_monotonic_increasing
    assert by_q["V"].iloc[0] < by_q["V"].iloc[-1]


def test_law_where_tokens_do_harm_takes_the_fewest():
    fit = fit_cells(make_cells("logit", {"c0": 0.1, "a": 0.2, "b": -0.05}), "logit")
    row = v_star(fit, 50).iloc[0]
    assert (row["v_star"], row["corner"]) == (1, "smallest")


def test_law_where_size_does_harm_takes_the_most_tokens():
    fit = fit_cells(make_cells("logit", {"c0": 0.1, "a": -0.1, "b": 0.1}), "logit")
    assert v_star(fit, 50).iloc[0]["corner"] == "largest"


def test_frontier_is_a_plain_table(reasoning):
    assert isinstance(frontier(reasoning), pd.DataFrame)
