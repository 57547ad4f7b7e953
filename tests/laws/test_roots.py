"""The root finder agrees with scipy's."""

import numpy as np
import pytest
from scipy.optimize import brentq

from vlmlaw.laws.roots import root_between


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
