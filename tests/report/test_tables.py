"""Tables of the page: what a caption must say so that no row is misread."""

from dataclasses import replace

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
