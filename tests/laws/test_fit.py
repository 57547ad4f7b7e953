"""Fitting: recovery of a known truth by every law, refusals, agreement with scipy and statsmodels, JSON."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from vlmlaw.errors import UserError
from vlmlaw.laws import LawFit, fit_law, read_measurements
from vlmlaw.laws.cells import Cells, format_size
from vlmlaw.laws.families import LAWS, find_law
from vlmlaw.laws.fit import LintWarning, fit_cells
from vlmlaw.laws.solver import solve
from vlmlaw.laws.table import as_measurements

from .conftest import SIZES, TOKENS, make_cells

TRUTH = {
    "logit": {"c0": -0.4, "a": 0.15, "b": 0.05},
    "probit": {"c0": -0.2, "a": 0.10, "b": 0.03},
    "cloglog": {"c0": -0.6, "a": 0.12, "b": 0.04},
    "loglog": {"c0": 0.1, "a": 0.11, "b": 0.04},
    "log_linear": {"c0": 0.4, "a": 0.04, "b": 0.01},
    "accuracy_power": {"c0": -0.9, "a": 0.08, "b": 0.02},
    "power": {"A": 0.5, "alpha": 0.3, "beta": 0.1, "D": 0.1},
    "power_d0": {"A": 0.6, "alpha": 0.07, "beta": 0.02},
    "power_free": {"A": -0.4, "alpha": -0.08, "beta": -0.03, "D": 1.1},
    "additive": {"A": 0.3, "alpha": 0.4, "B": 0.3, "beta": 0.3, "D": 0.05},
    "additive_interaction": {"A": 0.2, "alpha": 0.5, "B": 0.2, "beta": 0.4, "C": 0.2, "D": 0.05},
    "logit_interaction": {"c0": -0.4, "a": 0.15, "b": 0.05, "g": 0.02},
    "logit_peak": {"c0": -0.4, "a": 0.15, "b": 0.15, "q": 0.02},
    "power_interaction": {"A": 0.6, "alpha": 0.07, "beta": 0.02, "g": 0.01},
}


def test_every_law_has_a_truth_to_recover():
    assert set(TRUTH) == set(LAWS)


@pytest.mark.parametrize("law", TRUTH)
def test_exact_data_give_the_truth(law):
    fit = fit_cells(make_cells(law, TRUTH[law]), law)
    assert fit.params == pytest.approx(TRUTH[law], rel=2e-3, abs=1e-4)
    assert fit.sse < 1e-10


@pytest.mark.parametrize("law", [name for name in TRUTH if LAWS[name].exponents])
def test_rho_is_recovered_within_its_error_over_many_seeds(law):
    truth = TRUTH[law][LAWS[law].exponents[0]] / TRUTH[law][LAWS[law].exponents[1]]
    z = []
    for seed in range(30):
        fit = fit_cells(make_cells(law, TRUTH[law], noise=0.002, seed=seed), law)
        z.append((fit.rho - truth) / fit.rho_se)
    assert abs(np.mean(z)) < 0.6
    assert np.mean(np.abs(z) < 2.1) > 0.8


@pytest.mark.parametrize("law", ["additive", "additive_interaction", "logit_interaction", "power_interaction"])
def test_laws_without_rho_predict_the_truth_over_many_seeds(law):
    exact = make_cells(law, TRUTH[law])
    for seed in range(8):
        fit = fit_cells(make_cells(law, TRUTH[law], noise=0.002, seed=seed), law)
        assert np.sqrt(np.mean((fit.predict(exact.n, exact.v) - exact.error) ** 2)) < 0.002
        with pytest.raises(UserError, match="no single rho"):
            _ = fit.rho


# --------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (Cells.of([1, 2, 4], [1, 4, 1], [0.5, 0.4, 0.3]), "too few cells: 3 for 3 parameters"),
        (Cells.of([1] * 6, [1, 2, 4, 8, 16, 32], np.linspace(0.6, 0.4, 6)), "same size, N = 1"),
        (Cells.of([1, 2, 3, 4, 5, 6], [4] * 6, np.linspace(0.6, 0.4, 6)), "same visual-token count, V = 4"),
        (Cells.of([1, 2, 4, 8, 16], [16, 8, 4, 2, 1], np.linspace(0.6, 0.4, 5)), "perfectly collinear"),
        (make_cells("log_linear", {"c0": 0.5, "a": 0.0, "b": 0.0}), "every cell has the same error, 0.5"),
        (Cells.of([1, 1, 2, 2] * 3, [1, 4, 1, 1] * 3, np.linspace(0.6, 0.4, 12)), None),
    ],
)
def test_what_carries_no_law_is_refused(cells, message):
    if message is None:
        assert fit_cells(cells, "logit").n_cells == 12
        return
    for law in LAWS:
        with pytest.raises(UserError, match="too few cells" if len(cells) < 4 else f"{message}|too few cells|distinct"):
            fit_cells(cells, law)
    with pytest.raises(UserError, match=message):
        fit_cells(cells, "logit")


def test_replicates_of_too_few_cells_are_refused():
    cells = Cells.of([1, 1, 2, 2] * 4, [1, 4, 1, 4] * 4, np.random.default_rng(0).uniform(0.3, 0.6, 16))
    with pytest.raises(UserError, match="4 distinct \\(N, V\\) cells cannot fix 5 parameters"):
        fit_cells(cells, "additive")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (([1, 2], [1], [0.5, 0.4]), "differ in length"),
        (([1, np.nan], [1, 2], [0.5, 0.4]), "N of row 1 is nan"),
        (([1, 2], [1, 0], [0.5, 0.4]), "V of row 1 is 0"),
        (([1, 2], [1, 2], [0.5, np.inf]), "error of row 1 is inf"),
        (([1, 2], [1, 2], [0.5, 0.4], [1, -1]), "weight of row 1 is -1"),
    ],
)
def test_cells_check_their_values(columns, message):
    with pytest.raises(UserError, match=message):
        Cells.of(*columns)


def test_unknown_law_and_loss_name_the_known_ones():
    cells = make_cells("logit", TRUTH["logit"], noise=0.01)
    with pytest.raises(UserError, match="law 'newton' is unknown; the laws are logit, probit"):
        fit_cells(cells, "newton")
    with pytest.raises(UserError, match="loss 'cubic' is unknown"):
        fit_cells(cells, "logit", loss="cubic")


def test_fit_law_refuses_what_the_linter_rejects_and_passes_on_its_doubts(grid_frame):
    holed = as_measurements(grid_frame.drop(index=3))
    stated = replace(holed, expected=tuple(zip(grid_frame["N"], grid_frame["V"], strict=True)))
    with pytest.raises(UserError, match="missing-cells"):
        fit_law(stated)
    with pytest.warns(LintWarning, match="missing-cells"):
        fit_law(stated, allow_missing=True)
    with pytest.warns(LintWarning, match="missing-cells"):
        fit_law(holed)
    with pytest.warns(LintWarning) as caught:
        fit_law(read_measurements("li2024_ocr"), "logit")
    assert [str(w.message).split("]")[0] for w in caught] == ["warning [equal-values", *["warning [noted"] * 2]


def test_fit_law_takes_one_suite_at_a_time(grid_frame):
    both = pd.concat([grid_frame.assign(suite="a"), grid_frame.assign(suite="b")], ignore_index=True)
    with pytest.raises(UserError, match="several suites or kinds: a/all, b/all"):
        fit_law(both)


# --------------------------------------------------------------------------- against other libraries


@pytest.mark.parametrize("law", TRUTH)
def test_gradient_agrees_with_finite_differences(law):
    known = LAWS[law]
    theta = known.to_working(np.array([TRUTH[law][p.name] for p in known.parameters]))
    n, v = np.log(np.repeat(SIZES, 6)), np.log(np.tile(TOKENS, 5))
    _, gradient = known.evaluate(theta[:, None, None], n, v)
    for k in range(len(theta)):
        step = np.zeros_like(theta)
        step[k] = 1e-6
        up, down = (known.evaluate((theta + s)[:, None, None], n, v)[0][0] for s in (step, -step))
        assert gradient[k, 0] == pytest.approx((up - down) / 2e-6, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("law", ["logit", "power", "additive", "power_interaction"])
def test_solver_agrees_with_scipy(law):
    from scipy.optimize import least_squares

    cells = make_cells(law, TRUTH[law], noise=0.004, seed=3)
    fit = fit_cells(cells, law)
    lower, upper = fit.law.bounds(cells)
    inside = np.clip(fit.theta, lower + 1e-3, np.maximum(upper - 1e-3, lower + 2e-3))
    other = least_squares(
        lambda theta: fit.law.evaluate(theta[:, None, None], cells.ln_n, cells.ln_v)[0][0] - cells.error,
        inside,
        bounds=(lower, np.maximum(upper, lower + 1e-9)),
        xtol=1e-14,
        ftol=1e-14,
        gtol=1e-14,
    )
    assert fit.sse <= 2 * other.cost * (1 + 1e-9)


@pytest.mark.parametrize("law", ["logit", "cloglog", "accuracy_power", "power", "power_free", "additive"])
def test_no_random_start_of_scipy_finds_a_better_optimum(law):
    from scipy.optimize import least_squares

    rng = np.random.default_rng(5)
    known = LAWS[law]
    for seed in range(3):
        cells = make_cells("logit", TRUTH["logit"] | {"b": 0.2}, noise=0.02, seed=seed)
        lower, upper = known.bounds(cells)
        low, high = (np.clip(ends, -3, 3) for ends in (lower, upper))
        for _ in range(4):
            other = least_squares(
                lambda theta, cells=cells: (
                    known.evaluate(theta[:, None, None], cells.ln_n, cells.ln_v)[0][0] - cells.error
                ),
                rng.uniform(low, np.maximum(high, low + 1e-6)),
                bounds=(lower - 1e-9, np.maximum(upper, lower) + 1e-6),
                max_nfev=200,
            )
            assert fit_cells(cells, law).sse <= 2 * other.cost * (1 + 1e-4)


def test_batched_solver_keeps_problems_apart():
    law, cells = LAWS["logit"], make_cells("logit", TRUTH["logit"], noise=0.01)
    targets = np.stack([cells.error, cells.error**1.1])
    start = np.array([[0.0, 0.1, 0.1], [0.0, 0.1, 0.1]])

    def model(theta):
        return law.evaluate(theta, cells.ln_n, cells.ln_v)

    both = solve(model, targets, start=start, weight=cells.weight)
    for i in range(2):
        alone = solve(model, targets[i], start=start[:1], weight=cells.weight)
        assert both.theta[i] == pytest.approx(alone.theta[0], abs=1e-8)
    assert both.converged.all()


def test_solver_reports_what_does_not_converge():
    law, cells = LAWS["logit"], make_cells("logit", TRUTH["logit"], noise=0.01)
    found = solve(
        lambda theta: law.evaluate(theta, cells.ln_n, cells.ln_v),
        cells.error,
        start=np.array([[5.0, 2.0, -2.0]]),
        weight=cells.weight,
        max_steps=1,
    )
    assert not found.converged.any()


def test_log_linear_agrees_with_statsmodels_ols():
    import statsmodels.api as sm

    cells = make_cells("log_linear", TRUTH["log_linear"], noise=0.01)
    design = sm.add_constant(np.column_stack([cells.ln_n, cells.ln_v]))
    ols = sm.OLS(1 - cells.error, design).fit()
    summary = fit_cells(cells, "log_linear").summary()
    assert summary["estimate"].to_numpy() == pytest.approx(ols.params, abs=1e-10)
    assert summary["se"].to_numpy() == pytest.approx(ols.bse, rel=1e-8)
    assert summary[["lower", "upper"]].to_numpy() == pytest.approx(ols.conf_int(), abs=1e-8)


def test_weights_agree_with_statsmodels_wls():
    import statsmodels.api as sm

    cells = make_cells("log_linear", TRUTH["log_linear"], noise=0.01)
    weight = np.random.default_rng(0).uniform(0.2, 3, len(cells))
    design = sm.add_constant(np.column_stack([cells.ln_n, cells.ln_v]))
    wls = sm.WLS(1 - cells.error, design, weights=weight).fit()
    summary = fit_cells(Cells.of(cells.n, cells.v, cells.error, weight), "log_linear").summary()
    assert summary["estimate"].to_numpy() == pytest.approx(wls.params, abs=1e-10)
    assert summary["se"].to_numpy() == pytest.approx(wls.bse, rel=1e-8)


@pytest.mark.filterwarnings("ignore:The Logit link function")
def test_logit_agrees_with_statsmodels_glm():
    import statsmodels.api as sm

    cells = make_cells("logit", TRUTH["logit"], noise=0.01)
    design = sm.add_constant(np.column_stack([cells.ln_n, cells.ln_v]))
    family = sm.families.Gaussian(sm.families.links.Logit(), check_link=False)
    glm = sm.GLM(1 - cells.error, design, family=family).fit(tol=1e-12, maxiter=200)
    summary = fit_cells(cells, "logit").summary()
    assert summary["estimate"].to_numpy() == pytest.approx(glm.params, abs=1e-7)
    assert summary["se"].to_numpy() == pytest.approx(glm.bse, rel=1e-4)


def test_huber_agrees_with_statsmodels_rlm_and_resists_an_outlier():
    import statsmodels.api as sm

    cells = make_cells("log_linear", TRUTH["log_linear"], noise=0.003)
    error = cells.error.copy()
    error[7] += 0.2
    spoilt = Cells.of(cells.n, cells.v, error)
    design = sm.add_constant(np.column_stack([cells.ln_n, cells.ln_v]))
    rlm = sm.RLM(1 - error, design, M=sm.robust.norms.HuberT()).fit(
        scale_est=sm.robust.scale.mad, tol=1e-12, maxiter=500
    )
    robust = fit_cells(spoilt, "log_linear", loss="huber")
    assert robust.summary()["estimate"].to_numpy() == pytest.approx(rlm.params, abs=2e-4)
    assert robust.summary()["se"].to_numpy() == pytest.approx(rlm.bse, rel=0.1)
    truth = TRUTH["log_linear"]["a"] / TRUTH["log_linear"]["b"]
    assert abs(robust.rho - truth) < 0.5 * abs(fit_cells(spoilt, "log_linear").rho - truth)


# --------------------------------------------------------------------------- the result


@pytest.mark.parametrize("law", TRUTH)
def test_json_round_trip(law, tmp_path):
    fit = fit_cells(make_cells(law, TRUTH[law], noise=0.003), law)
    fit.to_json(tmp_path / "fit.json")
    for again in (LawFit.from_json(tmp_path / "fit.json"), LawFit.from_json(fit.to_json())):
        assert again.to_dict() == fit.to_dict()
        assert again.predict(3, 50) == fit.predict(3, 50)
        assert again.summary().equals(fit.summary())


@pytest.mark.parametrize("text", ["{}", '{"kind": "other"}', "{", "absent.json", '{"kind": "vlmlaw-fit", "law": 3}'])
def test_json_that_is_no_fit_is_refused(text):
    with pytest.raises(UserError):
        LawFit.from_json(text)


def test_json_is_strict():
    fit = fit_cells(make_cells("power", TRUTH["power"], noise=0.003), "power")
    unbounded = replace(fit, covariance=np.full_like(fit.covariance, np.inf))
    with pytest.raises(ValueError, match="not JSON compliant"):
        unbounded.to_json()
    assert json.loads(fit.to_json(), parse_constant=lambda name: pytest.fail(f"JSON holds {name}")) == fit.to_dict()


def test_prediction_interval_holds_new_measurements():
    fit = fit_cells(make_cells("logit", TRUTH["logit"], noise=0.01, copies=20), "logit")
    band = fit.predict_interval(fit.cells.n, fit.cells.v)
    inside = (fit.cells.error > band["lower"]) & (fit.cells.error < band["upper"])
    assert 0.92 < inside.mean() < 0.98
    mean = fit.predict_interval(fit.cells.n, fit.cells.v, new_measurement=False)
    assert (mean["se"] < band["se"]).all()


def test_interval_of_an_error_rate_ends_at_0_and_1():
    cells = make_cells("logit", TRUTH["logit"], noise=0.3, seed=1)
    rates = replace(cells, error=np.clip(cells.error, 0.0, 1.0))
    band = fit_cells(rates, "logit").predict_interval(*np.meshgrid([0.01, 0.5, 100], [1, 576]))
    assert band["lower"].min() == 0 and band["upper"].max() == 1
    assert band["error"].between(band["lower"], band["upper"]).all()

    losses = fit_cells(replace(cells, error=cells.error + 2), "power")
    assert losses.predict_interval(0.01, 1)["upper"].item() > 1


def test_prediction_needs_positive_n_and_v():
    fit = fit_cells(make_cells("logit", TRUTH["logit"], noise=0.01), "logit")
    with pytest.raises(UserError, match="must be above 0"):
        fit.predict(0, 16)


def test_parameters_on_a_bound_carry_no_standard_error():
    fit = fit_cells(read_measurements("li2024_reasoning").cells(), "power")
    row = fit.summary().loc["D"]
    assert row["at_bound"]
    assert np.isnan(row["se"])
    assert fit.degrees_of_freedom == 25


def test_a_law_of_ones_own_is_a_few_lines():
    from vlmlaw.laws.families.law import Law
    from vlmlaw.laws.families.links import IndexLaw

    class Cauchit(IndexLaw):
        """Heavier tails than logit."""

        name, formula, source = "cauchit", "cauchit(1 - error) = c0 + a ln N + b ln V", "Morgan and Smith 1992"

        def score(self, eta):
            return 0.5 + np.arctan(eta) / np.pi, 1 / (np.pi * (1 + eta**2))

        def link(self, score):
            return np.tan(np.pi * (score - 0.5))

    assert isinstance(find_law(Cauchit()), Law)
    fit = fit_cells(read_measurements("li2024_reasoning").cells(), Cauchit())
    assert fit.rho == pytest.approx(4.72, abs=0.05)


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({"c0": -0.4, "a": 0.15, "b": 0.05}, "Size matters more than tokens"),
        ({"c0": -0.4, "a": 0.05, "b": 0.15}, "Tokens matter more than size"),
        ({"c0": -0.4, "a": 0.05, "b": 0.05}, "do not settle whether size or tokens"),
        ({"c0": -0.4, "a": 0.15, "b": -0.05}, "More visual tokens do not lower the error"),
        ({"c0": -0.4, "a": -0.05, "b": 0.15}, "in these cells larger models do not lower the error"),
        ({"c0": -0.4, "a": -0.05, "b": -0.05}, "nothing to trade off"),
    ],
)
def test_verdict_in_plain_words(params, sentence):
    assert sentence in fit_cells(make_cells("logit", params, noise=0.002), "logit").verdict()[0]


def test_verdict_names_what_is_odd_about_the_fit():
    measured = read_measurements("li2024_reasoning").cells()
    assert any("D ended on its bound" in sentence for sentence in fit_cells(measured, "power").verdict())
    assert any("unphysical" in sentence for sentence in fit_cells(measured, "power_free").verdict())
    assert any("4 sizes are few" in sentence for sentence in fit_cells(measured, "logit").verdict())


def test_rho_at_a_cell_is_rho_where_there_is_one():
    fit = fit_cells(make_cells("logit", TRUTH["logit"], noise=0.003), "logit")
    assert fit.rho_at(3.0, 20.0) == pytest.approx(fit.rho, rel=1e-5)


@pytest.mark.parametrize(
    ("n", "text"),
    [(7, "7 B"), (0.5, "0.5 B"), (0.0999, "99.9 M"), (0.000494, "494 k"), (70e-6, "70 k"), (14.2, "14.2 B")],
)
def test_sizes_are_written_as_people_write_them(n, text):
    assert format_size(n) == text
