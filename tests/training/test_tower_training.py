"""The vision tower trained at its own rate: gradients by transformers' own classes, what moves, what a cell holds."""

import copy
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModel, AutoModelForImageTextToText, CLIPVisionConfig, Dinov2WithRegistersConfig

from vlmlaw.compressors import COMPRESSORS
from vlmlaw.training import batches
from vlmlaw.training.cell import build_vlm, train_cell
from vlmlaw.training.interruption import Stopped
from vlmlaw.training.settings import CellSettings, LoraSettings, TrainingSettings

TINY = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
TOWERS = {
    "clip": CLIPVisionConfig(**TINY, intermediate_size=24, attention_dropout=0.5),
    "registers": Dinov2WithRegistersConfig(**TINY, mlp_ratio=2, num_register_tokens=4, hidden_dropout_prob=0.5),
}
IMAGE, V = 1, 4
IDS = torch.tensor([[IMAGE] * V + [5, 6, 7, 8]])
PIXELS = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
RATES = {"vision_tower": 1e-3, "language_model": 2e-3, "projector": 4e-3}
PLAN = TrainingSettings(
    steps=3,
    batch_size=4,
    learning_rate=RATES["language_model"],
    new_learning_rate=RATES["projector"],
    vision_learning_rate=RATES["vision_tower"],
)
CELL = CellSettings(
    size="10k",
    n_visual_tokens=4,
    compressor="average",
    compressor_options={},
    seed=0,
    feature_layers=(2,),  # of three: the last layer is not read
    fit="pad",
    place_embedding=False,
    training=PLAN,
)
UNREAD = ("encoder.layers.2.", "post_layernorm.")


def train(stages, out, settings=CELL, *, encoder=None) -> SimpleNamespace:
    """The cell's losses and weights, and those of its tower."""
    inputs = stages.language_model, encoder or stages.encoder, stages.tokens["train"], stages.data["train"]
    train_cell(*inputs, out, settings=settings)
    weights = load_file(out / "model" / "model.safetensors")
    losses = [json.loads(line)["loss"] for line in (out / "train.jsonl").read_text().splitlines()]
    tower = {n.removeprefix("vision_tower."): w for n, w in weights.items() if n.startswith("vision_tower.")}
    return SimpleNamespace(losses=losses, weights=weights, tower=tower)


def start_of(stages):
    """The weights before a training."""
    torch.manual_seed(CELL.seed)
    return {
        name: weight.clone()
        for name, weight in build_vlm(stages.language_model, stages.encoder, settings=CELL).state_dict().items()
    }


@pytest.mark.parametrize("kind", TOWERS)
def test_gradients_are_those_of_transformers_own_classes(make_vlm, kind):
    """By their own forwards and torch's autograd; the mean of blocks of projected patches by hand."""
    vlm = make_vlm(vision=TOWERS[kind], feature_layers=[2], compressor="average")
    vlm.vision_tower.requires_grad_(False)
    tower, projector, llm = (copy.deepcopy(part) for part in (vlm.vision_tower, vlm.projector, vlm.language_model))
    vlm.unfreeze_tower()
    vlm(IDS, pixel_values=PIXELS, labels=IDS).loss.backward()

    tower.requires_grad_(True)
    patches = tower(PIXELS, output_hidden_states=True).hidden_states[2][:, -16:]
    blocks = projector(patches).view(1, 2, 2, 2, 2, -1).mean(dim=(2, 4)).view(1, V, -1)
    embeds = torch.cat([blocks, llm.get_input_embeddings()(IDS[:, V:])], dim=1)
    llm(inputs_embeds=embeds, labels=IDS).loss.backward()
    expected = {name: p.grad for name, p in tower.named_parameters() if p.grad is not None}
    found = {name: p.grad for name, p in vlm.vision_tower.named_parameters() if p.requires_grad}
    assert found.keys() == expected.keys() and max(grad.abs().max() for grad in expected.values()) > 1e-4
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=2e-6)


@pytest.mark.parametrize("kind", TOWERS)
def test_a_tower_that_is_trained_is_in_training_mode_with_the_rest(make_vlm, kind):
    vlm = make_vlm(vision=TOWERS[kind], feature_layers=[2])
    expected = vlm.encode_images(PIXELS).patches
    vlm.unfreeze_tower()
    vlm.train()
    assert vlm.vision_tower.training
    first, second = (vlm.encode_images(PIXELS).patches for _ in range(2))
    assert first.requires_grad and not torch.equal(first, second)  # its dropout draws
    assert torch.equal(vlm.eval().encode_images(PIXELS).patches, expected)
    with torch.no_grad():
        assert not vlm.encode_images(PIXELS).patches.requires_grad


def test_batch_normalization_keeps_its_running_statistics(make_vlm):
    vlm = make_vlm()
    vlm.unfreeze_tower()
    vlm.vision_tower.added = nn.Sequential(nn.BatchNorm2d(3))
    assert vlm.train().vision_tower.training and not vlm.vision_tower.added[0].training


# One that each thing is asked of: nothing, the question, importance, keys, the class token, all patches, several V.
KINDS = {"block_linear": 4, "quecc": 4, "prumerge": 4, "visionzip": 4, "internvl_fastervlm": 4, "fastv": 4, "m3": 16}


