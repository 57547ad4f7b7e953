"""Tokens and batches: packed questions are worth each question alone, and labels stand on answers only."""

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vlmlaw.data.settings import TokenSettings
from vlmlaw.data.shards import Dataset, Record, ShardWriter
from vlmlaw.errors import UserError
from vlmlaw.tokens.packing import _positions, attention_rule, expand_image, make_batch, record_order, records_of_step
from vlmlaw.tokens.token_table import IGNORE_INDEX, TokenTable, tokenize, tokenize_dataset
from vlmlaw.training.batches import model_inputs
from vlmlaw.vlm.image_inputs import ImageInputs

V = 4
QUESTIONS = ("shape red", "count c7", "letter b2", "pet")
ANSWERS = ("disc", "blue", "Q", "seven")
IMAGE = np.zeros((8, 8, 3), dtype=np.uint8)


def dataset_of(folder, records):
    """A dataset of these records; every image that they name is black."""
    with ShardWriter(folder) as writer:
        for record in records:
            writer.add_record(record)
            if record.image:
                writer.add_image(record.image, IMAGE)
    return Dataset(folder)


@pytest.fixture
def dataset(tmp_path):
    """Records of one to four questions, with and without an image and a context."""
    return dataset_of(
        tmp_path / "data",
        [
            Record("a", QUESTIONS, ANSWERS, image="a"),
            Record("b", QUESTIONS[:1], ANSWERS[:1], image="b"),
            Record("c", QUESTIONS[:2], ANSWERS[:2], context="disc red a1 ring blue c7"),
            Record("d", QUESTIONS[:3], ANSWERS[:3], image="d", context="one green b3"),
            Record("e", QUESTIONS[1:2], ANSWERS[1:2]),
        ],
    )


@pytest.fixture
def table(dataset, words):
    return tokenize(dataset, words, independent=True)


def document(table, record):
    return [
        array[table.starts[record] : table.starts[record + 1]] for array in (table.ids, table.targets, table.segments)
    ]


def labels_of(words, ids, targets):
    """For each label, the word before it and the word to predict."""
    places = np.flatnonzero(np.asarray(targets) != IGNORE_INDEX)
    return [(words.decode(ids[place]), words.decode(targets[place])) for place in places]


def test_labels_stand_on_answers_only(table, words):
    """Each answer is predicted at its question's last word; that an answer ends, after the record's last one only."""
    ids, targets, segments = document(table, 0)
    assert labels_of(words, ids, targets) == [
        *[("red", "disc"), ("c7", "blue"), ("b2", "Q"), ("pet", "seven"), ("seven", "<end>")]
    ]
    assert words.decode(ids) == "<image> shape red count c7 letter b2 pet seven"
    assert segments.tolist() == [0, 1, 1, 2, 2, 3, 3, 4, 4]


def test_the_prefix_holds_all_that_prompts_share_but_never_a_whole_prompt(table, words):
    prefixes = []
    for record in range(len(table)):
        ids, _, segments = document(table, record)
        prefixes.append(words.decode(ids[segments == 0]))
    assert prefixes == ["<image>", "<image> shape", "disc red a1 ring blue c7", "<image> one green b3", "count"]


def test_a_dialogue_learns_every_answer_with_its_end_and_sees_what_came_before(dataset, words):
    table = tokenize(dataset, words, independent=False)
    ids, targets, segments = document(table, 0)
    assert words.decode(ids) == ("<image> shape red disc <end> count c7 blue <end> letter b2 Q <end> pet seven")
    said = [pair for place in zip(QUESTIONS, ANSWERS, strict=True) for pair in _turn_labels(*place)]
    assert labels_of(words, ids, targets) == said
    assert set(segments.tolist()) == {1}
    assert attention_rule(segments[None])[0, 0].tolist() == np.tri(len(ids), dtype=bool).tolist()


def _turn_labels(question, answer):
    return [(question.split()[-1], answer), (answer, "<end>")]


def test_the_table_is_kept_bit_for_bit(dataset, words, tmp_path):
    words.save_pretrained(tmp_path / "words")
    tokenize_dataset(
        dataset.folder, tmp_path / "words", tmp_path / "table.npz", settings=TokenSettings(independent=True)
    )
    found, expected = TokenTable.load(tmp_path / "table.npz"), tokenize(dataset, words, independent=True)
    for name, value in vars(expected).items():
        assert np.array_equal(getattr(found, name), value), name
        assert np.asarray(getattr(found, name)).dtype == np.asarray(value).dtype, name


