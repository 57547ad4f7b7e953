"""Budgets of visual tokens by family, against the rule that transformers' own processors have."""

import numpy as np
import pytest

from vlmlaw.evaluation.backends.families import FAMILIES, family_in

GRIDS = ("qwen2-vl", "qwen2.5-vl", "qwen3-vl")


@pytest.mark.parametrize("name", GRIDS)
def test_sizes_are_those_of_the_processors(name):
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    family, rng = FAMILIES[name], np.random.default_rng(3)
    cell = family.cell_px
    for height, width in np.exp(rng.uniform(np.log(30), np.log(5000), (400, 2))).astype(int).tolist():
        for budget in (None, family.least, 100, 256, 1024):
            most = family.most if budget is None else budget
            wanted = smart_resize(height, width, cell, family.least * cell**2, most * cell**2)
            sent = family.resized(height, width, budget)
            if wanted[0] * wanted[1] < family.least * cell**2:
                continue  # the knob goes below what a server's processor makes of anything
            if wanted[0] * wanted[1] > most * cell**2:  # so long that the knob's own V exceeds the budget
                assert family.n_tokens(*sent) <= wanted[0] * wanted[1] // cell**2
                continue
            # A server's processor, with its own limits, makes of what is sent what the knob would have made.
            assert smart_resize(*sent, cell, family.least * cell**2, family.most * cell**2) == wanted
            assert family.n_tokens(*sent) == wanted[0] * wanted[1] // cell**2


@pytest.mark.parametrize("name", GRIDS)
def test_an_image_that_is_small_enough_is_left_alone(name):
    family = FAMILIES[name]
    assert family.resized(333, 444, None) == family.resized(333, 444, 1024) == (333, 444)
    assert family.problem(family.least) == family.problem(0) == family.problem(None) == ""
    assert f"{family.least} to {family.most}" in family.problem(family.least - 1)
    with pytest.raises(ValueError, match="200 to 1"):
        family.resized(10, 2001, 64)


def test_names_tell_families():
    named = {"Qwen/Qwen2-VL-2B-Instruct": "qwen2-vl", "qwen2.5vl:7b": "qwen2.5-vl", "models/Qwen3-VL-8B": "qwen3-vl"}
    assert {name: family_in(name) for name in named} == named
    assert family_in("fixed-model") == family_in("llava-1.5-7b-hf") == ""
