"""What `auto` chooses, and how a training goes on after its device ran out of memory."""

import json
from dataclasses import replace

import pytest
import torch
from transformers import Qwen2Config

from vlmlaw.errors import UserError
from vlmlaw.settings import build, from_json, to_json
from vlmlaw.training.cell import train_cell
from vlmlaw.training.passes import LARGEST, LIMIT, PassLimit, Records, plan_passes
from vlmlaw.training.settings import CellSettings, ComputeSettings, TrainingSettings

PLAN = TrainingSettings(steps=4, batch_size=4, learning_rate=3e-3, new_learning_rate=1e-2, dtype="bfloat16")
SETTINGS = CellSettings(
    size="7b",
    n_visual_tokens=4,
    compressor="block_linear",
    compressor_options={},
    seed=0,
    feature_layers=(2,),
    training=replace(PLAN, batch_size=128),
)
SEVEN_BILLION = Qwen2Config(
    vocab_size=32_000,
    hidden_size=4096,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=32,
    intermediate_size=11_008,
)
RECORDS = Records(n_tokens=826, n_targets=250, n_images=1, longest=2624)


def planned(memory_gb, n_processes=8, **compute):
    return plan_passes(
        SETTINGS,
        RECORDS,
        text=SEVEN_BILLION,
        vision=None,
        compute=ComputeSettings(gpus=n_processes, **compute),
        n_processes=max(1, n_processes),
        memory_gb=memory_gb,
    )


def test_the_less_memory_the_smaller_the_passes_and_then_layers_are_computed_again():
    plans = [planned(memory_gb) for memory_gb in (200, 80, 60, 40, 20)]
    assert (plans[0].recompute, plans[0].tokens_per_pass, plans[0].fits) == (False, LARGEST, True)
    again = [plan.recompute for plan in plans]
    assert again == sorted(again) and again[-1]
    for recompute in (False, True):
        sizes = [plan.tokens_per_pass for plan in plans if plan.recompute is recompute]
        assert sizes == sorted(sizes, reverse=True)
    assert not plans[-1].fits, (
        "16 bytes of each of 7 billion parameters on eight GPUs are 13 GB, and a layer's gradients"
    )


def test_what_is_set_is_kept():
    assert planned(40, tokens_per_pass=9000).tokens_per_pass == 9000
    assert planned(40, tokens_per_pass=None).tokens_per_pass is None
    assert planned(200, recompute=True).recompute and not planned(40, recompute=False).recompute


def test_without_a_gpu_nothing_is_chosen():
    plan = planned(1, n_processes=0)
    assert (plan.tokens_per_pass, plan.recompute, plan.fits) == (None, False, True)


@pytest.mark.parametrize("given", [{}, {"tokens_per_pass": None}, {"tokens_per_pass": 7, "recompute": True}])
def test_settings_take_a_number_or_the_word(given):
    made = build(ComputeSettings, given, where="compute")
    assert from_json(ComputeSettings, to_json(made)) == made
    assert made.recompute == given.get("recompute", "auto") and made.tokens_per_pass == given.get(
        "tokens_per_pass", "auto"
    )


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"tokens_per_pass": "automatic"}, "expected a whole number at least 1, or auto"),
        ({"tokens_per_pass": 0}, "expected a whole number at least 1, or auto"),
        ({"recompute": "yes"}, "expected true or false, or auto"),
    ],
)
def test_other_words_are_refused(given, expected):
    with pytest.raises(UserError, match=expected):
        build(ComputeSettings, given, where="compute")


def trained(small, out, **compute):
    """The log's losses of a small cell; with the limit that is left in its workspace while it trains."""
    settings = replace(SETTINGS, size="3k", training=replace(PLAN, dtype="float32"))
    inputs = small.language_model, small.encoder, small.tokens["train"], small.features["train"]
    train_cell(*inputs, out, settings=settings, compute=ComputeSettings(logs=(), **compute))
    return [json.loads(line)["loss"] for line in (out / "train.jsonl").read_text().splitlines()]


def out_of_memory_above(monkeypatch, n_tokens):
    """Have forward passes of more places than these raise what torch raises on a full device; returns their sizes."""
    from vlmlaw.vlm.model import VlmForConditionalGeneration

    forward, sizes = VlmForConditionalGeneration.forward, []

    def limited(self, *args, **given):
        places = given["input_ids"].numel()
        if self.training:
            sizes.append(places)
            if places > n_tokens:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return forward(self, *args, **given)

    monkeypatch.setattr(VlmForConditionalGeneration, "forward", limited)
    return sizes


@pytest.mark.parametrize("ahead", [0, 2])
def test_a_device_that_ran_out_gets_smaller_passes_and_the_same_training(small, tmp_path, monkeypatch, capsys, ahead):
    expected = trained(small, tmp_path / "whole")
    sizes = out_of_memory_above(monkeypatch, 40)
    found = trained(small, tmp_path / "halved", inputs_ahead=ahead)
    assert found == pytest.approx(expected, rel=1e-5)
    assert sizes[0] > 40 and max(sizes[-4:]) <= 40
    assert "out of memory at step 0 (CUDA out of memory" in capsys.readouterr().err


def test_a_device_too_small_for_one_record_says_what_to_change(small, tmp_path, monkeypatch):
    out_of_memory_above(monkeypatch, 1)
    with pytest.raises(UserError, match=r"a pass of one record.*compute\.recompute: true, take more GPUs"):
        trained(small, tmp_path / "cell")


def test_the_next_attempt_starts_with_the_smaller_passes(tmp_path):
    compute = ComputeSettings(tokens_per_pass=4096, recompute=False)
    PassLimit(tmp_path / "cell.work", compute).keep(1024)
    assert (tmp_path / "cell.work" / LIMIT).exists()
    assert PassLimit(tmp_path / "cell.work", compute).compute.tokens_per_pass == 1024
    lower = replace(compute, tokens_per_pass=512)
    assert PassLimit(tmp_path / "cell.work", lower).compute.tokens_per_pass == 512
