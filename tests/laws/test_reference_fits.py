"""The published cells and what an independent refit of them found: least squares on 1 - score, N in billions."""

import numpy as np
import pytest

from vlmlaw.laws import read_measurements
from vlmlaw.laws.bootstrap import size_bootstrap
from vlmlaw.laws.cells import Cells
from vlmlaw.laws.fit import fit_cells
from vlmlaw.laws.holdout import hold_out
from vlmlaw.laws.intervals import d_profile, rho_interval
from vlmlaw.laws.optimum import v_star
from vlmlaw.laws.selection import left_out_error


def cells_of(table: str) -> Cells:
    """A published table; `ocr27` leaves out its suspect 7 B, 576 row."""
    measured = read_measurements({"reasoning": "li2024_reasoning"}.get(table, "li2024_ocr")).cells()
    suspect = (measured.n == 7) & (measured.v == 576) & (table == "ocr27")
    return measured.take(~suspect)


REFERENCE = [
    ("reasoning", "power", 3.79379685e-4, {"A": 0.590771, "alpha": 0.0709375, "beta": 0.0151016, "D": 0.0}),
    ("ocr", "power", 5.13660761e-3, {"A": 0.917214, "alpha": 0.0282327, "beta": 0.0394119, "D": 0.0}),
    ("ocr27", "power", 4.58525781e-3, {"A": 0.915135, "alpha": 0.0270909, "beta": 0.0386190, "D": 0.0}),
    ("reasoning", "logit", 2.765060e-4, {"c0": -0.364515, "a": 0.155232, "b": 0.032923}),
    ("ocr", "logit", 1.208403e-3, {"c0": -2.155529, "a": 0.145631, "b": 0.200679}),
]


@pytest.mark.parametrize(("table", "law", "sse", "params"), REFERENCE)
def test_sum_of_squares_and_parameters(table, law, sse, params):
    fit = fit_cells(cells_of(table), law)
    assert fit.sse == pytest.approx(sse, rel=1e-6)
    assert fit.params == pytest.approx(params, abs=1e-5)
    assert fit.converged


@pytest.mark.parametrize(
    ("table", "law", "rho"),
    [("reasoning", "power", 4.69734), ("ocr", "power", 0.71635), ("reasoning", "logit", 4.71500)],
)
def test_rho(table, law, rho):
    assert fit_cells(cells_of(table), law).rho == pytest.approx(rho, abs=1e-4)


@pytest.mark.parametrize("table", ["reasoning", "ocr"])
def test_d_ends_on_its_bound_and_the_fit_says_so(table):
    assert fit_cells(cells_of(table), "power").at_bound == ("D",)


@pytest.mark.parametrize(
    ("law", "ends"), [("power_d0", (4.256, 5.223)), ("power", (4.256, 5.223)), ("logit", (4.334, 5.157))]
)
def test_profile_interval_of_rho(law, ends):
    interval = rho_interval(fit_cells(cells_of("reasoning"), law), method="profile")
    assert (interval.lower, interval.upper) == pytest.approx(ends, abs=0.002)


def test_whole_size_interval_of_rho():
    interval = size_bootstrap(fit_cells(cells_of("reasoning"), "power_d0")).rho_interval()
    assert (interval.lower, interval.upper) == pytest.approx((3.88, 5.23), abs=0.03)


def test_best_token_count_for_each_question_length():
    table = v_star(fit_cells(cells_of("reasoning"), "power"), [10, 25, 50, 100, 200])
    assert table["v_star"].to_numpy() == pytest.approx([2.70, 6.76, 13.52, 27.05, 54.09], abs=0.01)


def test_flat_region_at_fifty_question_tokens():
    row = v_star(fit_cells(cells_of("reasoning"), "power"), 50, tolerance=0.005).iloc[0]
    assert (row["flat_lower"], row["flat_upper"]) == (5, 31)


@pytest.mark.parametrize(
    ("table", "law", "mean", "largest"),
    [
        ("reasoning", "power", 0.450, 0.972),
        ("ocr", "power", 1.390, 3.390),
        ("reasoning", "logit", 0.571, 0.990),
        ("ocr", "logit", 1.297, 2.766),
    ],
)
def test_held_out_largest_size(table, law, mean, largest):
    held = hold_out(cells_of(table), law)
    assert held.what == "size 7 B"
    assert held.mean_relative_error * 100 == pytest.approx(mean, abs=0.01)
    assert held.max_relative_error * 100 == pytest.approx(largest, abs=0.01)


@pytest.mark.parametrize(("table", "gain"), [("reasoning", 8.9), ("ocr", 40.5)])
def test_logit_beats_the_papers_form(table, gain):
    cells = cells_of(table)
    assert fit_cells(cells, "power_d0").aicc - fit_cells(cells, "logit").aicc == pytest.approx(gain, abs=0.05)


def test_alpha_follows_d_and_rho_does_not():
    profile = d_profile(fit_cells(cells_of("reasoning"), "logit"), [-5, -1, 0, 0.2, 0.35])
    assert profile["alpha"].iloc[[0, -1]].to_numpy() == pytest.approx([0.007, 0.200], abs=0.001)
    assert profile["rho"].between(4.695, 4.775).all()
    assert profile["sse"].is_monotonic_increasing


@pytest.mark.parametrize(("table", "loss"), [("reasoning", 41.5), ("ocr", 27)])
def test_tokens_of_the_law_are_the_visual_ones_alone(table, loss):
    cells = cells_of(table)
    with_question = Cells.of(cells.n, cells.v + 50, cells.error)
    assert fit_cells(with_question, "power_d0").aicc - fit_cells(cells, "power_d0").aicc >= loss


def test_additive_law_extrapolates_badly_on_ocr():
    errors = [left_out_error(fit_cells(cells_of("ocr"), law), by="size") for law in ("additive", "logit")]
    assert errors[0] > 0.1
    assert errors[1] < 0.01


def test_with_d_free_the_optimum_is_unphysical():
    fit = fit_cells(cells_of("reasoning"), "power_free")
    assert fit.params["D"] > 1
    assert fit.params["alpha"] < 0
    assert fit.sse < fit_cells(cells_of("reasoning"), "power").sse
    assert fit.rho == pytest.approx(4.72, abs=0.03)


def test_residuals_and_r_squared_belong_to_the_same_fit():
    fit = fit_cells(cells_of("reasoning"), "logit")
    assert np.sum(fit.residuals**2) == pytest.approx(fit.sse, rel=1e-12)
    assert 0.99 < fit.r_squared < 1
