"""Tables with one size or one V: the curve is found again, what it shows is said, and no rho is."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from vlmlaw.cli.main import main
from vlmlaw.errors import UserError
from vlmlaw.laws.analysis import analyse
from vlmlaw.laws.cells import Cells
from vlmlaw.laws.one_axis import along_one_axis

V = np.array([1, 4, 9, 16, 36, 64, 100, 144, 256, 400, 576])
X = np.log(V) / np.log(576)


def cells_of(eta, *, noise=0.002, axis="V", seed=0):
    error = expit(-eta) + np.random.default_rng(seed).normal(0, noise, V.size)
    return Cells.of(np.full(V.size, 7.0), V, error) if axis == "V" else Cells.of(V, np.full(V.size, 64), error)


@pytest.mark.parametrize(
    ("eta", "law"),
    [
        (np.full(V.size, 0.3), "flat"),
        (-0.2 + 0.6 * X, "line"),
        (-0.2 + 0.9 * np.minimum(X, 0.6), "plateau"),
        (-0.2 + 1.6 * X - 1.3 * X**2, "peak"),
        (-2 + 3.5 * expit(25 * (X - 0.6)), "sigmoid"),
    ],
)
def test_the_curve_that_made_the_cells_is_found(eta, law):
    assert along_one_axis(cells_of(eta)).law == law


def test_a_peak_inside_the_range_is_a_finding():
    curve = along_one_axis(cells_of(-0.2 + 1.6 * X - 1.3 * X**2))
    assert curve.inside and 36 <= curve.best <= 100  # the truth's is at 576 ** 0.615, about 50
    assert "least inside the range" in curve.sentence and "no rho" in curve.sentence
    assert not along_one_axis(cells_of(-0.2 + 0.6 * X)).inside


def test_the_flat_region_depends_on_how_many_questions_were_asked():
    cells = cells_of(-0.2 + 0.9 * np.minimum(X, 0.6), noise=0.0005)
    few, many = (along_one_axis(cells, questions=n) for n in (100, 100_000))
    assert few.flat_from < many.flat_from <= 64
    assert few.flat_from == 1 and "by less than two cells alone would show with 100 questions." in few.sentence


@pytest.mark.parametrize(("questions", "laws"), [(float("nan"), ["line"]), (1000, ["plateau", "peak"])])
def test_six_cells_of_a_compressor_are_not_flat(questions, laws):
    """Twelve points over six cells, as papers on pruning print them: AICc alone would rather have a constant."""
    v, score = [16, 32, 64, 128, 192, 576], [50.0, 55.0, 58.7, 60.9, 61.4, 62.0]
    curve = along_one_axis(Cells.of([7] * 6, v, 1 - np.array(score) / 100), questions=questions)
    assert curve.law in laws
    assert "from 64 tokens on nothing is gained" in curve.sentence and "inside" not in curve.sentence


def test_noise_of_the_questions_alone_is_seldom_called_a_slope():
    rng, questions, flat = np.random.default_rng(0), 400, 0
    for _ in range(100):
        error = rng.binomial(questions, 0.4, 6) / questions
        flat += along_one_axis(Cells.of([7] * 6, [16, 32, 64, 128, 192, 576], error), questions=questions).law == "flat"
    assert flat >= 88


def test_along_n_the_sizes_are_named():
    curve = along_one_axis(cells_of(-0.2 + 0.6 * X, axis="N"), questions=200_000)
    assert (curve.axis, curve.at) == ("N", 64)
    assert curve.sentence.startswith(
        "At V = 64, the one number of visual tokens measured, the error still falls at 576 B, the largest measured"
    )


def test_other_tables_are_refused():
    with pytest.raises(UserError, match="2 sizes, 2 token counts: no curve along one axis"):
        along_one_axis(Cells.of([1, 1, 7, 7], [1, 4, 1, 4], [0.5, 0.4, 0.4, 0.3]))


def test_law_fit_takes_a_table_of_one_size(tmp_path, capsys):
    path, out = tmp_path / "one.csv", tmp_path / "law.json"
    rows = zip(V, expit(0.2 - 0.9 * np.minimum(X, 0.6)), strict=True)
    path.write_text("params_b,visual_tokens,error\n" + "".join(f"7,{v},{e:.4f}\n" for v, e in rows))
    assert main(["law", "fit", str(path), "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "At 7 B, the one size measured, from " in text and "rho =" not in text
    analysis = json.loads(out.read_text())
    assert analysis["fits"] == [] and analysis["axes"][0]["law"] == "plateau"


@pytest.mark.parametrize(
    ("errors", "law"),
    [
        ([0.289, 0.224, 0.204, 0.156], "line"),  # MMBench of Qwen2.5-VL-7B under DivPrune at 11, 22, 33 and 100 %
        ([0.412, 0.409, 0.413, 0.410], "flat"),
        ([0.3, 0.25, 0.201], "line"),
    ],
)
def test_four_cells_show_a_line_where_noise_could_not_make_it(errors, law):
    v = [11.1, 22.2, 33.3, 100][: len(errors)]
    curve = along_one_axis(Cells.of([7] * len(v), v, errors))
    assert curve.law == law
    assert ("does not change" in curve.sentence) == (law == "flat")


def test_a_kind_with_the_same_error_everywhere_does_not_stop_the_others():
    rows = [
        {
            "suite": "reading",
            "kind": kind,
            "N": 1,
            "V": v,
            "error": 1.0 if kind == "hard" else error,
            "n_questions": 500,
        }
        for v, error in zip((1, 4, 16, 64), (0.6, 0.5, 0.42, 0.36), strict=True)
        for kind in ("all", "hard")
    ]
    result = analyse(pd.DataFrame(rows))
    found = {group["kind"]: group for group in result["axes"]}
    assert set(found) == {"all", "hard"} and found["hard"]["law"] == "flat" and found["all"]["law"] != "flat"
    with pytest.raises(UserError, match="the error is 1 everywhere"):
        analyse(pd.DataFrame([row | {"error": 1.0} for row in rows]))
