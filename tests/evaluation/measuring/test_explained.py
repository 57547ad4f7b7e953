"""Questions that tell models and tokens apart: those that the replies say, with images as they were sent."""

import base64
import io
from itertools import product

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from vlmlaw.evaluation.backends.interface import Reply, budget_text
from vlmlaw.evaluation.measuring.cells import Cell, Model
from vlmlaw.evaluation.measuring.explained import compared
from vlmlaw.evaluation.measuring.judge import judged_rows
from vlmlaw.evaluation.metrics import Question, metric_called

SMALL = Model(name="Qwen2.5-VL-3B", family="qwen2.5-vl", n_params=3e9)
LARGE = Model(name="Qwen2.5-VL-7B", family="qwen2.5-vl", n_params=7e9)
MIDDLE = Model(name="Qwen2.5-VL-5B", family="qwen2.5-vl", n_params=5e9)
HEIGHT, WIDTH = 560, 840  # 20 x 30 cells of 28 px
BUDGETS = (0, 16, 64, None)
# Of each question the cells that are right: (model, budget).
ALWAYS = set(product((SMALL, MIDDLE, LARGE), BUDGETS))
RIGHT = {
    "larger": {(LARGE, b) for b in (16, 64, None)},
    "tokens": {(m, None) for m in (SMALL, LARGE)},
    "neither": {(MIDDLE, None), (LARGE, 0)},  # cells that are not compared
    "all": ALWAYS,
    "mixed": {(SMALL, 16), (LARGE, 16)},
    "two images": ALWAYS,
}


def read_image(name):
    return np.full((HEIGHT, WIDTH, 3), 200, dtype=np.uint8)


def made(models, *, budgets=BUDGETS, counts=True, sizes=True):
    questions = [
        Question(id=name, text=f"{name}?", answers=("yes",), image="a.png", more_images=("b.png",) * ("two" in name))
        for name in RIGHT
    ]
    cells = [Cell(model, budget) for model in models for budget in budgets]
    replies = {cell.name: {q.id: reply(cell, q, counts=counts, sizes=sizes) for q in questions} for cell in cells}
    metric = metric_called("yes_no")
    rows = [
        judged_rows(
            cell, questions, replies[cell.name], {}, metric=metric, suite="s", image_size=lambda _: (HEIGHT, WIDTH)
        )
        for cell in cells
    ]
    return compared(pd.concat(rows), cells, questions, replies, read_image=read_image)


def reply(cell, question, *, counts, sizes):
    """As an endpoint replies: the image was resized by the family's rule before it was sent."""
    said = "yes" if (cell.model, cell.budget) in RIGHT[question.id] else "no"
    if cell.budget == 0:
        return Reply(text=said, seconds=1.0, n_visual_tokens=0 if counts else None)
    resized = cell.model.rule.resized(HEIGHT, WIDTH, cell.budget)
    v = resized[0] * resized[1] // 28**2 + 2 if counts else None
    return Reply(text=said, seconds=1.0, n_visual_tokens=v, sizes=(resized if sizes else (HEIGHT, WIDTH),))


def test_the_smallest_and_the_largest_of_a_family_are_compared():
    (found,) = made([LARGE, SMALL, MIDDLE])
    assert found.models == (SMALL.name, LARGE.name) and found.budgets == ("16", "64", "max")
    assert found.n_questions == 5
    assert found.shares == {name: 0.2 for name in ("larger", "tokens", "neither", "all")}
    assert {reason: [q.question for q in own] for reason, own in found.questions.items()} == {
        name: [f"{name}?"] for name in ("larger", "tokens", "neither")
    }
    (tokens,) = found.questions["tokens"]
    assert [seen.right for seen in tokens.seen] == [
        {SMALL.name: False, LARGE.name: False},
        {SMALL.name: False, LARGE.name: False},
        {SMALL.name: True, LARGE.name: True},
    ]


@pytest.mark.parametrize("sizes", [True, False])
def test_a_picture_is_as_it_was_sent_or_as_the_processor_makes_it(sizes):
    (found,) = made([SMALL, LARGE], sizes=sizes)
    few, _, many = found.questions["tokens"][0].seen
    assert (few.height, few.width) == (3 * 28, 4 * 28) and (few.rows, few.columns) == (3, 4)
    assert few.n_visual_tokens == 3 * 4 + 2
    picture = Image.open(io.BytesIO(base64.b64decode(few.picture.partition(",")[2])))
    assert picture.size == (4 * 28, 3 * 28)
    assert (many.height, many.width, many.rows, many.columns) == (HEIGHT, WIDTH, 20, 30)


def test_a_grid_that_was_not_counted_is_not_drawn():
    (found,) = made([SMALL, LARGE], counts=False)
    assert found.questions["tokens"][0].seen[0].rows == 3  # the family's rule alone says V
    other = [Model(name=f"x-{n}B", family="smolvlm", n_params=n) for n in (1e9, 2e9)]
    assert {(q.seen[0].rows, q.seen[0].width) for q in made(other)[0].questions["neither"]} == {(0, WIDTH)}


def test_no_grid_is_drawn_where_a_compressor_makes_the_tokens():
    """A workflow's model says so by its family alone; that a smaller image would have as many tokens is chance."""
    few = [Model(name=f"few-{n}B", family="qwen2_5_vl+divprune", n_params=n) for n in (1e9, 2e9)]
    cells = [Cell(model, budget) for model in few for budget in (12, None)]
    question = Question(id="a", text="a?", answers=("yes",), image="a.png")
    sizes = ((HEIGHT, WIDTH),)
    said = {
        cell.name: {"a": Reply(text="no", seconds=1.0, n_visual_tokens=cell.budget or 600, sizes=sizes)}
        for cell in cells
    }
    options = {"metric": metric_called("yes_no"), "suite": "s", "image_size": lambda _: (HEIGHT, WIDTH)}
    rows = pd.concat([judged_rows(c, [question], said[c.name], {}, **options) for c in cells])
    ((shown,),) = [one.questions["neither"] for one in compared(rows, cells, [question], said, read_image=read_image)]
    assert [(seen.rows, seen.height, seen.width) for seen in shown.seen] == [(0, HEIGHT, WIDTH)] * 2


def test_a_model_alone_is_compared_with_and_without_the_image_where_it_has_one_v():
    (found,) = made([LARGE], budgets=(0, None))
    assert found.models == (LARGE.name,) and found.budgets == ("0", "max")
    assert not found.questions["larger"] and found.shares["tokens"] == 2 / 5  # larger and tokens
    blind, shown = found.questions["tokens"][0].seen
    assert blind.picture == "" and shown.picture and blind.n_visual_tokens == 0
    assert made([LARGE], budgets=(None,)) == []
    assert budget_text(None) == "max"


def test_models_of_other_families_or_of_unknown_size_are_not_compared_with_each_other():
    strange = [Model(name="a"), Model(name="b", family="qwen2.5-vl")]
    assert [one.models for one in made([SMALL, *strange])] == [(SMALL.name,), ("a",), ("b",)]
