"""Roots and least values agree with scipy's."""

import numpy as np
import pytest
from scipy.optimize import brentq, minimize_scalar

from vlmlaw.laws.roots import least_between, root_between


def test_roots_are_those_of_brentq_in_few_steps():
    rng, calls = np.random.default_rng(0), []
    for _ in range(300):
        slope, root = rng.normal(), rng.uniform(-1, 2)
        low, high = root - rng.exponential(2), root + rng.exponential(2)

        def function(x, slope=slope, root=root):
            calls.append(x)
            return float(np.arctan(8 * slope * (x - root)) + 0.3 * np.sign(slope) * (x - root) ** 3)

        assert root_between(function, low, high, xtol=1e-9) == pytest.approx(root, abs=1e-7)
        assert brentq(function, low, high) == pytest.approx(root, abs=1e-7)
    assert len(calls) < 300 * 50


def test_ends_of_one_sign_are_refused():
    with pytest.raises(ValueError, match="no change of sign between 1 "):
        root_between(lambda x: x, 1, 2)
    assert root_between(lambda x: x, 0, 2) == 0


def test_least_values_are_those_of_minimize_scalar():
    rng = np.random.default_rng(0)
    for _ in range(50):
        place, width = rng.uniform(0, 1), rng.uniform(0.05, 0.5)

        def function(x, place=place, width=width):
            return np.cosh((x - place) / width) + 0.1 * (x - place)

        scipys = minimize_scalar(function, bounds=(0, 1), method="bounded", options={"xatol": 1e-9})
        assert least_between(function, 0, 1) == pytest.approx(scipys.x, abs=1e-6)
