"""Choice among laws, averaging, lack of fit, hold-out."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from vlmlaw.errors import UserError
from vlmlaw.laws import read_measurements
from vlmlaw.laws.cells import Cells
from vlmlaw.laws.fit import fit_cells
from vlmlaw.laws.holdout import hold_out
from vlmlaw.laws.selection import compare_laws, fit_or_choose, left_out_error
from vlmlaw.laws.statistics import lack_of_fit

from .conftest import make_cells

LOGIT = {"c0": -0.4, "a": 0.3, "b": 0.15}


@pytest.fixture(scope="module")
def ocr():
    return compare_laws(read_measurements("li2024_ocr").cells())


def test_delta_and_weights_follow_aicc(ocr):
    kept = ocr.table[ocr.table["gated"].eq("")]
    assert kept["delta"].min() == 0
    assert ocr.table["weight"].sum() == pytest.approx(1)
    assert ocr.table.loc[ocr.table["gated"].ne(""), "weight"].eq(0).all()
    first, second = kept.iloc[0], kept.iloc[1]
    assert second["weight"] / first["weight"] == pytest.approx(np.exp(-second["delta"] / 2))


def test_aicc_is_the_textbook_formula(ocr):
    fit = ocr.fits["logit"]
    aic = 28 * np.log(fit.sse / 28) + 2 * 4
    assert fit.aicc == pytest.approx(aic + 2 * 4 * 5 / (28 - 4 - 1))


def test_laws_that_predict_unseen_cells_badly_are_gated_out(ocr):
    assert ocr.chosen == "logit"
    assert "unseen sizes" in ocr.table.loc["additive", "gated"]
    assert "unseen token counts" in ocr.table.loc["power", "gated"]
    assert "gated out" in ocr.why


def test_one_law_that_is_left_is_called_the_only_one(ocr):
    alone = dataclasses.replace(ocr, table=ocr.table.assign(gated=["", *["no"] * (len(ocr.table) - 1)]))
    assert alone.why.startswith(f"{ocr.table.index[0]} is the only law that predicts unseen cells well (weight ")
    assert (
        " has the least AICc of the 2 laws that"
        in dataclasses.replace(
            ocr,
            table=ocr.table.assign(
                gated=["", "", *["no"] * (len(ocr.table) - 2)], delta=[0.0, *[9.0] * (len(ocr.table) - 1)]
            ),
        ).why
    )


def test_a_gated_law_is_not_chosen_even_with_the_least_aicc():
    """A step in N that the additive law's power mimics inside the grid ruins it outside."""
    comparison = compare_laws(read_measurements("li2024_reasoning").cells(), ["additive", "power_d0"])
    assert comparison.table.loc["additive", "aicc"] > comparison.table.loc["power_d0", "aicc"] - 10
    assert comparison.chosen == "power_d0"


def test_the_true_law_is_chosen_from_much_data():
    cells = make_cells("logit", LOGIT, noise=0.003, copies=10)
    comparison = compare_laws(cells, ["logit", "log_linear", "power_d0", "accuracy_power", "cloglog"])
    assert comparison.chosen == "logit"
    assert comparison.table.loc["logit", "weight"] > 0.99


@pytest.mark.parametrize("by", ["size", "tokens"])
def test_left_out_error_is_that_of_refits(by):
    cells = read_measurements("li2024_reasoning").cells()
    for law in ("logit", "power", "additive"):
        squares = []
        labels = cells.n if by == "size" else cells.v
        for level in np.unique(labels):
            fit = fit_cells(cells.take(labels != level), law)
            rows = labels == level
            squares += list((fit.predict(cells.n[rows], cells.v[rows]) - cells.error[rows]) ** 2)
        expected = np.sqrt(np.mean(squares))
        assert left_out_error(fit_cells(cells, law), by=by) == pytest.approx(expected, rel=0.02)


def test_left_out_error_needs_three_levels():
    two = fit_cells(make_cells("logit", LOGIT, noise=0.01, sizes=(1, 7)), "logit")
    assert np.isnan(left_out_error(two, by="size"))
    assert left_out_error(two, by="tokens") > 0


def test_average_lies_among_its_laws(ocr):
    average = ocr.average()
    assert average.weights.sum() == pytest.approx(1)
    each = [fit.predict(3, 50) for fit in average.fits]
    assert min(each) <= average.predict(3, 50) <= max(each)
    rho, se = average.rho()
    assert rho == pytest.approx(0.726, abs=0.005)
    assert se >= min(fit.rho_se for fit in average.fits if fit.has_rho)


