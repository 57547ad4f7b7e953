"""Tables of the page: what a caption must say so that no row is misread."""

from dataclasses import replace

import numpy as np

from vlmlaw.report import tables
from vlmlaw.report.study import Study


def test_a_table_of_some_budgets_says_of_how_many(study: Study) -> None:
    suite = study.suites[0]
    frontier = suite.frontier(study)
    n_changes = int(frontier[["N", "V"]].ne(frontier[["N", "V"]].shift()).any(axis=1).sum())
    assert n_changes > tables.MAX_BUDGETS
    found = tables.recommended(suite, study)
    assert len(found.rows) == tables.MAX_BUDGETS
    assert found.caption.endswith(f"6 of the {n_changes} budgets at which the best cell changes")
    few = replace(suite, rows=suite.rows[suite.rows["V"].isin((1, 4)) & (suite.rows["N"] < 1e-4)])
    assert "budgets at which" not in tables.recommended(few, study).caption


def test_held_out_rows_have_a_column_only_where_there_are_some(study: Study) -> None:
    suite = study.suites[0]
    found = tables.every_cell(study, suite)
    assert found.header[-1] == "the law" and {row[-1] for row in found.rows} == {"", "held out"}
    seen = [rows.assign(held_out=False) for rows in (suite.rows, suite.others)]
    without = tables.every_cell(study, replace(suite, rows=seen[0], others=seen[1]))
    assert without.header[-1] == "se" and all(len(row) == len(without.header) for row in without.rows)


def test_what_is_bold_is_explained(study: Study) -> None:
    found = tables.law_comparison(study.suites[0], study)
    assert len(found.mark) == 1 and found.marked == "the chosen law"


def test_a_difference_of_nothing_has_no_sign(study: Study) -> None:
    suite = study.suites[0]
    same = [suite.rows["error"].iloc[0] + shift for shift in (-1e-5, 1e-5, 0.02)]
    base = suite.rows.head(1)
    shown = []
    for error in same:
        other = base.assign(compressor="other", error=error)
        table = tables.compressors(replace(suite, rows=base, others=other), study)
        assert table is not None
        shown.append(table.rows[0][-1])
    assert shown == ["0.000", "0.000", "+0.020"]


def test_costs_of_questions_of_unknown_length_have_no_q(study: Study) -> None:
    frame = study.measurements.frame.assign(n_text_tokens=np.nan)
    unknown = replace(study, measurements=replace(study.measurements, frame=frame))
    found = tables.cost(unknown)
    assert found is not None and found.caption.endswith("with one question")
    place = list(found.header).index("2N(Q+V)")
    assert {row[place] for row in found.rows} == {"–"} and not any("nan" in text for row in found.rows for text in row)
    known = tables.cost(study)
    assert known is not None and known.caption.endswith("(Q = 8)")
