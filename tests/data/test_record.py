"""Records with several images: where they stand in data, tokens and batches, and what each question of a test sees."""

import json

import numpy as np
import pytest

from vlmlaw.data.record import Record
from vlmlaw.data.shards import Dataset, ShardWriter
from vlmlaw.errors import UserError
from vlmlaw.tokens.packing import expand_image, make_batch
from vlmlaw.tokens.token_table import tokenize


def said(*values):
    return [{"from": ("human", "gpt")[i % 2], "value": value} for i, value in enumerate(values)]


PAIR = {"id": "p", "image": ["a", "b"], "conversations": said("Is <image> like <image>?", "no", "Why?", "red")}
APART = {"id": "q", "image": ["a", "b"], "conversations": said("What is it?\n<image>", "cat", "<image>\nAnd?", "dog")}
LATE = {"id": "l", "image": "a", "conversations": said("Hello", "hi", "What is <image>?", "cat")}
PLAIN = {"id": "s", "image": "a", "conversations": said("What?\n<image>", "cat", "Where?", "here")}


@pytest.mark.parametrize(
    ("row", "prompts"),
    [
        (PAIR, ["Is <image> like <image>?", "Why?"]),
        (APART, ["<image>\nWhat is it?", "<image>\nAnd?"]),  # a turn's only image goes to its front, as in LLaVA
        (LATE, ["Hello", "<image>\nWhat is ?"]),  # and not to another turn's
        (PLAIN, ["<image>\nWhat?", "Where?"]),
        (PAIR | {"images": PAIR["image"], "image": None}, ["Is <image> like <image>?", "Why?"]),
    ],
)
def test_images_stand_where_the_record_says(row, prompts):
    record = Record.from_json(row, source="f.json")
    first, *later = record.questions
    assert [record.prompt(first), *later] == prompts
    assert Record.from_json(record.to_json(), source="f.json") == record
    assert json.dumps(record.to_json()).count("<image>") == len(record.images)


def test_each_question_of_a_test_sees_the_images_shown_until_then():
    def seen(row):
        parts = Record.from_json(row, source="f").each_question()
        return [(part.images, part.prompt(part.questions[0])) for part in parts]

    assert seen(PAIR) == [
        (("a", "b"), "Is <image> like <image>?"),
        (("a", "b"), "<image>\n<image>\nWhy?"),
    ]
    assert seen(APART) == [(("a",), "<image>\nWhat is it?"), (("a", "b"), "<image>\n<image>\nAnd?")]
    assert seen(LATE) == [((), "Hello"), (("a",), "<image>\nWhat is ?")]
    assert seen(PLAIN) == [(("a",), "<image>\nWhat?"), (("a",), "<image>\nWhere?")]


@pytest.fixture
def dataset(tmp_path):
    """Three images of one color each, and records that show them in another order."""
    with ShardWriter(tmp_path) as writer:
        for number, name in enumerate("abc"):
            writer.add_image(name, np.full((8, 8, 3), number, np.uint8))
        writer.add_record(Record("1", ("<image> shape <image> red",), ("disc",), image="c", more_images=("a",)))
        writer.add_record(Record("2", ("shape red",), ("ring",)))
        writer.add_record(Record("3", ("shape", "<image>\ncount"), ("disc", "two"), image="b"))
        writer.add_record(Record("4", ("pet",), ("seven",), image="a"))
    return Dataset(tmp_path)


def test_tokens_and_batches_keep_images_in_their_places(dataset, words):
    table = tokenize(dataset, words, independent=False)
    assert table.n_images.tolist() == [2, 0, 1, 1]
    assert table.images([0, 2, 3]).tolist() == [2, 0, 1, 0] and table.image_rows.tolist() == [2, -1, 1, 0]
    assert words.decode(table.ids[table.starts[0] : table.starts[1]]) == "<image> shape <image> red disc"
    ids, targets, _ = expand_image(table, 0, n_visual_tokens=3)
    assert (ids == table.image_token_id).tolist() == [True] * 3 + [False] + [True] * 3 + [False] * 2
    assert (targets >= 0).sum() == 2
    batch = make_batch(table, [1, 0, 2], n_visual_tokens=3, pad_id=words.pad_token_id)
    assert batch.image_rows.tolist() == [2, 0, 1]
    assert (batch.input_ids == table.image_token_id).sum(axis=1).tolist() == [0, 6, 3]
    asked = make_batch(table, [1, 0, 2], n_visual_tokens=3, pad_id=words.pad_token_id, reads_question=True)
    assert asked.image_rows[asked.image_of].tolist() == [2, 0, 1] and len(asked.question_ids) == 3


def test_images_behind_the_cut_of_a_dialogue_are_not_shown(dataset, words):
    table = tokenize(dataset, words, independent=False, max_text_tokens=3, skip_at_most=0.5)
    assert table.n_images.tolist() == [0, 0, 1]  # of records 2 (no image), 3 (cut before its image) and 4
    assert table.images(range(3)).tolist() == [0]
    assert [len(table.questions(record, 1)) for record in range(3)] == [0, 0, 1]


def test_the_model_reads_each_image_in_its_place(dataset, words, make_vlm):
    """Logits change with each image, and exchanging the two is another input."""
    import torch

    from vlmlaw.vlm.image_inputs import ImageInputs

    model = make_vlm()
    table = tokenize(dataset, words, independent=False)
    batch = make_batch(table, [0], n_visual_tokens=4, pad_id=words.pad_token_id)
    patches = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(0))
    ids = torch.from_numpy(batch.input_ids)
    with torch.no_grad():
        right, exchanged, same = (
            model(input_ids=ids, images=ImageInputs(patches=patches[rows])).logits[0, -1]
            for rows in (batch.image_rows, batch.image_rows[::-1].copy(), np.array([2, 2]))
        )
    assert (right - exchanged).abs().max() > 1e-4 and (right - same).abs().max() > 1e-4


def test_a_dataset_names_the_image_that_no_shard_holds(dataset):
    path = dataset.folder / "conversations.json"
    path.write_text(json.dumps([PAIR | {"image": ["a", "z"]}]))
    with pytest.raises(UserError, match=r"record 'p' of .* names image 'z', which no shard holds"):
        _ = Dataset(dataset.folder).records
