"""Ranks by Zipf's law: the first is drawn most often, and each later one as rank^-exponent as often."""

from functools import cache

import numpy as np


@cache
def shares(n: int, exponent: float) -> np.ndarray:
    """shares_n of ranks 1 to n, which sum to 1. It is shared: do not write to it."""
    falling = np.arange(1, n + 1, dtype=float) ** -exponent
    return falling / falling.sum()


@cache
def _bounds(n: int, exponent: float) -> np.ndarray:
    return np.cumsum(shares(n, exponent))[:-1]


def draw_rank(n: int, exponent: float, rng: np.random.Generator) -> int:
    """A rank from 0 to n - 1. (`rng.choice` checks its probabilities at each call, which takes ten times as long.)"""
    return int(np.searchsorted(_bounds(n, exponent), rng.random(), side="right"))
