"""A row for each question becomes a row for each cell, and seeds stay apart."""

import numpy as np
import pandas as pd
import pytest

from vlmlaw.laws import analyse
from vlmlaw.laws.options import LawOptions
from vlmlaw.laws.replicates import collapse_questions
from vlmlaw.laws.table import as_measurements

from .conftest import make_cells

CELLS = make_cells("logit", {"c0": -0.4, "a": 0.25, "b": 0.06}, noise=0.0)


def questions(n_each, seed=0):
    """A table with `n_each` replies of each cell, right or wrong."""
    rng = np.random.default_rng(seed)
    n, v, error = (np.repeat(x, n_each) for x in (CELLS.n, CELLS.v, CELLS.error))
    return pd.DataFrame({"N": n, "V": v, "error": (rng.random(n.size) < error).astype(float)})


def test_twenty_thousand_questions_are_fitted_as_the_means_of_their_cells():
    table = questions(20_000 // len(CELLS))
    means = table.groupby(["N", "V"], as_index=False)["error"].mean()
    options = LawOptions(law="logit", bootstrap_draws=0, hold_out="none")
    of_rows, of_means = (analyse(frame, options) for frame in (table, means))
    assert of_rows["provenance"]["n_rows"] == len(table)
    assert of_rows["fits"][0]["n_cells"] == len(means)
    assert of_rows["fits"][0]["rho"] == of_means["fits"][0]["rho"]
    assert "disagreeing-copies" not in [finding["code"] for finding in of_rows["lint"]]


def test_standard_errors_are_binomial():
    collapsed = collapse_questions(as_measurements(questions(400))).frame
    p = collapsed["error"]
    assert collapsed["error_se"].to_numpy() == pytest.approx(np.sqrt(p * (1 - p) / 399).to_numpy())
    assert (collapsed["n_questions"] == 400).all()


def test_seeds_and_few_measurements_of_a_cell_stay_apart():
    means = pd.DataFrame({"N": CELLS.n, "V": CELLS.v, "error": CELLS.error})
    for table in (means, pd.concat([means, means + 0.001 * np.array([0, 0, 1])])):
        measured = as_measurements(table)
        assert collapse_questions(measured) is measured
    seeds = pd.concat([questions(30, seed=s).assign(seed=str(s)) for s in (0, 1)])
    assert len(collapse_questions(as_measurements(seeds))) == 2 * len(CELLS)
