"""Dialogues cut off where visual and text tokens together reach a limit."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vlmlaw.data.shards import Dataset, Record, ShardWriter
from vlmlaw.errors import UserError
from vlmlaw.tokens.cut import cut_off
from vlmlaw.tokens.packing import expand_image
from vlmlaw.tokens.token_table import TokenTable, tokenize

SOURCE, V = Path("train.npz"), 4


@pytest.fixture(scope="module")
def table(tmp_path_factory, words) -> TokenTable:
    """Dialogues with none, one and two images, the second of these late."""
    folder = tmp_path_factory.mktemp("dialogues")
    with ShardWriter(folder) as writer:
        for name in "abc":
            writer.add_image(name, np.zeros((4, 4, 3), np.uint8))
        records = [
            Record("text", ("shape red", "letter b2"), ("disc", "Q")),
            Record("one", ("<image>\nshape red", "letter b2", "pet"), ("disc", "Q", "seven"), "a"),
            Record("two", ("<image> shape red", "count <image>"), ("disc", "two"), "b", more_images=("c",)),
            Record("again", ("<image>\nletter b2",), ("Q",), "c"),
        ]
        for record in records:
            writer.add_record(record)
    return tokenize(Dataset(folder), words, independent=False)


def documents(table, n_visual_tokens=V):
    return [
        [part.tolist() for part in expand_image(table, r, n_visual_tokens=n_visual_tokens)] for r in range(len(table))
    ]


@pytest.mark.parametrize("limit", [3, 6, 8, 9, 10, 11, 12, 13, 14, 15, 16, 18, 100])
def test_a_cut_table_is_each_record_cut_off(table, limit):
    expected, images, questions = [], [], []
    for record, (ids, targets, segments) in enumerate(documents(table)):
        end = min(limit, len(ids))
        n_image_tokens = ids[:end].count(table.image_token_id)
        if n_image_tokens % V:  # the cut falls into an image, which is left out with what is behind it
            end = len(ids[:end]) - n_image_tokens % V
        if max(targets[:end], default=-1) < 0:
            continue
        expected.append([ids[:end], targets[:end], segments[:end]])
        n_images = ids[:end].count(table.image_token_id) // V
        images.append(table.images([record])[:n_images].tolist())
        questions.append([question.tolist() for question in table.questions(record, 1)[:n_images]])
    if not expected:
        with pytest.raises(
            UserError, match=f"no record of train.npz has a label within {limit} tokens, 4 for an image"
        ):
            cut_off(table, limit, each=V, source=SOURCE)
        return
    cut = cut_off(table, limit, each=V, source=SOURCE)
    assert documents(cut) == expected
    assert [cut.images([record]).tolist() for record in range(len(cut))] == images
    assert [[q.tolist() for q in cut.questions(record, 1)] for record in range(len(cut))] == questions
    assert all(len(ids) <= limit for ids, *_ in documents(cut))
    if limit == 100:
        assert all(np.array_equal(a, vars(table)[name]) for name, a in vars(cut).items())


def test_questions_that_share_an_image_are_not_cut(table):
    with pytest.raises(UserError, match=r"train.npz has questions that share an image; max_tokens cuts dialogues only"):
        cut_off(replace(table, segments=table.segments - 1), 9, each=V, source=SOURCE)
