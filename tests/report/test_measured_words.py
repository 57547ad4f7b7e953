"""Sentences of a measurement, where the numbers that they state are made."""

from types import SimpleNamespace

import pytest
from tests.evaluation.measuring.test_family_law import made

from vlmlaw.evaluation.measuring.family_law import family_laws
from vlmlaw.report.measured_words import laws


@pytest.mark.parametrize(
    ("slope", "course"), [(0.3, "falls to the most tokens"), (-0.3, "rises from the fewest tokens on")]
)
def test_a_law_without_a_sure_peak_says_how_its_error_goes(slope: float, course: str) -> None:
    found, refused = family_laws(*made(bend=0.0, slope=slope))
    decision = SimpleNamespace(wishes=SimpleNamespace(cost="ms"))
    (line,) = laws(SimpleNamespace(laws=found, checks=[], decision=decision, without_law=refused))
    assert line.endswith(f"is surely the best: the law's error {course}.")