@pytest.mark.parametrize("compressor", KINDS)
def test_compressors_hand_the_tower_a_gradient(make_vlm, compressor):
    """With an image and, where processes share a step, without one: then of zero, for the same weights."""
    layers = [1, 2] if COMPRESSORS[compressor].reads_all_levels else [2]
    chosen = {"compressor": compressor, "n_visual_tokens": KINDS[compressor]}
    chosen |= {"compressor_options": {"layer": 1}} if compressor == "fastv" else {}
    vlm = make_vlm(vision=TOWERS["clip"], feature_layers=layers, **chosen)
    vlm.unfreeze_tower()
    ids = torch.cat([torch.full((1, vlm.compressor.n_input_tokens), IMAGE), IDS[:, V:]], dim=1)
    asked = {"question_ids": IDS[:, V:], "question_mask": torch.ones(1, 4, dtype=torch.bool)}
    trained = [p for p in vlm.vision_tower.parameters() if p.requires_grad]
    vlm.eval()(ids, pixel_values=PIXELS, labels=ids, **asked if vlm.reads_question else {}).loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)
    assert max(p.grad.abs().max() for p in trained) > 0
    vlm.zero_grad()
    vlm._zero_contribution().backward()
    assert all(p.grad is not None and not p.grad.any() for p in trained)


def test_each_part_moves_at_its_own_rate(stages, tmp_path):
    """Adam's first step is the rate times the sign of the gradient, whatever its size (Kingma & Ba 2015, 2.1)."""
    before = start_of(stages)
    after = train(stages, tmp_path / "cell", replace(CELL, training=replace(PLAN, steps=1))).weights
    for part, rate in RATES.items():
        moved = [(after[name] - before[name]).abs().max() for name in after if name.startswith(f"{part}.")]
        assert max(moved) == pytest.approx(rate, rel=1e-3), part
    unread = [name for name in before if name.startswith(tuple(f"vision_tower.{part}" for part in UNREAD))]
    assert unread and all(torch.equal(after[name], before[name]) for name in unread)


def test_a_rate_of_almost_nothing_is_a_frozen_tower(stages, tmp_path):
    frozen = train(
        stages, tmp_path / "frozen", replace(CELL, training=replace(PLAN, vision_learning_rate=None, clip_norm=1e9))
    )
    still = train(
        stages, tmp_path / "still", replace(CELL, training=replace(PLAN, vision_learning_rate=1e-12, clip_norm=1e9))
    )
    assert still.losses == pytest.approx(frozen.losses, abs=1e-6)
    torch.testing.assert_close(still.weights, frozen.weights, atol=1e-6, rtol=1e-5)
    source = AutoModel.from_pretrained(json.loads((stages.encoder / "model.json").read_text())["source"])
    own = {n.removeprefix("vision_model."): w for n, w in source.state_dict().items() if n.startswith("vision_model.")}
    assert all(torch.equal(weight, own[name.removeprefix("vision_model.")]) for name, weight in frozen.tower.items())


@pytest.mark.parametrize(
    ("dtype", "lora"), [("bfloat16", None), ("float32", LoraSettings(rank=2, alpha=4, dropout=0.0))]
)
def test_a_finished_cell_sees_by_the_trained_tower(stages, tmp_path, dtype, lora):
    """In bfloat16 saved as it computed, float32 masters having moved; also beside adapters."""
    before, plan = start_of(stages), replace(PLAN, dtype=dtype, lora=lora, vision_learning_rate=1e-2)
    cell = train(stages, tmp_path / "cell", replace(CELL, training=plan))
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "cell" / "model")
    assert {str(w.dtype) for w in loaded.vision_tower.parameters()} == {f"torch.{dtype}"}
    assert loaded.config.vision_dtype == dtype
    start = {name: before[f"vision_tower.{name}"].to(weight.dtype) for name, weight in cell.tower.items()}
    moved = {name for name, weight in cell.tower.items() if not torch.equal(weight, start[name])}
    assert moved == {name for name in start if not name.startswith(UNREAD)}
    assert all(torch.equal(weight, cell.tower[name]) for name, weight in loaded.vision_tower.named_parameters())


def test_stopped_and_resumed_is_the_same_bit_for_bit(stages, tmp_path, terminate_at_call):
    """With dropout in the tower, which draws."""
    torch.manual_seed(0)
    restless = CLIPVisionConfig(
        **TINY | {"image_size": 64, "patch_size": 16}, intermediate_size=24, attention_dropout=0.1
    )
    AutoModel.from_config(restless).save_pretrained(tmp_path / "tower")
    whole = train(stages, tmp_path / "whole", encoder=tmp_path / "tower")
    terminate_at_call(batches, "packed_inputs", 3)  # in the second step: one call is the check's before a training
    with pytest.raises(Stopped):
        train(stages, tmp_path / "cell", encoder=tmp_path / "tower")
    again = train(stages, tmp_path / "cell", encoder=tmp_path / "tower")
    assert again.losses == whole.losses
    assert all(torch.equal(again.weights[name], weight) for name, weight in whole.weights.items())