def test_average_without_rho_is_refused():
    cells = read_measurements("li2024_reasoning").cells()
    with pytest.raises(UserError, match="none of the averaged laws"):
        compare_laws(cells, ["logit_interaction"]).average().rho()


def test_laws_too_large_for_the_data_are_refused_and_the_rest_compared():
    cells = make_cells("logit", LOGIT, noise=0.01, sizes=(1, 7), tokens=(1, 16, 64))
    comparison = compare_laws(cells)
    assert "additive_interaction" in comparison.refused
    assert "too few cells" in comparison.refused["additive_interaction"]
    assert comparison.chosen in comparison.fits


def test_nothing_to_compare_is_refused():
    with pytest.raises(UserError, match="no law can be fitted: too few cells"):
        compare_laws(make_cells("logit", LOGIT, sizes=(1, 7), tokens=(1,)))


def test_compare_laws_lints_a_table(grid_frame):
    with pytest.raises(UserError, match="not-a-number"):
        compare_laws(grid_frame.assign(error=np.nan))
    assert fit_or_choose(grid_frame).has_rho in (True, False)
    assert fit_or_choose(grid_frame, "probit").law.name == "probit"


# --------------------------------------------------------------------------- lack of fit


def test_lack_of_fit_needs_replicates():
    assert np.isnan(lack_of_fit(fit_cells(make_cells("logit", LOGIT, noise=0.01), "logit")))


def test_lack_of_fit_has_uniform_p_values_under_the_true_law():
    p = [
        lack_of_fit(fit_cells(make_cells("logit", LOGIT, noise=0.01, copies=3, seed=seed), "logit"))
        for seed in range(60)
    ]
    assert 0.35 < np.mean(p) < 0.65
    assert np.mean(np.array(p) < 0.1) < 0.25


def test_lack_of_fit_finds_the_wrong_law():
    cells = make_cells("logit", LOGIT, noise=0.003, copies=3)
    assert lack_of_fit(fit_cells(cells, "power_d0")) < 1e-6


def test_lack_of_fit_agrees_with_statsmodels_anova():
    import statsmodels.formula.api as smf
    from statsmodels.stats.anova import anova_lm

    cells = make_cells("log_linear", {"c0": 0.4, "a": 0.04, "b": 0.01}, noise=0.01, copies=2)
    frame = pd.DataFrame({"y": cells.error, "x": cells.ln_n, "z": cells.ln_v})
    frame["cell"] = frame["x"].astype(str) + "/" + frame["z"].astype(str)
    table = anova_lm(smf.ols("y ~ x + z", frame).fit(), smf.ols("y ~ C(cell)", frame).fit())
    assert lack_of_fit(fit_cells(cells, "log_linear")) == pytest.approx(table["Pr(>F)"].iloc[1], rel=1e-6)


# --------------------------------------------------------------------------- hold-out


def test_any_subset_can_be_held_out():
    cells = make_cells("logit", LOGIT, noise=0.004)
    held = hold_out(cells, "logit", rows=cells.v == 576)
    assert held.what == "5 flagged rows"
    assert held.table["V"].eq(576).all()
    assert held.max_relative_error < 0.1
    assert hold_out(cells, "logit", size=4.0).table["N"].eq(4).all()


def test_held_out_intervals_cover():
    inside = [hold_out(make_cells("logit", LOGIT, noise=0.004, seed=seed), "logit").share_inside for seed in range(40)]
    assert 0.90 < np.mean(inside) < 0.99


def test_nothing_or_everything_held_out_is_refused():
    cells = make_cells("logit", LOGIT, noise=0.004)
    with pytest.raises(UserError, match="nothing to hold out"):
        hold_out(cells, "logit", size=3.0)
    with pytest.raises(UserError, match="leaves no cell"):
        hold_out(cells, "logit", rows=np.ones(len(cells), dtype=bool))


def test_error_of_zero_has_no_relative_error():
    cells = make_cells("logit", LOGIT, noise=0.004)
    error = cells.error.copy()
    error[cells.n == 14] = 0.0
    held = hold_out(Cells.of(cells.n, cells.v, error), "logit")
    assert held.table["relative_error"].isna().all()
