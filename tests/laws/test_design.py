"""The next cells: gains equal to dense algebra, settled questions stop, budgets bound, a tenth of a grid is enough."""

import numpy as np
import pandas as pd
import pytest

from vlmlaw.cli.main import main
from vlmlaw.errors import UserError
from vlmlaw.laws import read_measurements
from vlmlaw.laws.cells import Cells
from vlmlaw.laws.design import EXPECTED, next_cells
from vlmlaw.laws.posterior import RATIOS, prior

SIZES, TOKENS = (0.5, 1.8, 4.0, 7.0), (1, 16, 144, 576)


def grid():
    n, v = (x.ravel() for x in np.meshgrid(SIZES, TOKENS, indexing="ij"))
    return pd.DataFrame({"N": n, "V": v.astype(float), "cost": n * (250 + v)})


def variance(n, v, ratio):
    """Of a - b by dense generalised least squares with the expected sizes of the gains as a ridge."""
    x = np.stack([np.ones(len(n)), np.log(n), np.log(v)], axis=1)
    noise = np.eye(len(n)) + ratio**2 * (np.asarray(n)[:, None] == np.asarray(n))
    information = x.T @ np.linalg.inv(noise) @ x + np.diag(EXPECTED**-2.0)
    contrast = np.array([0, 1, -1])
    return contrast @ np.linalg.inv(information) @ contrast


def test_first_cells_are_the_best_for_their_cost_by_dense_algebra():
    plan, candidates = next_cells(None, grid(), budget=1e9, n_cells=4).cells, grid()
    chosen = plan[["N", "V"]].to_numpy()
    for k in range(1, 4):
        before = np.array([variance(*chosen[:k].T, ratio) for ratio in RATIOS])
        gains = {}
        for n, v, cost in candidates.to_numpy():
            if not ((chosen[:k] == (n, v)).all(axis=1)).any():
                after = np.array([variance(*np.vstack([chosen[:k], (n, v)]).T, ratio) for ratio in RATIOS])
                gains[n, v] = prior() @ np.log(before / after) / cost
        assert max(gains, key=gains.get) == tuple(chosen[k])


def test_what_is_settled_needs_no_more_cells():
    plan = next_cells(read_measurements("li2024_reasoning").cells(), grid(), budget=1e9)
    assert plan.settled and plan.cells.empty and plan.rho.lower > 1
    narrower = next_cells(
        read_measurements("li2024_reasoning").cells().take(slice(0, 14)), grid(), budget=1e9, until="rho"
    )
    assert not narrower.settled and (narrower.cells["width"].diff().dropna() <= 0).all()


def test_measured_cells_are_left_out_and_the_budget_is_kept():
    measured = Cells.of([0.5, 0.5, 1.8], [1, 16, 1], [0.6, 0.59, 0.55])
    plan = next_cells(measured, grid(), budget=4000)
    assert 0 < plan.cost <= 4000
    assert not {(0.5, 1.0), (0.5, 16.0), (1.8, 1.0)} & set(plan.cells[["N", "V"]].itertuples(index=False, name=None))
    with pytest.raises(UserError, match="buys no cell; the cheapest that is not measured costs"):
        next_cells(measured, grid(), budget=1)
    with pytest.raises(UserError, match="until is 'never'"):
        next_cells(measured, grid(), budget=4000, until="never")
    with pytest.raises(UserError, match="column cost of numbers above 0"):
        next_cells(measured, grid().assign(cost=0), budget=4000)


@pytest.mark.parametrize("rho", [4.0, 0.3])
def test_a_tenth_of_a_grid_tells_the_side_of_one(rho):
    truth, rng = grid(), np.random.default_rng(1)
    index = rho * np.log(truth["N"]) + np.log(truth["V"])
    score = 0.5 + 0.2 * (index - index.mean()) / np.ptp(index)
    truth["error"] = 1 - score + rng.normal(0, 0.003, len(truth))
    taken: list[int] = []
    budget, measured = 0.12 * truth["cost"].sum(), None
    while True:
        left = budget - truth.loc[taken, "cost"].sum()
        if truth.drop(index=taken)["cost"].min() > left:
            break
        plan = next_cells(measured, truth[["N", "V", "cost"]], budget=left, n_cells=1)
        if plan.settled:
            break
        n, v = plan.cells[["N", "V"]].iloc[0]
        taken.append(int(truth.index[(truth["N"] == n) & (truth["V"] == v)][0]))
        so_far = truth.loc[taken]
        measured = Cells.of(so_far["N"], so_far["V"], so_far["error"])
    assert plan.rho is not None and (plan.rho.estimate > 1) == (rho > 1)


def test_command_line_proposes_cells_of_a_grid_and_of_an_experiment(tmp_path, capsys):
    few = tmp_path / "few.csv"
    few.write_text("params_b,visual_tokens,score\n0.5,1,.39\n0.5,16,.41\n0.5,576,.43\n1.8,1,.43\n1.8,16,.45\n")
    assert main(["law", "next", str(few), "--sizes", "0.5,1.8,7", "--tokens", "1,16,576", "--budget", "30%"]) == 0
    assert "the most telling for its cost first" in capsys.readouterr().out
    assert main(["law", "next", str(few), "--budget", "20h"]) == 2
    assert "give a share, as in --budget 10%" in capsys.readouterr().err
    assert main(["law", "next", "li2024_reasoning", "--budget", "10%"]) == 0
    assert "Stop: the cells measured so far show what was asked." in capsys.readouterr().out
    assert main(["law", "next", str(few), "--tokens", "1,64", "--requests", "3000", "--json"]) == 0
    assert '"unit": "requests"' in capsys.readouterr().out