def test_images_become_v_tokens_in_their_place(table):
    ids, targets, segments = document(table, 0)
    for v in (1, 3, 16):
        grown_ids, grown_targets, grown_segments = expand_image(table, 0, n_visual_tokens=v)
        assert grown_ids.tolist() == [table.image_token_id] * v + ids[1:].tolist()
        assert grown_targets.tolist() == [IGNORE_INDEX] * v + targets[1:].tolist()
        assert grown_segments.tolist() == [0] * v + segments[1:].tolist()


def test_positions_go_on_from_the_prefix_in_every_segment():
    segments = [[0, 0, 0, 1, 1, 2, 3, 3], [1, 1, 1, -1, -1, -1, -1, -1], [1, 1, 2, 2, 2, 3, -1, -1]]
    expected = [[0, 1, 2, 3, 4, 3, 3, 4], [0, 1, 2, 0, 0, 0, 0, 0], [0, 1, 0, 1, 2, 0, 0, 0]]
    assert _positions(np.array(segments)).tolist() == expected


def test_attention_sees_the_prefix_and_its_own_question_only():
    segments = np.array([[0, 0, 1, 1, 2, -1]])
    attends = attention_rule(segments)[0, 0]
    for query in range(6):
        for key in range(6):
            s_query, s_key = segments[0, query], segments[0, key]
            assert attends[query, key] == (key <= query and s_key in (0, s_query)), (query, key)
    assert attends.any(axis=1).all()  # a row without any key would be NaN


def reference_losses(model, patches, words, table, records):
    """Every question alone: its own row without padding or packing, no mask, no positions; (n, vocab) and targets."""
    logits, targets = [], []
    for record in records:
        ids, goals, segments = expand_image(table, record, n_visual_tokens=V)
        for number in range(1, segments.max() + 1):
            own = (segments == 0) | (segments == number)
            row = torch.from_numpy(ids[own].astype(np.int64))[None]
            image = table.image_rows[record]
            given = {}
            if image >= 0:
                given["patches"] = patches[image][None]
                if model.compressor.needs_question:
                    asked = {0: QUESTIONS, 1: QUESTIONS, 3: [f"one green b3\n{one}" for one in QUESTIONS]}[record]
                    given["question_ids"] = torch.tensor([words(asked[number - 1])["input_ids"]])
                    given["question_mask"] = torch.ones_like(given["question_ids"])
            all_logits = model(input_ids=row, **given).logits[0]
            wanted = goals[own] != IGNORE_INDEX
            logits.append(all_logits[torch.from_numpy(wanted)])
            targets.append(goals[own][wanted])
    return torch.cat(logits), torch.from_numpy(np.concatenate(targets).astype(np.int64))


