"""The whole analysis: its JSON, suites side by side, held-out rows, options."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from vlmlaw.errors import UserError
from vlmlaw.laws import LawFit, LawOptions, analyse, read_analysis, read_measurements
from vlmlaw.laws.render import render_analysis
from vlmlaw.laws.table import as_measurements

FAST = LawOptions(
    bootstrap_draws=200, question_tokens=(0, 50), candidates=("logit", "log_linear", "loglog", "power_d0")
)


@pytest.fixture(scope="module")
def reasoning():
    return analyse(read_measurements("li2024_reasoning"), FAST)


def test_json_has_what_the_report_reads(reasoning):
    fit = reasoning["fits"][0]
    assert fit["suite"] == "all"
    assert fit["law"] == "logit"
    assert fit["rho"]["estimate"] == pytest.approx(4.715, abs=1e-3)
    assert [i["method"] for i in fit["rho_intervals"]] == [
        "shared noise and choice of law",
        "profile",
        "fieller",
        "residual bootstrap",
        "whole-size bootstrap",
    ]
    assert [row["question_tokens"] for row in fit["v_star"]] == [0, 50]
    assert fit["hold_out"]["what"] == "size 7 B"
    assert {row["question_tokens"] for row in fit["frontier"]} == {0, 50}
    assert all(row["v_lower"] <= row["V"] <= row["v_upper"] for row in fit["frontier"])
    assert len(fit["cells"]) == 28
    assert {row["law"] for row in fit["laws"]} == {"logit", "log_linear", "loglog", "power_d0"}
    assert len(fit["d_profile"]) > 10
    assert len(fit["rho_profile"]) > 10
    assert reasoning["provenance"]["options"]["question_tokens"] == [0, 50]
    assert len(reasoning["provenance"]["sha256"]) == 64


def test_file_is_strict_json_and_reads_back(tmp_path, reasoning):
    path = tmp_path / "deep" / "law.json"
    written = analyse(read_measurements("li2024_reasoning"), FAST, out=path)
    json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"JSON holds {name}"))
    assert read_analysis(path) == written == reasoning
    again = LawFit.from_dict(written["fits"][0]["fit"])
    assert again.rho == pytest.approx(written["fits"][0]["rho"]["estimate"])


def test_files_that_hold_no_analysis_are_refused(tmp_path):
    path = tmp_path / "x.json"
    path.write_text("[1]")
    with pytest.raises(UserError, match="holds no law's analysis"):
        read_analysis(path)
    with pytest.raises(UserError, match="cannot read"):
        read_analysis(tmp_path / "absent.json")


def test_suites_kinds_and_their_mean_stand_side_by_side(grid_frame):
    parts = [
        grid_frame.assign(suite="reasoning", kind="all"),
        grid_frame.assign(suite="reading", kind="all", error=grid_frame["error"] * 0.8),
        grid_frame.assign(suite="reading", kind="6x6", error=grid_frame["error"] * 0.7),
    ]
    result = analyse(pd.concat(parts, ignore_index=True), FAST)
    names = [(fit["suite"], fit["kind"]) for fit in result["fits"]]
    assert names == [("reading", "all"), ("reading", "6x6"), ("reasoning", "all"), ("mean of suites", "all")]
    mean = result["fits"][-1]["cells"][0]["error"]
    assert mean == pytest.approx(0.9 * grid_frame["error"].iloc[0])
    text = render_analysis(result)
    assert "reading / 6x6" in text.split("──")[0]
    assert "── reading / 6x6" not in text
    assert "── mean of suites" in text


def test_rows_flagged_as_held_out_are_predicted_and_not_fitted(grid_frame):
    flagged = grid_frame.assign(held_out=grid_frame["N"] == 14)
    fit = analyse(flagged, FAST)["fits"][0]
    assert (fit["n_cells"], fit["n_held_out"]) == (24, 6)
    assert fit["hold_out"]["what"] == "6 flagged rows"
    assert sum(row["held_out"] for row in fit["cells"]) == 6
    assert max(row["N"] for row in fit["frontier"]) == 14
    whole = analyse(flagged, replace(FAST, hold_out="none"))["fits"][0]
    assert (whole["n_cells"], whole["hold_out"]) == (30, None)


def test_hold_out_of_a_size_that_is_not_there_is_refused(grid_frame):
    with pytest.raises(UserError, match="nothing to hold out"):
        analyse(grid_frame, replace(FAST, hold_out=3.0))


def test_missing_cells_stop_the_analysis_only_where_the_grid_was_stated(grid_frame):
    holed = as_measurements(grid_frame.drop(index=[3]))
    assert analyse(holed, FAST)["lint"][0]["code"] == "missing-cells"
    stated = replace(holed, expected=tuple(zip(grid_frame["N"], grid_frame["V"], strict=True)))
    with pytest.raises(UserError, match="missing-cells"):
        analyse(stated, FAST)
    assert analyse(stated, replace(FAST, allow_missing=True))["lint"][0]["code"] == "missing-cells"


def test_a_law_that_was_asked_for_is_taken_and_the_choice_said(grid_frame):
    fit = analyse(grid_frame, replace(FAST, law="power_free", candidates=["logit", "power"]))["fits"][0]
    assert fit["law"] == "power_free"
    assert "was asked for" in fit["why"]
    assert {row["law"] for row in fit["laws"]} == {"logit", "power", "power_free"}


def test_law_without_rho_has_an_analysis_too(grid_frame):
    result = analyse(grid_frame, replace(FAST, law="logit_interaction"))
    fit = result["fits"][0]
    assert fit["rho"]["law"] in FAST.candidates
    assert any(f"rho and V* are those of {fit['rho']['law']}" in sentence for sentence in fit["verdict"])
    assert fit["v_star"][1]["lower"] <= fit["v_star"][1]["upper"]
    assert f"  by {fit['rho']['law']}, " in render_analysis(result)


def test_a_suite_without_a_law_is_skipped_with_its_reason(grid_frame):
    few = grid_frame.iloc[[0, 1, 6, 7]].assign(suite="few")
    rows = pd.concat([grid_frame.assign(suite="good"), few.assign(error=[0.4, 0.3, 0.35, 0.2])])
    result = analyse(rows, replace(FAST, law="power"))
    assert [fit["suite"] for fit in result["fits"]] == ["good"]
    assert result["skipped"][0]["suite"] == "few"
    assert "too few cells" in result["skipped"][0]["why"]
    assert "no law for few/all" in render_analysis(result)


def test_weights_by_standard_error(grid_frame):
    rng = np.random.default_rng(0)
    table = grid_frame.assign(error_se=rng.uniform(0.002, 0.02, len(grid_frame)))
    plain, weighted = (analyse(table, replace(FAST, weights=w, law="logit"))["fits"][0] for w in ("none", "se"))
    assert plain["rho"] != weighted["rho"]
    with pytest.raises(UserError, match="need an error_se above 0"):
        analyse(grid_frame, replace(FAST, weights="se"))


def test_huber_loss_resists_an_outlier(grid_frame):
    spoilt = grid_frame.copy()
    spoilt.loc[8, "error"] += 0.15
    truth = 5.0
    off = {}
    for loss in ("squared", "huber"):
        off[loss] = abs(analyse(spoilt, replace(FAST, loss=loss, law="logit"))["fits"][0]["rho"]["estimate"] - truth)
    assert off["huber"] < off["squared"]


def test_frontier_by_a_measured_cost(grid_frame):
    table = grid_frame.assign(llm_flops=2e9 * grid_frame["N"] * (grid_frame["V"] + 9), vision_flops=1e9)
    fit = analyse(table, replace(FAST, cost_column="llm_flops+vision_flops", law="logit"))["fits"][0]
    assert fit["cost_frontier"][0]["cost"] == pytest.approx(2e9 * 0.5 * 10 + 1e9)
    assert {row["cost_model"] for row in fit["cost_frontier"]} == {"llm_flops+vision_flops"}
    assert analyse(table, replace(FAST, law="logit"))["fits"][0]["cost_frontier"] == []


def test_parameters_without_a_finite_estimate_are_called_so(grid_frame):
    low = 1 - np.exp(-np.exp(-0.4 - 0.1 * np.log(grid_frame["N"])))
    stepped = grid_frame.assign(error=np.where(grid_frame["V"] == 1, low, 0.0), n_questions=100)
    result = analyse(stepped, replace(FAST, law="loglog", bootstrap_draws=0))
    assert {finding["code"] for finding in result["lint"]} == {"step"}
    assert any("no finite estimate" in sentence for sentence in result["fits"][0]["verdict"])


def test_a_cell_far_from_the_law_is_named(grid_frame):
    spoilt = grid_frame.copy()
    spoilt.loc[8, "error"] += 0.1
    fit = analyse(spoilt, replace(FAST, law="logit"))["fits"][0]
    assert any("N = 1.8 B, V = 16 (+0.0" in sentence for sentence in fit["verdict"])


def test_lack_of_fit_is_said_where_replicates_show_it(grid_frame):
    rng = np.random.default_rng(0)
    bent = grid_frame["error"] + 0.02 * np.cos(grid_frame["V"])
    twice = pd.concat([grid_frame.assign(seed=s, error=bent + rng.normal(0, 0.001, len(bent))) for s in "01"])
    fit = analyse(twice, replace(FAST, law="logit"))["fits"][0]
    assert any("lack of fit" in sentence for sentence in fit["verdict"])


def test_no_bootstrap_where_none_is_asked_for(grid_frame):
    fit = analyse(grid_frame, replace(FAST, bootstrap_draws=0, law="logit"))["fits"][0]
    assert len(fit["rho_intervals"]) == 3
    assert "v_lower" not in fit["frontier"][0]


# --------------------------------------------------------------------------- options


def test_options_from_a_section_keep_the_defaults_of_the_rest():
    options = LawOptions.from_mapping({"law": "power", "question_tokens": [0, 10]})
    assert (options.law, options.question_tokens, options.level) == ("power", (0, 10), 0.95)
    assert LawOptions.from_mapping(options.to_mapping()) == options
    assert LawOptions.from_mapping(None) == LawOptions()


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"lwa": "power"}, "law options 'lwa' are unknown; known: law, candidates"),
        ({"law": "newton"}, "law 'newton' is unknown"),
        ({"candidates": ["newton"]}, "law 'newton' is unknown"),
        ({"candidates": "power"}, "candidates is 'power'; expected a list"),
        ({"question_tokens": 50}, "question_tokens is 50; expected a list"),
        ({"question_tokens": [-1]}, "question_tokens holds -1; expected a number 0 or more"),
        ({"question_tokens": ["x"]}, "question_tokens holds 'x'"),
        ({"level": 95}, "level holds 95; expected a number above 0 and below 1"),
        ({"level": True}, "level holds True"),
        ({"bootstrap_draws": 1.5}, "bootstrap_draws is 1.5; expected a whole number"),
        ({"bootstrap_draws": 5}, "bootstrap_draws is 5; expected 0, or 20 or more"),
        ({"seed": -1}, "seed is -1"),
        ({"hold_out": "half"}, "hold_out is 'half'; expected one of auto, largest, none"),
        ({"hold_out": -2}, "hold_out holds -2"),
        ({"cost_column": 3}, "cost_column is 3"),
        ({"loss": "cubic"}, "loss is 'cubic'; expected one of squared, huber"),
        ({"weights": "n"}, "weights is 'n'; expected one of none, se"),
        ({"allow_missing": "yes"}, "allow_missing is 'yes'; expected true or false"),
        ({"tokens": [0]}, "tokens holds 0; expected a number above 0"),
        ({"budgets": [float("inf")]}, "budgets holds inf"),
    ],
)
def test_bad_options_are_refused_with_what_was_expected(section, message):
    with pytest.raises(UserError) as caught:
        LawOptions.from_mapping(section)
    assert message in str(caught.value)


def test_shared_weights_are_said_and_widen_the_interval():
    """Errors of one training that move together: the default interval is wider than that of independent cells."""
    table = read_measurements("li2024_reasoning").frame
    wobble = dict(zip(sorted(table["N"].unique()), [0.012, -0.012, 0.01, -0.01], strict=True))
    moved = table.assign(error=table["error"] + table["N"].map(wobble))
    shared = moved.assign(training=moved["N"].map("elastic_{:g}".format))
    fit = analyse(shared, FAST)["fits"][0]
    assert any("28 cells share the weights of 4 trainings" in sentence for sentence in fit["verdict"])
    width = {i["method"]: (i["upper"] or np.inf) - (i["lower"] or -np.inf) for i in fit["rho_intervals"]}
    assert width["shared noise and choice of law"] > 1.3 * width["profile"]
    alone = analyse(moved, FAST)["fits"][0]
    assert not any("share the weights" in sentence for sentence in alone["verdict"])
    assert "mixed effects by size" not in [i["method"] for i in alone["rho_intervals"]]
    asked = analyse(moved, replace(FAST, size_effects=True))["fits"][0]
    assert "mixed effects by size" in [i["method"] for i in asked["rho_intervals"]]
