"""How cells of a design were chosen, in words that follow its numbers."""

from typing import Any

import pytest

from vlmlaw.report import design

STEP = {"round": 1, "cells": ["3k_v1"], "cost": 1500.0, "width": 0.8}


def round_of(**changed: Any) -> dict[str, Any]:
    found = {"until": "side", "unit": design.HOURS, "whole": 4000.0, "spent": 1500.0, "limit": 2000.0}
    found |= {"cells": ["3k_v1"], "measured": ["3k_v1"], "not_chosen": ["3k_v4", "14k_v4"], "held_out": ["14k_v4"]}
    return found | {"missing": {}, "states": [], "stop": "", "steps": [STEP]} | changed


def test_one_measured_cell_of_a_design_that_goes_on() -> None:
    said = design.sentences(round_of())
    assert said[0].startswith("The question was on which side of 1 rho lies. 1 of the grid's 3 cells was measured")
    assert (
        "1\u202f500 GPU-hours, within a budget of 2\u202f000 GPU-hours (the whole grid: 4\u202f000 GPU-hours)."
        in said[0]
    )
    assert said[1:] == [
        "It goes on.",
        "Not measured, since it stopped before: 3k_v4.",
        "Not measured, since they are held out of the law (grid.held_out): 14k_v4.",
    ]


@pytest.mark.parametrize(("until", "asked"), [("rho", "as narrowly as"), ("best", "within 1.5e+12 FLOPs an answer")])
def test_a_design_that_stopped_early_says_why_and_what_failed(until: str, asked: str) -> None:
    found = round_of(
        until=until, flops=1.5e12, unit="cost", stop="the budget is spent", missing={"3k_v1": "out of memory"}
    )
    said = design.sentences(found)
    assert asked in said[0] and "37.5 % of the grid's cost, within a budget of 50 % of the grid's cost." in said[0]
    assert said[1:3] == ["It stopped because the budget is spent.", "3k_v1 is missing: out of memory."]
    steps = design.steps(found)
    assert steps.rows == [["1", "3k_v1 (missing)", "37.5", "37.5", "0.80"]]
    assert steps.header[2:] == ["cost, % of the grid's", "so far", "expected error"]
    assert "as a share of that before it" in steps.caption