@pytest.mark.parametrize(
    ("options", "records"),
    [
        ({}, [0, 1, 2, 3, 4]),
        ({}, [2, 4]),
        ({"position_embedding": True, "compressor": "average"}, [3, 0]),
        ({"compressor": "quecc"}, [0, 1, 3]),
        ({"compressor": "quecc"}, [2, 0, 4]),
        ({"compressor": "quecc"}, [4, 2]),
    ],
)
@torch.no_grad()
def test_packed_questions_are_worth_each_question_alone(make_vlm, table, words, options, records):
    """Same logits and loss as every question by itself; so neither packing, padding nor neighbours have an effect."""
    model = make_vlm(**options)
    patches = torch.randn(len(table), 16, 16, generator=torch.Generator().manual_seed(1))
    batch = make_batch(
        table,
        records,
        n_visual_tokens=V,
        pad_id=words.pad_token_id,
        reads_question=model.compressor.needs_question,
    )
    found = model(**model_inputs(batch, ImageInputs(patches=patches[batch.image_rows])))
    logits, targets = reference_losses(model, patches, words, table, records)
    torch.testing.assert_close(found.logits, logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.loss, F.cross_entropy(logits, targets), atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_mask_means_the_same_to_every_attention(make_vlm, table, words):
    """transformers hands a mask with a head axis on as it is: eager attention would add True to the scores as 1."""
    model = make_vlm()
    batch = make_batch(table, [0, 3], n_visual_tokens=V, pad_id=words.pad_token_id)
    given = model_inputs(batch, ImageInputs(patches=torch.randn(2, 16, 16)))
    expected = model(**given).logits
    model.set_attn_implementation("eager")
    torch.testing.assert_close(model(**given).logits, expected, atol=1e-5, rtol=0)


def test_questions_say_which_question_a_label_belongs_to(table, words):
    for reads_question in (False, True):
        batch = make_batch(table, [3, 1], n_visual_tokens=V, pad_id=words.pad_token_id, reads_question=reads_question)
        rows, places = np.nonzero(batch.targets != IGNORE_INDEX)
        found = [(int(batch.records[row]), int(batch.questions[row, at])) for row, at in zip(rows, places, strict=True)]
        assert found == [(3, 0), (3, 1), (3, 2), (3, 2), (1, 0), (1, 0)]


def test_a_compressor_reads_the_bare_text_of_each_question(table, words):
    batch = make_batch(table, [3, 2, 1], n_visual_tokens=V, pad_id=words.pad_token_id, reads_question=True)
    read = [words.decode(ids[mask]) for ids, mask in zip(batch.question_ids, batch.question_mask, strict=True)]
    shown = [f"one green b3 {question}" for question in QUESTIONS[:3]] + [QUESTIONS[0]]
    assert read == shown  # and the record without an image, which nothing compresses, is not among them
    assert batch.image_rows[batch.image_of].tolist() == [2, 2, 2, 1]
    assert batch.image_rows.tolist() == [1, 2]  # each image once, however many questions it has
    assert batch.records.tolist() == [3, 3, 3, 2, 2, 1]


def test_an_epoch_shows_every_record_once_in_an_order_of_its_own():
    orders = [record_order(50, seed=seed, epoch=epoch) for seed in (0, 1) for epoch in (0, 1)]
    for order in orders:
        assert sorted(order.tolist()) == list(range(50))
    assert len({tuple(order.tolist()) for order in orders}) == 4
    assert np.array_equal(orders[0], record_order(50, seed=0, epoch=0))


def test_a_step_knows_its_records_without_the_steps_before_it():
    steps = [records_of_step(10, 3, seed=5, step=step) for step in range(6)]
    assert np.array_equal(steps[4], records_of_step(10, 3, seed=5, step=4))
    for epoch in (0, 1):
        shown = np.concatenate(steps[3 * epoch : 3 * epoch + 3])
        assert np.array_equal(shown, record_order(10, seed=5, epoch=epoch)[:9])
    assert len(records_of_step(2, 8, seed=0, step=7)) == 2  # fewer records than a batch holds: all of them


def test_a_dataset_without_records_is_an_error(tmp_path, words):
    with pytest.raises(UserError, match="holds no record"):
        tokenize(dataset_of(tmp_path, []), words, independent=True)


def test_an_answer_that_the_template_swallows_is_an_error(dataset, words, monkeypatch):
    silent = "{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'] }} {% endif %}{% endfor %}"
    monkeypatch.setattr(words, "chat_template", silent)
    with pytest.raises(UserError, match=re.escape("record 'a': the chat template leaves an answer without a label")):
        tokenize(dataset, words, independent=True)


def test_a_tokenizer_without_the_image_token_is_an_error(dataset, words):
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(WordLevel({"<unknown>": 0, "red": 1}, unk_token="<unknown>"))
    core.pre_tokenizer = WhitespaceSplit()
    other = PreTrainedTokenizerFast(tokenizer_object=core, chat_template=words.chat_template)
    with pytest.raises(UserError, match="record 'a' has an image, but its text 0 tokens <image>"):
        tokenize(dataset, other, independent=True)


def test_a_compressor_that_reads_questions_says_when_it_gets_none(make_vlm, table, words):
    batch = make_batch(table, [0], n_visual_tokens=V, pad_id=words.pad_token_id)
    with pytest.raises(ValueError, match="quecc needs question_ids"):
        make_vlm(compressor="quecc")(**model_inputs(batch, ImageInputs(patches=torch.randn(1, 16, 16))))
