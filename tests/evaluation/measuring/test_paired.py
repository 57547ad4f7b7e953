"""Intervals and decisions by simulation with known truth, and against formulas written down elsewhere."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from vlmlaw.evaluation.measuring.paired import Paired
from vlmlaw.evaluation.scores import score


def answers(rng, *, errors, n_images, per_image=1, of_question=0.5, of_image=0.0) -> pd.DataFrame:
    """Judged rows of cells with these true errors; what is hard for one cell tends to be hard for the others."""
    n, k = n_images * per_image, len(errors)
    image = np.repeat(np.arange(n_images), per_image)
    hard = np.sqrt(of_image) * rng.standard_normal(n_images)[image] + np.sqrt(of_question) * rng.standard_normal(n)
    noise = np.sqrt(1 - of_image - of_question) * rng.standard_normal((n, k))
    lost = (hard[:, None] + noise < norm.ppf(errors)).astype(float)
    columns = {"question": np.arange(n), "cluster": image, "weight": 1.0}
    return pd.concat([pd.DataFrame({**columns, "cell": f"c{j}", "lost": lost[:, j]}) for j in range(k)])


CASES = {
    "few questions": {"errors": (0.3, 0.2), "n_images": 50},
    "rare errors": {"errors": (0.05, 0.03), "n_images": 100},
    "images with several questions": {"errors": (0.4, 0.3), "n_images": 30, "per_image": 4, "of_image": 0.4},
}


@pytest.mark.parametrize("case", CASES)
def test_intervals_cover_as_often_as_they_say(case):
    rng, n, made = np.random.default_rng(1), 400, CASES[case]
    apart, alone = 0, 0
    for _ in range(n):
        found = Paired.of(answers(rng, **made))
        difference, error = found.difference("c0", "c1"), found.error("c0")
        apart += difference.lower <= made["errors"][0] - made["errors"][1] <= difference.upper
        alone += error.lower <= made["errors"][0] <= error.upper
    least = 0.95 - 2.5 * np.sqrt(0.95 * 0.05 / n)
    assert apart / n > least and alone / n > least


def test_plain_intervals_would_not():
    """Without the added clusters the same simulation falls short, so the test above can fail."""
    rng, n, covered = np.random.default_rng(1), 400, 0
    for _ in range(n):
        wide = answers(rng, errors=(0.05, 0.03), n_images=40).pivot(index="question", columns="cell", values="lost")
        apart = wide.c0 - wide.c1
        covered += abs(apart.mean() - 0.02) <= 1.96 * apart.std() / np.sqrt(len(apart))
    assert covered / n < 0.92


def test_the_interval_is_bonett_and_prices_for_independent_questions():
    judged = answers(np.random.default_rng(4), errors=(0.3, 0.2), n_images=80)
    found = Paired.of(judged)
    wide = judged.pivot(index="question", columns="cell", values="lost")
    n, only_a, only_b = 80, int(((wide.c0 == 1) & (wide.c1 == 0)).sum()), int(((wide.c0 == 0) & (wide.c1 == 1)).sum())
    a, b = (only_a + 1) / (n + 2), (only_b + 1) / (n + 2)
    se = np.sqrt((a + b - (a - b) ** 2) / (n + 2))
    difference = found.difference("c0", "c1")
    assert (difference.lower + difference.upper) / 2 == pytest.approx(a - b)
    assert difference.se == pytest.approx(se * np.sqrt(82 / 81))  # the cluster-robust factor G / (G - 1)
    assert difference.value == pytest.approx((only_a - only_b) / n)


def test_errors_are_those_of_the_scores_also_where_weights_depend_on_replies():
    judged = answers(np.random.default_rng(5), errors=(0.3, 0.2), n_images=20, per_image=3, of_image=0.3)
    judged = judged.assign(weight=np.where(judged.lost == 1, 1.0, 2.0 * (judged.question % 2)))  # as F1 has them
    found = Paired.of(judged)
    for place, cell in enumerate(found.cells):
        own = judged[judged.cell == cell]
        wanted = score(own.lost.to_numpy(), own.cluster.to_numpy(), own.weight.to_numpy())
        assert found.errors_K[place] == pytest.approx(wanted.error)
        sums = np.bincount(found.cluster_Q, found.parts_QK[:, place])
        assert np.sqrt(20 / 19 * np.square(sums).sum()) / 60 == pytest.approx(wanted.error_se)


def test_not_worse_is_wrong_at_most_as_often_as_said():
    errors, by, n = (0.4, 0.331, 0.331, 0.3), 0.03, 300
    rng, wrong, named = np.random.default_rng(2), 0, 0
    for _ in range(n):
        found = Paired.of(answers(rng, errors=errors, n_images=400, of_question=0.8))
        good = np.flatnonzero(found.confidence_not_worse(by) >= 0.9)
        named += good.size > 0
        wrong += good.size > 0 and errors[good[0]] > 0.3 + by  # the first is the cheapest
    assert wrong / n < 0.1 + 2.5 * np.sqrt(0.1 * 0.9 / n)
    assert named / n > 0.3  # and it is said at all


def test_cells_that_never_differed_on_few_questions_are_not_called_the_same():
    rng, n, wrong = np.random.default_rng(3), 300, 0
    for _ in range(n):  # the second is worse by .04, so that 48 questions show none of it in one of seven measurements
        best = rng.random(48) < 0.3
        lost = np.stack([best, best | (rng.random(48) < 0.04 / 0.7)]).astype(float)
        frame = {"question": np.tile(np.arange(48), 2), "cluster": np.tile(np.arange(48), 2), "weight": 1.0}
        judged = pd.DataFrame({**frame, "cell": np.repeat(["best", "worse"], 48), "lost": lost.ravel()})
        wrong += Paired.of(judged).confidence_not_worse(0.03)[1] >= 0.95
    assert wrong / n < 0.05 + 2.5 * np.sqrt(0.05 * 0.95 / n)


def test_one_cell_alone_is_the_best():
    found = Paired.of(answers(np.random.default_rng(6), errors=(0.5,), n_images=30))
    assert found.confidence_not_worse(0.0).tolist() == [1.0] and found.worse_by_at_most().tolist() == [0.0]


def test_the_bound_is_where_confidence_reaches_the_level():
    found = Paired.of(answers(np.random.default_rng(6), errors=(0.5, 0.3, 0.28), n_images=150))
    for place, bound in enumerate(found.worse_by_at_most(level=0.9)):
        assert found.confidence_not_worse(bound + 1e-3)[place] >= 0.9
        assert bound == 0 or found.confidence_not_worse(bound - 1e-3)[place] <= 0.9


def test_more_questions_tell_cells_apart():
    errors = (0.3, 0.2)
    found = Paired.of(answers(np.random.default_rng(8), errors=errors, n_images=60))
    more = found.questions_to_tell("c0", "c1")
    assert found.questions_to_tell("c0", "c0") == np.inf and 0 < more < 2000
    rng, told = np.random.default_rng(9), 0
    true = (found.errors_K[0], found.errors_K[1])  # were they as different as measured
    for _ in range(200):
        again = Paired.of(answers(rng, errors=true, n_images=60 + int(more)))
        told += again.difference("c0", "c1").excludes_zero
    assert 0.65 < told / 200 < 0.95  # power 80 %, from a variance that 60 questions estimate
