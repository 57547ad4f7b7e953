"""Intervals of rho and V*: agreement between methods, ends that the data do not bound, profiles."""

import numpy as np
import pytest

from vlmlaw.errors import UserError
from vlmlaw.laws import read_measurements
from vlmlaw.laws.bootstrap import residual_bootstrap, size_bootstrap, size_resamples, step_quantile, weighted_quantile
from vlmlaw.laws.cells import Cells
from vlmlaw.laws.fit import fit_cells
from vlmlaw.laws.intervals import (
    Interval,
    d_profile,
    fieller,
    profile,
    rho_interval,
    rho_profile,
    v_star_interval,
    v_star_of_rho,
)
from vlmlaw.laws.mixed import size_effects

from .conftest import make_cells

LOGIT = {"c0": -0.4, "a": 0.15, "b": 0.05}


@pytest.fixture(scope="module")
def reasoning():
    return fit_cells(read_measurements("li2024_reasoning").cells(), "logit")


def test_profile_is_exact_for_a_linear_law():
    """For a law linear in its parameters Fieller's interval and the F profile are the same set."""
    fit = fit_cells(make_cells("log_linear", {"c0": 0.4, "a": 0.04, "b": 0.01}, noise=0.02, seed=5), "log_linear")
    ends = fieller(fit)
    assert (profile(fit).lower, profile(fit).upper) == pytest.approx((ends.lower, ends.upper), rel=1e-6)


def test_sum_of_squares_at_the_ends_is_the_threshold(reasoning):
    from scipy.optimize import least_squares
    from scipy.special import expit
    from scipy.stats import f

    interval, cells = profile(reasoning, level=0.9), reasoning.cells
    for rho in (interval.lower, interval.upper):
        index = rho * cells.ln_n + cells.ln_v
        found = least_squares(lambda x, index=index: 1 - expit(x[0] + x[1] * index) - cells.error, [-0.3, 0.03])
        assert 2 * found.cost == pytest.approx(reasoning.sse * (1 + f.ppf(0.9, 1, 25) / 25), rel=1e-6)


def test_wider_level_holds_narrower(reasoning):
    narrow, wide = (rho_interval(reasoning, level=level) for level in (0.8, 0.99))
    assert wide.lower < narrow.lower < reasoning.rho < narrow.upper < wide.upper


def test_methods_agree_where_there_is_much_data():
    fit = fit_cells(make_cells("logit", LOGIT, noise=0.004, copies=30), "logit")
    ends = [rho_interval(fit, method=method) for method in ("integrated", "profile", "fieller", "delta")]
    assert [i.lower for i in ends[1:]] == pytest.approx([ends[1].lower] * 3, rel=0.01)
    assert [i.upper for i in ends[1:]] == pytest.approx([ends[1].upper] * 3, rel=0.01)
    assert ends[0].lower == pytest.approx(ends[1].lower, rel=0.04)  # hardly wider where sizes share no noise


@pytest.mark.parametrize("method", ["integrated", "profile", "fieller"])
def test_rho_has_no_upper_end_where_tokens_may_do_nothing(method):
    fit = fit_cells(make_cells("logit", LOGIT | {"b": 0.002}, noise=0.03), "logit")
    interval = rho_interval(fit, method=method)
    assert interval.upper == np.inf
    assert not interval.bounded
    assert interval.to_dict()["upper"] is None


@pytest.mark.parametrize("method", ["integrated", "profile", "fieller"])
def test_rho_is_not_bounded_at_all_where_nothing_matters(method):
    noise = make_cells("log_linear", {"c0": 0.5, "a": 0.0, "b": 0.0}, noise=0.02, seed=2)
    interval = rho_interval(fit_cells(noise, "logit"), method=method)
    assert (interval.lower, interval.upper) == (-np.inf, np.inf)
    assert str(interval).endswith("[-∞, ∞]")


def test_unknown_method_is_refused(reasoning):
    with pytest.raises(UserError, match="interval method 'guess'"):
        rho_interval(reasoning, method="guess")


@pytest.mark.parametrize(("rho", "expected"), [(3.0, 25.0), (1.0, np.inf), (0.5, np.inf), (np.inf, 0.0)])
def test_v_star_of_rho(rho, expected):
    assert v_star_of_rho(rho, 50) == expected


def test_interval_of_v_star_turns_rho_around(reasoning):
    rho, best = rho_interval(reasoning), v_star_interval(reasoning, 50)
    assert best.lower == pytest.approx(50 / (rho.upper - 1))
    assert best.upper == pytest.approx(50 / (rho.lower - 1))
    assert best.lower < best.estimate < best.upper


def test_profile_of_rho_is_lowest_at_the_estimate(reasoning):
    table = rho_profile(reasoning)
    assert table["rho"][table["sse"].idxmin()] == pytest.approx(reasoning.rho, abs=0.03)
    assert table["f"].min() == pytest.approx(0, abs=0.05)
    assert table["f"].iloc[[0, -1]].min() > 10


def test_profile_of_d_refuses_values_above_the_least_error(reasoning):
    with pytest.raises(UserError, match="not below the least error"):
        d_profile(reasoning, [0.9])


# --------------------------------------------------------------------------- bootstrap


@pytest.mark.parametrize("resample", [residual_bootstrap, size_bootstrap])
def test_bootstrap_is_reproducible_by_seed(reasoning, resample):
    first, again = (resample(reasoning, n_draws=200, seed=7) for _ in range(2))
    assert np.array_equal(first.theta, again.theta)
    assert first.rho_interval() == again.rho_interval()


def test_another_seed_gives_other_draws_and_much_the_same_interval(reasoning):
    one, two = (residual_bootstrap(reasoning, n_draws=2000, seed=seed) for seed in (1, 2))
    assert not np.array_equal(one.theta, two.theta)
    assert one.rho_interval().lower == pytest.approx(two.rho_interval().lower, abs=0.05)


