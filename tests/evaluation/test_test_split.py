"""Evaluation: what counts as right is what generating would give, and errors carry standard errors and counts."""

import json
import shutil
from collections import Counter
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
import torch

from by_heart import learn_by_heart
from vlmlaw.data.shards import Dataset, Record
from vlmlaw.evaluation.settings import EvaluationSettings
from vlmlaw.evaluation.test_split import ALL_KINDS, evaluate_cell, judge, mean_text_tokens, scores_of
from vlmlaw.tokens.token_table import TokenTable, tokenize
from vlmlaw.vlm.images import open_images


@pytest.fixture(scope="module")
def tested_split(small, words):
    """The small test split: dataset, tokens, features."""
    return (
        Dataset(small.data["test"]),
        TokenTable.load(small.tokens["test"]),
        open_images(small.features["test"], layers=[2], image_px=96),
    )


@pytest.fixture(scope="module", params=["block_linear", "quecc"])
def half_right(request, make_vlm, tested_split, words):
    """A VLM that has learnt some of the test split by heart."""
    from vlmlaw.vlm.towers.conv_tower import ConvTowerConfig

    _, table, features = tested_split
    torch.manual_seed(1)
    vlm = make_vlm(vision=ConvTowerConfig(hidden_size=16, num_hidden_layers=2), compressor=request.param)
    learn_by_heart(vlm, table, features, pad_id=words.pad_token_id)
    return vlm


@torch.no_grad()
def test_right_is_what_generating_gives(half_right, tested_split, words):
    """Teacher-forced judgement of packed questions against `generate` on each question alone.

    A record's last answer is judged with its end, so generating must end there, too.
    """
    data, table, features = tested_split
    judged = judge(half_right, table, features, batch_size=3, pad_id=words.pad_token_id)
    found = {(row.record, row.question): bool(row.right) for row in judged.itertuples()}
    expected = {}
    for index, record in enumerate(data.records):
        for number, (question, answer) in enumerate(zip(record.questions, record.answers, strict=True)):
            asked = words(question, return_tensors="pt")["input_ids"]
            image = torch.full((1, 4), half_right.config.image_token_id)
            given = {"input_ids": torch.cat([image, asked], dim=1), **features(np.array([index])).tensors()}
            if half_right.compressor.needs_question:
                given |= {"question_ids": asked, "question_mask": torch.ones_like(asked)}
            said = half_right.generate(**given, do_sample=False, max_new_tokens=2)[0, given["input_ids"].shape[1] :]
            right = words.decode(said).split()
            ends = number == len(record.questions) - 1
            expected[index, number] = right == [answer, "<end>"] if ends else right[0] == answer
    assert found == expected
    assert 0.1 < np.mean(list(found.values())) < 0.9  # else the test says little


@torch.no_grad()
def test_batches_have_no_effect(half_right, tested_split, words):
    _, table, features = tested_split
    first, *others = (
        judge(half_right, table, features, batch_size=size, pad_id=words.pad_token_id) for size in (1, 3, 64)
    )
    for other in others:
        pd.testing.assert_frame_equal(first, other)
    assert first.probability.between(0, 1).all()
    sure = first.probability > 0.5  # then no other word is likelier, and greedy decoding says it
    assert first[sure].right.all()
    assert len(first) == sum(len(record.questions) for record in tested_split[0].records)


