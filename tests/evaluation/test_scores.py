"""Errors with standard errors: those of independent references."""

import numpy as np
import pytest

from vlmlaw.evaluation.scores import Score, mean_score, score


def test_the_standard_error_is_the_cluster_robust_one():
    """As statsmodels has it for a mean: the intercept of a regression with clustered covariance."""
    import statsmodels.api as sm

    rng = np.random.default_rng(0)
    images = rng.integers(40, size=300)
    wrong = rng.random(300) < 0.2 + 0.5 * (images % 3 == 0)
    fitted = sm.OLS(wrong.astype(float), np.ones(300)).fit(cov_type="cluster", cov_kwds={"groups": images})
    found = score(wrong, images)
    assert found.error == pytest.approx(fitted.params[0], rel=1e-12)
    # statsmodels' factor G/(G-1) * (n-1)/(n-k) has k = 1 here, so it is ours.
    assert found.error_se == pytest.approx(fitted.bse[0], rel=1e-9)
    assert found.n_questions == 300
    alone = score(wrong, np.arange(300))
    assert alone.error_se == pytest.approx(np.std(wrong, ddof=1) / np.sqrt(300), rel=1e-9)


def test_scores_of_few_are_numbers():
    assert score(np.array([True]), np.array([0])) == Score(1.0, 0.0, 1)
    assert score(np.array([False, False]), np.array([0, 1])) == Score(0.0, 0.0, 2)


def test_the_standard_error_of_a_ratio_is_that_of_its_bootstrap():
    """1 - F1 of yes/no questions, six on each image: against resampled images."""
    rng = np.random.default_rng(1)
    images = np.repeat(np.arange(150), 6)
    hard = np.repeat(rng.random(150) < 0.3, 6)
    is_yes = rng.random(900) < 0.5
    wrong = rng.random(900) < np.where(hard, 0.6, 0.1)
    lost, weights = wrong.astype(float), np.where(wrong, 1.0, 2.0 * is_yes)
    found = score(lost, images, weights)
    assert found.error == pytest.approx(lost.sum() / weights.sum(), rel=1e-12)
    drawn = rng.integers(150, size=(2000, 150))
    by_image = np.stack([lost.reshape(150, 6).sum(1), weights.reshape(150, 6).sum(1)])
    totals = by_image[:, drawn].sum(-1)
    bootstrap = np.std(totals[0] / totals[1])
    assert found.error_se == pytest.approx(bootstrap, rel=0.06)


def test_a_suite_is_the_plain_mean_of_its_benchmarks():
    mean = mean_score([Score(0.2, 0.03, 1000), Score(0.6, 0.04, 10)])
    assert mean.error == pytest.approx(0.4)
    assert mean.error_se == pytest.approx(0.025)  # sqrt(.03^2 + .04^2) / 2
    assert mean.n_questions == 1010
