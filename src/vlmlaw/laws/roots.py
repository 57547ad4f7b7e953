"""A root and a least value between two ends: loading scipy.optimize would take a fifth of `vlmlaw law fit`.

Source: Dowell and Jarratt 1971, BIT 11, for the root's Illinois method: an end that is kept twice running counts half.
"""

from collections.abc import Callable

import numpy as np

MAX_STEPS = 200
ZOOM_POINTS, ZOOMS = 65, 5  # each round narrows the ends by 32; five leave 3e-8 of the first distance, below rounding


def root_between(function: Callable[[float], float], low: float, high: float, *, xtol: float = 1e-10) -> float:
    """Where a continuous function crosses zero between two ends at which it has different signs.

    >>> round(root_between(lambda x: x**3 - 2, 0, 2), 6)
    1.259921
    """
    at_low, at_high = function(low), function(high)
    if at_low == 0 or at_high == 0:
        return low if at_low == 0 else high
    if at_low * at_high > 0:
        raise ValueError(f"no change of sign between {low:g} ({at_low:g}) and {high:g} ({at_high:g})")
    middle = low
    for step in range(MAX_STEPS):
        # Every third step halves, so that a root next to one end takes no longer.
        middle = (low + high) / 2 if step % 3 == 2 else (low * at_high - high * at_low) / (at_high - at_low)
        at_middle = function(middle)
        if at_middle == 0 or abs(high - low) < xtol:
            break
        if at_middle * at_high < 0:
            low, at_low = high, at_high
        else:
            at_low /= 2
        if abs(middle - high) < xtol:
            break
        high, at_high = middle, at_middle
    return middle


def least_between(function: Callable[[np.ndarray], np.ndarray], low: float, high: float) -> float:
    """Where a function of an array is least between two ends, in rounds of evenly spaced points.

    >>> round(least_between(lambda x: (x - 1.25) ** 2, 0, 2), 6)
    1.25
    """
    place = low
    for _ in range(ZOOMS):
        points = np.linspace(low, high, ZOOM_POINTS)
        i = int(np.argmin(function(points)))
        place, low, high = float(points[i]), float(points[max(i - 1, 0)]), float(points[min(i + 1, ZOOM_POINTS - 1)])
    return place
