"""Greedy replies: those of transformers' own generate, at any batch size; verdicts are those of teacher forcing."""

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

from by_heart import learn_by_heart
from vlmlaw.data.shards import Dataset
from vlmlaw.errors import UserError
from vlmlaw.evaluation.test_split import judge
from vlmlaw.tokens.token_table import TokenTable
from vlmlaw.vlm.generate import Prompter, replies
from vlmlaw.vlm.image_inputs import ImageInputs
from vlmlaw.vlm.images import load_features

FEATURES = {row: torch.randn(16, 16, generator=torch.Generator().manual_seed(row)) for row in range(5)}
QUESTIONS = ("shape red", "count c7 c8 pet", "owner", "shape", "count c1", "shape blue c3", "owner ada", "c4 c5")


def patches_of(images):
    return ImageInputs(patches=torch.stack([FEATURES[image] for image in images]))


def ask(vlm, words, said, **options):
    """Replies as text, in the order of what was said: questions with their images."""
    prompter = Prompter(words, n_visual_tokens=vlm.config.n_visual_tokens, image_token_id=vlm.config.image_token_id)
    prompts = [prompter(text, *images) for text, *images in said]
    given = {"patches_of": patches_of, "stop_ids": prompter.stop_ids(), "pad_id": words.pad_token_id}
    found = dict(replies(vlm, prompts, **given | {"batch_size": 3, "max_new_tokens": 6} | options))
    return [words.decode(found[index]) for index in range(len(said))]


@pytest.fixture(scope="module")
def said():
    """Questions of several lengths on images in turn, one without an image, one with two."""
    return [(text, index * 3 % 5) for index, text in enumerate(QUESTIONS)] + [("owner c2",), ("shape c4", 1, 3)]


@pytest.mark.parametrize("compressor", ["block_linear", "quecc"])
def test_replies_are_the_same_at_any_batch_size(make_vlm, words, said, compressor):
    vlm = make_vlm(compressor=compressor, seed=3)
    first, *others = (ask(vlm, words, said, batch_size=size) for size in (1, 2, 4, 64))
    assert all(other == first for other in others)
    assert len(set(first)) > 3  # else the test says little


class OnlySomeFit:
    """A forward that runs out of memory for more than so many sequences."""

    def __init__(self, forward, most):
        self.forward, self.most, self.asked = forward, most, []

    def __call__(self, input_ids=None, **given):
        self.asked.append(len(input_ids))
        if len(input_ids) > self.most:
            raise torch.OutOfMemoryError("as CUDA says it")
        return self.forward(input_ids=input_ids, **given)


@pytest.mark.parametrize("compressor", ["block_linear", "quecc"])
def test_where_memory_runs_out_batches_are_halved(make_vlm, small, words, said, monkeypatch, compressor):
    from vlmlaw.vlm.towers.conv_tower import ConvTowerConfig

    table, features = TokenTable.load(small.tokens["test"]), load_features(small.features["test"], layers=[2])
    tower = ConvTowerConfig(hidden_size=16, num_hidden_layers=2)
    asked, vlm = (make_vlm(compressor=compressor, seed=3, **options) for options in ({}, {"vision": tower}))

    def judged():
        seen = lambda rows: ImageInputs(patches=features(rows))  # noqa: E731
        return judge(vlm, table, seen, batch_size=len(table), pad_id=words.pad_token_id)

    replied, expected = ask(asked, words, said, batch_size=8), judged()
    narrow = OnlySomeFit(asked.forward, 2)
    monkeypatch.setattr(asked, "forward", narrow)
    assert ask(asked, words, said, batch_size=8) == replied
    assert [n for n in narrow.asked if n > 2] == [8, 4]  # not tried again
    monkeypatch.setattr(vlm, "forward", OnlySomeFit(vlm.forward, 4))
    found = judged()
    assert found.right.tolist() == expected.right.tolist()
    np.testing.assert_allclose(found.probability, expected.probability, rtol=1e-4)


@pytest.mark.parametrize("compressor", ["fastv", "vtw"])
def test_inside_the_llm_records_with_and_without_an_image_mix(make_vlm, words, said, compressor):
    """`said` has questions of both kinds; one that shows two images is refused before any is asked."""
    options = {"layer": 1} if compressor == "fastv" else {}
    vlm = make_vlm(compressor=compressor, compressor_options=options, seed=3)
    vlm.set_attn_implementation("eager")
    prompter = Prompter(words, n_visual_tokens=16, image_token_id=vlm.config.image_token_id)
    prompts = [prompter(text, *images) for text, *images in said]
    given = {"patches_of": patches_of, "stop_ids": prompter.stop_ids(), "pad_id": words.pad_token_id}
    first, *others = (
        dict(replies(vlm, prompts[:-1], **given, batch_size=size, max_new_tokens=6)) for size in (1, 3, 64)
    )
    assert all(other == first for other in others) and len(set(map(tuple, first.values()))) > 3
    with pytest.raises(UserError, match="keeps tokens of one image a question; found a question with 2"):
        next(replies(vlm, prompts, **given, batch_size=3, max_new_tokens=6))


@pytest.mark.parametrize("compressor", ["block_linear", "quecc"])
def test_replies_are_those_of_transformers(make_vlm, words, said, compressor):
    """Each prompt alone through `generate`, without padding."""
    vlm = make_vlm(compressor=compressor, seed=3)
    prompter = Prompter(words, n_visual_tokens=4, image_token_id=vlm.config.image_token_id)
    options = GenerationConfig(
        do_sample=False, max_new_tokens=6, eos_token_id=prompter.stop_ids(), pad_token_id=words.pad_token_id
    )
    expected = []
    for text, *images in said:
        prompt = prompter(text, *images)
        given = {"input_ids": torch.tensor([prompt.ids])}
        if images:
            given["patches"] = patches_of(images).patches
            if vlm.compressor.needs_question:
                question = torch.tensor(prompt.questions)
                given |= {"question_ids": question, "question_mask": torch.ones_like(question).bool()}
        row = vlm.generate(**given, generation_config=options)[0, len(prompt.ids) :]
        expected.append(words.decode([token for token in row.tolist() if token not in prompter.stop_ids()]))
    assert ask(vlm, words, said) == expected


