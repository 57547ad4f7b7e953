"""The law beside a ranking of models at the fewest tokens: a made truth says which of the two is right."""

import numpy as np
import pytest
from scipy.special import expit

from vlmlaw.evaluation.measuring.family_law import family_laws
from vlmlaw.evaluation.measuring.law_check import check_law

from .test_family_law import V, made


def costs(cells):
    return {cell.name: cell.model.n_params / 1e9 * (50 + cell.budget) for cell in cells}


def best_and_ranked(cells, limit, slope):
    """True errors of the best cell within a limit, and of the largest model that fits with the most tokens that fit."""
    cost = costs(cells)
    fits = [cell for cell in cells if cost[cell.name] <= limit]
    error = {c: 1 - expit(-1 + 0.4 * np.log(c.model.n_params / 1e9) + slope * np.log(c.budget)) for c in fits}
    ranked = max(fits, key=lambda cell: (cell.model.n_params, cell.budget))
    return min(error.values()), error[ranked]


@pytest.mark.parametrize(("slope", "ranking_errs"), [(0.35, True), (0.0, False)])
def test_the_law_is_better_just_where_tokens_are_worth_more_than_the_ranking_gives(slope, ranking_errs):
    judged, cells = made(bend=0.0, slope=slope, n=3000)
    (law,), _ = family_laws(judged, cells)
    cost = costs(cells)
    found = check_law(law, judged, cost, level=0.95)
    limits = sorted(set(cost.values()))[1:]
    assert found.n_limits == len(limits) == 3 * len(V) - 1
    true = np.array([best_and_ranked(cells, limit, slope) for limit in limits])
    apart = (true[:, 0] - true[:, 1]).mean()
    assert found.beside_ranking.value == pytest.approx(apart, abs=0.012)
    if ranking_errs:  # it takes the largest model that fits, with few tokens
        assert apart < -0.02 and found.beside_ranking.upper < 0 and found.better > found.worse
    else:  # only size counts, and the largest model that fits is right
        assert apart == pytest.approx(0) and found.beside_ranking.lower <= 0 <= found.beside_ranking.upper
    assert abs(found.beside_measured.value) < 0.01


def test_there_is_no_check_without_a_choice():
    judged, cells = made(bend=0.0, slope=0.2, n=30)
    (law,), _ = family_laws(judged, cells)
    few = judged[judged.cluster < 3]
    assert check_law(law, few, costs(cells), level=0.95) is None