def test_suites_and_kinds_are_counted_apart():
    class Data:
        records = (
            Record("a", ("q",) * 3, ("a",) * 3, suite="reasoning", kinds=("fact", "hop", "fact")),
            Record("b", ("q",) * 2, ("a",) * 2, suite="reading", kinds=("2x2", "2x2")),
            Record("c", ("q",), ("a",), suite="reasoning", kinds=("hop",)),
        )

    rows = [(0, 0, True), (0, 1, False), (0, 2, False), (1, 0, True), (1, 1, True), (2, 0, False)]
    judged = pd.DataFrame(rows, columns=["record", "question", "right"])
    found = scores_of(judged.assign(probability=[0.9, 0.2, 0.4, 1.0, 0.5, 0.1]), Data)
    assert found["reasoning"][ALL_KINDS].doubt == pytest.approx((0.1 + 0.8 + 0.6 + 0.9) / 4)
    assert found["reading"]["2x2"].doubt == pytest.approx(0.25)
    plain = {suite: {kind: (s.error, s.n_questions) for kind, s in kinds.items()} for suite, kinds in found.items()}
    assert plain == {
        "reasoning": {ALL_KINDS: (0.75, 4), "fact": (0.5, 2), "hop": (1.0, 2)},
        "reading": {ALL_KINDS: (0.0, 2), "2x2": (0.0, 2)},
    }


def test_text_tokens_are_those_of_one_image_with_one_question(small, words):
    """Against the words counted by hand: context and question, neither image nor answer."""
    for split in ("test", "text"):
        data = Dataset(small.data[split])
        n_context = np.mean([len(record.context.split()) for record in data.records])
        n_asked = np.mean([len(q.split()) for record in data.records for q in record.questions])
        assert mean_text_tokens(tokenize(data, words, independent=True)) == round(n_context + n_asked), split


def test_text_tokens_of_dialogues_leave_answers_out(words):
    class Data:
        folder = "nowhere"
        records = (Record("a", ("shape red", "count c7 c8"), ("disc", "blue")), Record("b", ("owner",), ("ada",)))

    # Asked are 2 + 3 words and one word; each record is one dialogue.
    assert mean_text_tokens(tokenize(Data, words, independent=False)) == 3


def test_a_cell_is_evaluated_into_one_file(small, make_vlm, words, tmp_path):
    from vlmlaw.vlm.towers.conv_tower import ConvTowerConfig

    vlm = make_vlm(vision=ConvTowerConfig(hidden_size=16, num_hidden_layers=2), n_visual_tokens=9)
    vlm.save_pretrained(tmp_path / "cell" / "model")
    words.save_pretrained(tmp_path / "cell" / "model")
    settings = {"size": "3k", "n_visual_tokens": 9, "compressor": "block_linear", "seed": 7}
    plan = {"batch_size": 4, "learning_rate": 0.1, "new_learning_rate": 0.2, "warmup_share": 0.05, "dtype": "float32"}
    training = {"settings": settings | {"training": plan}, "versions": {}, "steps": 3, "last_loss": 1.5}
    training |= {"wall_seconds": 2.5, "cpu_seconds": 2.0}
    (tmp_path / "cell" / "training.json").write_text(json.dumps(training))
    arguments = (tmp_path / "cell" / "model", small.data["test"], small.tokens["test"], small.features["test"])
    outs = [tmp_path / f"{size}.json" for size in (2, 64)]
    for out, size in zip(outs, (2, 64), strict=True):
        evaluate_cell(*arguments, out, settings=EvaluationSettings(batch_size=size))
    assert outs[0].read_bytes() == outs[1].read_bytes()
    result = json.loads(outs[0].read_text())
    assert result["cell"] == settings | {"compressor_options": {}}
    counts = {suite: kinds[ALL_KINDS]["n_questions"] for suite, kinds in result["scores"].items()}
    asked = Counter(r.suite for r in Dataset(small.data["test"]).records for _ in r.questions)
    assert counts == dict(asked) and min(asked.values()) > 4
    for suite, kinds in result["scores"].items():
        assert sum(kind["n_questions"] for name, kind in kinds.items() if name != ALL_KINDS) == asked[suite]
    from vlmlaw.vlm import cost

    assert result["parameters"] == asdict(cost.count_parameters(vlm))
    flops = cost.inference_flops(vlm, n_text_tokens=result["n_text_tokens"])
    assert result["flops"] == asdict(flops) | {"all": flops.all}
    assert result["train_seconds"] == 2.5 and result["train_cpu_seconds"] == 2.0
    shutil.rmtree(tmp_path / "cell")