def test_the_checkpoints_generation_settings_are_left_out(make_vlm, words, said):
    vlm = make_vlm(seed=3)
    plain = ask(vlm, words, said)
    vlm.generation_config = GenerationConfig(do_sample=True, temperature=5.0, repetition_penalty=3.0)
    assert ask(vlm, words, said) == plain


def test_a_reply_ends_with_its_turn_or_at_the_limit(make_vlm, words, said):
    vlm = make_vlm(seed=3)
    long = ask(vlm, words, said, max_new_tokens=6)
    short = ask(vlm, words, said, max_new_tokens=2)
    assert short == [" ".join(text.split()[:2]) for text in long]
    with torch.no_grad():
        vlm.get_output_embeddings().weight[words.eos_token_id] = 0
    assert all("<end>" not in text for text in ask(vlm, words, said))


def test_an_image_is_encoded_once_for_a_batch(make_vlm, words):
    asked = []

    def counting(images):
        asked.append(list(images))
        return patches_of(images)

    said = [(QUESTIONS[index], index % 2) for index in range(8)]
    ask(make_vlm(), words, said, batch_size=4, patches_of=counting)
    assert asked == [[0], [1]]


def test_a_tokenizer_that_loses_the_image_is_refused(make_vlm, words):
    prompter = Prompter(words, n_visual_tokens=4, image_token_id=9999)
    with pytest.raises(UserError, match="0 tokens <image>, expected 1"):
        prompter("shape red", 0)


@pytest.mark.parametrize("compressor", ["block_linear", "quecc"])
@torch.no_grad()
def test_verdicts_are_those_of_teacher_forcing(make_vlm, small, words, compressor):
    """Exact match by generating against one pass with all answers in place, on the miniature's own questions."""
    from vlmlaw.vlm.towers.conv_tower import ConvTowerConfig

    data, table = Dataset(small.data["test"]), TokenTable.load(small.tokens["test"])
    features = load_features(small.features["test"], layers=[2])
    vlm = make_vlm(vision=ConvTowerConfig(hidden_size=16, num_hidden_layers=2), compressor=compressor, seed=1)
    seen = lambda rows: ImageInputs(patches=features(rows))  # noqa: E731
    learn_by_heart(vlm, table, seen, pad_id=words.pad_token_id)
    judged = judge(vlm, table, seen, batch_size=3, pad_id=words.pad_token_id)
    prompter = Prompter(words, n_visual_tokens=4, image_token_id=vlm.config.image_token_id)
    keys = [(index, number) for index, record in enumerate(data.records) for number in range(len(record.questions))]
    prompts = [
        prompter(data.records[r].prompt(data.records[r].questions[q]), data.image_row(data.records[r])) for r, q in keys
    ]
    found = dict(
        replies(
            vlm,
            prompts,
            patches_of=lambda rows: seen(np.array(rows)),
            stop_ids=prompter.stop_ids(),
            pad_id=words.pad_token_id,
            batch_size=5,
            max_new_tokens=2,
        )
    )
    right = {}
    for index, (record, number) in enumerate(keys):
        said, answer = words.decode(found[index]).split(), data.records[record].answers[number]
        # That an answer ends is asked of a record's last one only (see token_table).
        is_last = number == len(data.records[record].questions) - 1
        right[record, number] = said == [answer] if is_last else said[:1] == [answer]
    assert right == {(row.record, row.question): bool(row.right) for row in judged.itertuples()}
    assert 0.1 < np.mean(list(right.values())) < 0.95  # else the test says little


@pytest.mark.parametrize("span", [None, 1.0])
def test_prompts_beyond_the_models_positions_are_refused_before_any_is_asked(make_vlm, words, said, monkeypatch, span):
    """Of the prompts the longest counts, an image by its positions; replies end at the last position."""
    vlm = make_vlm(seed=3, visual_span=span)
    prompter = Prompter(words, n_visual_tokens=4, image_token_id=vlm.config.image_token_id)
    prompts = [prompter(text, *images) for text, *images in said]
    takes = [len(prompt.ids) - len(prompt.images) * (0 if span is None else 3) for prompt in prompts]
    longest = max(range(len(takes)), key=takes.__getitem__)
    most = max(takes)
    whole = ask(vlm, words, said, stop_ids=[words.pad_token_id])
    monkeypatch.setattr(vlm.language_model.config, "max_position_embeddings", most)
    for full, cut, taken in zip(whole, ask(vlm, words, said, stop_ids=[words.pad_token_id]), takes, strict=True):
        assert cut.split() == full.split()[: most - taken + 1]
    vlm.language_model.config.max_position_embeddings = most - 1
    monkeypatch.setattr(vlm, "forward", None)
    with pytest.raises(UserError, match=rf"prompt {longest + 1} of 10 takes {most} positions .* has {most - 1} "):
        ask(vlm, words, said)


def test_chat_refuses_what_is_beyond_the_models_positions(cell, tmp_path):
    import json
    import shutil

    from vlmlaw.evaluation.chat import ask as chat

    shutil.copytree(cell / "model", tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = 5
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"the prompt takes \d+ positions \(\d+ tokens of text, 0 images"):
        chat(tmp_path / "model", None, "shape red c1 c2 c3 c4", max_new_tokens=9)
