"""Decisions for several suites, by measured costs, by active parameters, and outside what was measured."""

import numpy as np
import pandas as pd
import pytest

from vlmlaw.cli.main import main
from vlmlaw.errors import UserError
from vlmlaw.laws import fit_law, recommend
from vlmlaw.laws.blend import blend_suites
from vlmlaw.laws.cells import Cells
from vlmlaw.laws.costs import ColumnCost, Cost, active_parameters
from vlmlaw.laws.table import as_measurements, read_measurements


@pytest.fixture(scope="module")
def both():
    frames = [
        read_measurements(table).frame.assign(suite=suite)
        for suite, table in {"reasoning": "li2024_reasoning", "reading": "li2024_ocr"}.items()
    ]
    return as_measurements(pd.concat(frames)[["N", "V", "error", "suite"]])


def test_a_blend_predicts_the_weighted_mean_and_its_choice_moves_with_the_weights(both):
    parts = {suite: fit_law(both.select(suite=suite), "logit") for suite in ("reasoning", "reading")}
    blend = blend_suites(both, {"reasoning": 3, "reading": 1}, law="logit")
    mean = 0.75 * parts["reasoning"].predict(4, [1, 64]) + 0.25 * parts["reading"].predict(4, [1, 64])
    assert blend.predict(4, [1, 64]) == pytest.approx(mean)
    chosen = {}
    for weight in (0.01, 1, 100):
        blend = blend_suites(both, {"reasoning": weight, "reading": 1}, law="logit")
        chosen[weight] = recommend(blend, flops=1e12, question_tokens=50).v
    alone = {suite: recommend(fit, flops=1e12, question_tokens=50).v for suite, fit in parts.items()}
    assert chosen[100] == alone["reasoning"] < chosen[0.01] == alone["reading"]
    assert chosen[100] <= chosen[1] <= chosen[0.01]


def test_wrong_weights_are_refused(both):
    with pytest.raises(UserError, match="has no suite 'ocr'; it has reasoning, reading"):
        blend_suites(both, {"ocr": 1})
    with pytest.raises(UserError, match="weight of 'reading' is 0"):
        blend_suites(both, {"reasoning": 1, "reading": 0})


def test_impossible_and_unmeasured_errors_are_said():
    n, v = (x.ravel() for x in np.meshgrid([1.0, 2.0, 4.0], [16, 64, 256], indexing="ij"))
    fit = fit_law(Cells.of(n, v, 0.5 - 0.2 * np.log(n) - 0.02 * np.log(v)), "log_linear")
    far = recommend(fit, flops=1e15, sizes=[1, 4, 70], tokens=[16, 256])
    assert any("impossible" in warning for warning in far.warnings)
    assert any("below 0 or above 1 for 2 of the 6 cells" in warning for warning in far.warnings)
    near = recommend(fit, flops=1e15, sizes=[1, 4, 5], tokens=[16, 256])
    assert any("outside the measured ones" in warning for warning in near.warnings)
    assert not any("error" in warning for warning in recommend(fit, flops=1e12, tokens=[64]).warnings)


def test_cost_counts_the_active_parameters():
    table = as_measurements(
        pd.DataFrame({"N": [30, 30, 8, 8], "V": [16, 64] * 2, "error": [0.3, 0.28, 0.33, 0.31], "active": [3, 3, 8, 8]})
    )
    cost = Cost(question_tokens=50, active=active_parameters(table, "active"))
    assert cost.of([30, 8], 50).tolist() == [2e9 * 3 * 100, 2e9 * 8 * 100]
    assert np.isnan(cost.of(70, 50))
    with pytest.raises(UserError, match="no column 'experts'"):
        active_parameters(table, "experts")


def test_measured_milliseconds_limit_the_choice_on_the_command_line(tmp_path, capsys, both):
    frame = both.frame.rename(columns={"N": "params_b", "V": "visual_tokens"})
    frame = frame.assign(ttft_ms=20 * frame["params_b"] + frame["visual_tokens"])
    frame.loc[frame["visual_tokens"] == 1, "ttft_ms"] = np.nan  # not measured
    path = tmp_path / "timed.csv"
    frame[["params_b", "visual_tokens", "error", "suite", "ttft_ms"]].to_csv(path, index=False)
    common = ["law", "recommend", str(path), "--cost", "ttft_ms", "--limit", "150", "--law", "logit"]
    assert main([*common, "--weight", "reasoning=2", "--weight", "reading=1"]) == 0
    out = capsys.readouterr().out
    assert "of 150 ttft_ms" in out and "0.67 reasoning (logit) + 0.33 reading (logit)" in out
    assert main(common) == 2
    assert "--weight reasoning=1 --weight reading=1" in capsys.readouterr().err
    assert main([*common, "--weight", "reasoning=much"]) == 2
    assert "expected a suite and a number" in capsys.readouterr().err


def test_a_column_without_any_cost_is_refused():
    frame = pd.DataFrame({"N": [1, 2], "V": [16, 16], "error": [0.4, 0.3], "ms": [np.nan, np.nan]})
    with pytest.raises(UserError, match="'ms' is not a number above 0"):
        ColumnCost.from_table(as_measurements(frame), "ms")
