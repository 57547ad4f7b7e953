"""Errors with standard errors, for questions that share images and for suites of benchmarks."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Score:
    """Error of n questions, its standard error with the images as clusters, and the share of replies not read.

    `unread` is None where nothing was to be read (the test split), or where it is not known (lmms-eval). `doubt` is the
    mean of 1 - p(answer) where probabilities are known, else None: it falls before the likeliest word is the right one,
    and after, so it follows a law at a small scale where the error still moves in steps (Schaeffer et al. 2023, arXiv
    2304.15004).
    """

    error: float
    error_se: float
    n_questions: int
    unread: float | None = field(default=None, compare=False)
    doubt: float | None = field(default=None, compare=False)


def score(
    lost: np.ndarray, images: np.ndarray, weights: np.ndarray | None = None, *, doubts: np.ndarray | None = None
) -> Score:
    """The share sum(lost) / sum(weights), each question weighing 1 by default, and its cluster-robust standard error.

    Questions on one image are not independent: se^2 = G / (G - 1) * sum over images of (sum of residuals)^2 / W^2
    for G images and the whole weight W (Liang & Zeger 1986; as in Miller 2024, arXiv 2411.00640, for evaluations).
    The residual of a question is lost - error * weight, which for unequal weights is the ratio's linearisation
    (Cochran 1977, Sampling Techniques, 6.4).
    """
    lost = np.asarray(lost, dtype=float)
    weights = np.ones(len(lost)) if weights is None else np.asarray(weights, dtype=float)
    whole = weights.sum()
    assert whole > 0, "no question weighs anything"
    error = lost.sum() / whole
    sums = pd.Series(lost - error * weights).groupby(images).sum()
    n_images = len(sums)
    variance = n_images / max(n_images - 1, 1) * (sums**2).sum() / whole**2
    doubt = None if doubts is None else round(float(np.mean(doubts)), 6)  # the rest depends on the batch
    return Score(float(error), float(np.sqrt(variance)), len(lost), doubt=doubt)


def mean_score(scores: Sequence[Score]) -> Score:
    """The plain mean of benchmarks, as in papers: each has the same weight, whatever its number of questions."""
    errors, ses = [s.error for s in scores], [s.error_se for s in scores]
    se = np.sqrt(np.square(ses).sum()) / len(ses)
    unread = [s.unread for s in scores if s.unread is not None]
    mean_unread = float(np.mean(unread)) if len(unread) == len(scores) else None
    return Score(float(np.mean(errors)), float(se), sum(s.n_questions for s in scores), mean_unread)
