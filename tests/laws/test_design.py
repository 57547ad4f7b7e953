"""The next cells: gains equal to dense algebra, settled questions stop, budgets bound, a tenth of a grid is enough."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from vlmlaw.cli.main import main
from vlmlaw.errors import UserError
from vlmlaw.laws import read_measurements
from vlmlaw.laws.best_cell import Deployment, _doubts, best_cell
from vlmlaw.laws.cells import Cells
from vlmlaw.laws.design import EXPECTED, next_cells
from vlmlaw.laws.fit import fit_cells
from vlmlaw.laws.posterior import RATIOS, Posterior, linearise, prior

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


def test_doubt_of_a_rival_is_that_of_students_t_where_cells_are_independent():
    """A law that is linear in ln N and ln V: the difference of two cells by ordinary least squares."""
    table, rng = grid(), np.random.default_rng(3)
    x = np.stack([np.ones(len(table)), np.log(table["N"]), np.log(table["V"])], axis=1)
    error = x @ [0.6, -0.03, -0.02] + rng.normal(0, 0.02, len(table))
    fit = fit_cells(Cells.of(table["N"], table["V"], error), "log_linear")
    affordable = np.array([[0.5, 576.0], [1.8, 144.0], [4.0, 16.0]])
    alone = Posterior([linearise(fit)], (RATIOS == 0).astype(float)[None])
    at = np.stack([np.ones(3), *np.log(affordable).T], axis=1)
    theta = np.linalg.lstsq(x, error, rcond=None)[0]
    freedom = len(error) - 3
    covariance = np.linalg.inv(x.T @ x) * np.sum((error - x @ theta) ** 2) / freedom
    chosen = int(np.argmin(at @ theta))
    apart = 0.99 * at[chosen] - at
    distance = apart @ theta / np.sqrt(np.einsum("ak,kl,al->a", apart, covariance, apart))
    doubts = _doubts(alone, *np.log(affordable).T, chosen=chosen, tolerance=0.01)
    assert doubts == pytest.approx(stats.t.cdf(distance, freedom), rel=1e-6)
    doubts[chosen] = -1
    found = best_cell(fit, affordable, tolerance=0.01)
    assert (found.n, found.v) == tuple(affordable[chosen])
    assert found.rival == tuple(affordable[int(np.argmax(doubts))]) and found.doubt > max(doubts)  # noise may be shared


@pytest.mark.parametrize("flops", [1.5e11, 6e11, 1.2e12])
def test_the_best_cell_within_a_budget_is_found_and_stops_the_design(flops):
    truth, rng = grid(), np.random.default_rng(5)
    index = 2.5 * np.log(truth["N"]) + np.log(truth["V"])
    truth["true"] = 0.6 - 0.25 * (index - index.min()) / np.ptp(index)
    truth["error"] = truth["true"] + rng.normal(0, 0.002, len(truth))
    deploy, measured, taken = Deployment(flops), None, []
    while not (plan := next_cells(measured, truth, budget=1e9, until="best", deploy=deploy, n_cells=1)).settled:
        taken.append(plan.cells.index[0])
        so_far = truth.loc[taken]
        measured = Cells.of(so_far["N"], so_far["V"], so_far["error"])
    assert 5 <= len(measured) < len(truth) and plan.cells.empty
    affordable = truth[2e9 * truth["N"] * (50 + truth["V"]) <= flops]
    chosen = affordable[(affordable["N"] == plan.best.n) & (affordable["V"] == plan.best.v)]
    assert chosen["true"].item() <= affordable["true"].min() * (1 + deploy.tolerance)


def test_a_best_cell_needs_a_budget_that_a_cell_keeps_to():
    with pytest.raises(UserError, match="expected best with the FLOPs of an answer, others without"):
        next_cells(None, grid(), budget=1e9, until="best")
    with pytest.raises(UserError, match=r"the cheapest, N = 0.5 B and V = 1, takes 5.1e\+10 with 50 text tokens"):
        next_cells(None, grid(), budget=1e9, until="best", deploy=Deployment(1e9))
    with pytest.raises(UserError, match="flops of the best cell is 0; expected a number above 0"):
        Deployment(0)


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
    best = ["law", "next", "li2024_reasoning", "--until", "best"]
    assert main([*best, "--flops", "1e12"]) == 0
    out = capsys.readouterr().out
    assert "Within 1e+12 FLOPs the best cell is N = 7 B, V = 16" in out and "of its 28 cells would have been" in out
    assert main(best) == 2
    assert "--until best needs the FLOPs of an answer" in capsys.readouterr().err
    assert main(["law", "next", "li2024_reasoning", "--flops", "1e12"]) == 2
    assert "--flops belongs to --until best" in capsys.readouterr().err
