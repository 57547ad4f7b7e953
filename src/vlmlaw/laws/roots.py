"""A root between two ends, by the Illinois method: loading scipy.optimize would take a tenth of `vlmlaw law fit`.

Source: Dowell and Jarratt 1971, BIT 11, for the halved weight of an end that is kept twice running.
"""

from collections.abc import Callable

MAX_STEPS = 200


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