def test_residual_bootstrap_agrees_with_the_profile(reasoning):
    drawn, exact = residual_bootstrap(reasoning, n_draws=4000).rho_interval(), profile(reasoning)
    assert (drawn.lower, drawn.upper) == pytest.approx((exact.lower, exact.upper), abs=0.06)


def test_few_sizes_are_enumerated_with_their_probabilities():
    counts, probability = size_resamples(4, n_draws=1000, seed=0)
    assert counts.shape == (35, 4)
    assert (counts.sum(axis=1) == 4).all()
    assert probability.sum() == pytest.approx(1)
    assert probability[(counts == 1).all(axis=1)] == pytest.approx([24 / 256])


def test_many_sizes_are_drawn():
    counts, probability = size_resamples(12, n_draws=500, seed=0)
    assert counts.shape == (500, 12)
    assert (counts.sum(axis=1) == 12).all()
    assert probability.sum() == pytest.approx(1)


def test_resamples_of_one_size_are_lost_and_counted(reasoning):
    assert size_bootstrap(reasoning).lost == pytest.approx(4 / 256)


@pytest.mark.parametrize("table", ["li2024_reasoning", "li2024_ocr"])
def test_rho_of_the_paper_form_holds_where_its_optimum_has_a_negative_multiplier(table):
    """error = A N^-alpha V^-beta + D falls where A, alpha and beta are all negative: the same rho as logit's."""
    cells = read_measurements(table).cells()
    fit, other = fit_cells(cells, "power_free"), rho_interval(fit_cells(cells, "logit"), method="profile")
    assert fit.params["A"] < 0 and max(fit.exponents) < 0
    assert (profile(fit).lower > 1) == (other.estimate > 1) == (profile(fit).upper > 1)
    for interval in (profile(fit), residual_bootstrap(fit).rho_interval()):  # Fieller's bounds nothing here
        assert interval.estimate == pytest.approx(fit.rho)
        assert (interval.lower, interval.upper) == pytest.approx((other.lower, other.upper), rel=0.06)


def test_where_tokens_do_harm_rho_is_infinite_by_every_method():
    harm = fit_cells(make_cells("logit", LOGIT | {"b": -0.02}, noise=0.003), "logit")
    assert harm.exponents[1] < 0 and harm.rho == float("inf")
    for interval in (profile(harm), fieller(harm), residual_bootstrap(harm).rho_interval()):
        assert interval.estimate == interval.upper == float("inf")
        assert interval.to_dict()["estimate"] is None


@pytest.mark.parametrize(
    ("lower", "upper", "infinite"),
    [(np.inf, np.inf, 1), (-np.inf, -np.inf, -1), (-np.inf, np.inf, 0), (2.0, np.inf, 0), (-np.inf, 0.5, 0)],
)
def test_plain_data_tell_an_infinite_rho_from_one_that_is_not_bounded(lower, upper, infinite):
    assert Interval(upper, lower, upper, level=0.95, method="profile").to_dict()["infinite"] == infinite


def test_too_few_draws_and_too_few_sizes_are_refused(reasoning):
    with pytest.raises(UserError, match="5 bootstrap draws"):
        residual_bootstrap(reasoning, n_draws=5)
    # Of two sizes one resample alone has both: the sample itself, whose interval would have no width.
    two = fit_cells(make_cells("logit", LOGIT, noise=0.003, sizes=(1, 7)), "logit")
    with pytest.raises(UserError, match="2 sizes cannot be resampled as wholes; measure three or more"):
        size_bootstrap(two)


def test_quantiles_of_weighted_values():
    values, weights = np.array([3.0, 1.0, 2.0]), np.array([1.0, 1.0, 2.0])
    assert weighted_quantile(values, weights, 0.5) == pytest.approx(2.0)
    assert weighted_quantile(values, weights, 0.0) == 1.0
    assert step_quantile(values, weights, 0.25) == 1.0
    assert step_quantile(values, weights, 0.9) == 3.0


def test_interval_prints_short():
    assert str(Interval(4.7153, 4.334, 5.1565, 0.95, "profile")) == "4.72 [4.33, 5.16]"


# --------------------------------------------------------------------------- mixed effects by size


def test_without_size_effects_the_mixed_model_finds_none():
    fit = fit_cells(make_cells("logit", LOGIT, noise=0.005, copies=3), "logit")
    found = size_effects(fit)
    assert found.between < 0.5 * found.within
    assert found.within == pytest.approx(0.005, rel=0.2)
    assert found.rho.estimate == pytest.approx(fit.rho, rel=0.02)


def test_size_effects_are_found_and_widen_the_interval():
    cells = make_cells("logit", LOGIT, noise=0.002, copies=3)
    effect = np.random.default_rng(3).normal(0, 0.02, cells.sizes.size)
    shifted = Cells.of(cells.n, cells.v, cells.error + effect[np.searchsorted(cells.sizes, cells.n)])
    fit = fit_cells(shifted, "logit")
    found = size_effects(fit)
    assert found.between > 3 * found.within
    plain = rho_interval(fit, method="profile")
    assert found.rho.upper - found.rho.lower > 2 * (plain.upper - plain.lower)
    assert found.rho.lower < 3 < found.rho.upper


def test_size_effects_need_three_sizes_and_a_rho():
    with pytest.raises(UserError, match="2 sizes"):
        size_effects(fit_cells(make_cells("logit", LOGIT, noise=0.01, sizes=(1, 7)), "logit"))
    with pytest.raises(UserError, match="no single rho"):
        size_effects(fit_cells(make_cells("logit", LOGIT, noise=0.01), "logit_interaction"))
