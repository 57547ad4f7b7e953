"""Sentences of a measurement, where the numbers that they state are made."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from tests.evaluation.measuring.test_family_law import made

from vlmlaw.evaluation.backends.interface import TRAINED_HERE
from vlmlaw.evaluation.measuring.cells import Cell, Model
from vlmlaw.evaluation.measuring.conclude import Conclusions, conclude
from vlmlaw.evaluation.measuring.decide import Wishes
from vlmlaw.evaluation.measuring.family_law import family_laws
from vlmlaw.evaluation.measuring.run import Measured
from vlmlaw.report.measured_words import answer, cells_table, laws


@pytest.mark.parametrize(
    ("slope", "course"), [(0.3, "falls to the most tokens"), (-0.3, "rises from the fewest tokens on")]
)
def test_a_law_without_a_sure_peak_says_how_its_error_goes(slope: float, course: str) -> None:
    found, refused = family_laws(*made(bend=0.0, slope=slope))
    decision = SimpleNamespace(wishes=SimpleNamespace(cost="ms"))
    (line,) = laws(SimpleNamespace(laws=found, checks=[], decision=decision, without_law=refused))
    assert line.endswith(f"is surely the best: the law's error {course}.")


@pytest.mark.parametrize(("family", "differs"), [("qwen2-vl", True), (TRAINED_HERE, False)])
def test_sizes_differ_in_data_and_recipe_only_where_they_were_released(family: str, differs: bool) -> None:
    found, _ = family_laws(*made(bend=0.0, slope=0.3, family=family))
    (line,) = laws(SimpleNamespace(laws=found, checks=[], without_law=[]))
    assert ("(95 %), of this catalogue: its sizes differ in data and recipe, too. " in line) == differs
    assert differs or "(95 %). No V between" in line


def concluded(blind_right: int, seen_right: int) -> Conclusions:
    """One model asked 200 questions without the image, quicker, and with it; so many are right."""
    frames, n = [], 200
    for budget, right, ms in (("0", blind_right, 10.0), ("max", seen_right, 20.0)):
        columns = {"question": np.arange(n), "cluster": np.arange(n), "lost": (np.arange(n) >= right).astype(float)}
        same = {"cell": f"m_v{budget}", "model": "m", "budget": budget, "weight": 1.0, "kind": "", "suite": "s"}
        frames.append(pd.DataFrame({**columns, **same, "height": 9, "width": 9, "n_visual_tokens": 4.0}))
        frames[-1]["total_ms"] = frames[-1]["total_ms_p95"] = ms
    judged = pd.concat(frames, ignore_index=True)
    cells = [Cell(Model(name="m"), 0), Cell(Model(name="m"), None)]
    table = judged.drop_duplicates("cell").reset_index(drop=True)
    return conclude(Measured(judged, table, cells, (), {}), Wishes(worse_by=0.05), metric="exact_match")


def test_where_nothing_is_right_no_cell_is_recommended() -> None:
    (line,) = answer(concluded(0, 0))
    assert line.startswith("No cell is right in any of the 200 questions") and "Take" not in line


def test_an_answer_without_the_image_says_so() -> None:
    found = answer(concluded(150, 150))
    assert found[0].startswith("Take m_v0") and found[1].startswith("It is not shown the image")
    assert not any("not shown the image" in line for line in answer(concluded(20, 150)))


@pytest.mark.parametrize(
    ("v", "least", "most", "source", "text"),
    [
        (4.0, 4.0, 4.0, "counted", "4"),
        (5.0, 4.0, 6.0, "counted", "5 (4-6)"),
        (5.0, 4.0, 6.0, "promised", "5? (4-6)"),
        (np.nan, np.nan, np.nan, "counted", "?"),  # a server that does not say how many
    ],
)
def test_tokens_that_were_not_counted_have_no_numbers(
    v: float, least: float, most: float, source: str, text: str
) -> None:
    found = concluded(20, 150)
    columns = {"n_visual_tokens": v, "v_least": least, "v_most": most, "v_source": source}
    columns |= dict.fromkeys(("n_text_tokens", "n_generated_tokens", "first_token_ms"), np.nan)
    table = found.measured.table.assign(**columns, error=0.5, error_se=0.03)
    shown = cells_table(replace(found, measured=replace(found.measured, table=table)))
    assert [row[2] for row in shown.rows] == [text, text]
    assert not any("nan" in part for row in shown.rows for part in row)
    assert shown.mark and shown.marked == "the cell to take"
