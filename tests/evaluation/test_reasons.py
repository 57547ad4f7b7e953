"""What a question shows, by hand."""

import numpy as np

from vlmlaw.evaluation.reasons import reasons_of, varied


def test_cells_of_one_llm_or_of_one_v_show_nothing_of_it():
    right = np.array([[0, 1], [1, 1], [0, 0]])
    assert reasons_of(right, is_large=[False, False], v=[1, 9]).tolist() == ["tokens", "all", "neither"]
    assert reasons_of(right, is_large=[True, True], v=[1, 9]).tolist() == ["tokens", "all", "neither"]
    assert reasons_of(right, is_large=[False, True], v=[9, 9]).tolist() == ["larger", "all", "neither"]


def test_a_number_of_tokens_between_has_no_say_in_what_more_tokens_answer():
    right = np.array([[0, between_a, 1, 0, between_b, 1] for between_a in (0, 1) for between_b in (0, 1)])
    found = reasons_of(right, is_large=[False] * 3 + [True] * 3, v=[1, 4, 9] * 2)
    assert set(found) == {"tokens"}


def test_other_kinds_and_other_pictures_come_first():
    items = [("read", 1), ("read", 1), ("read", 2), ("count", 1), ("count", 3)]
    chosen = varied(items, 4, kind=lambda item: item[0], picture=lambda item: item[1])
    assert chosen == [("read", 1), ("count", 3), ("read", 2), ("count", 1)]
    assert varied([], 2, kind=str, picture=str) == [] and len(varied(items, 9, kind=str, picture=str)) == 5
