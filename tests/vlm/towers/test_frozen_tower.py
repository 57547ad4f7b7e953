"""The frozen tower is frozen in behaviour, weights and type: what it makes of an image never changes."""

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForImageTextToText,
    CLIPVisionConfig,
    Dinov2Config,
    DINOv3ViTConfig,
    SiglipVisionConfig,
)

from vlmlaw.training.distributed import join
from vlmlaw.training.settings import ComputeSettings
from vlmlaw.training.sharding import prepare, save_whole
from vlmlaw.vlm.load import load_cell

TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
RESTLESS = {  # in training mode: dropout, dropped paths, positions moved and scaled at random
    "clip": CLIPVisionConfig(**TINY, intermediate_size=24, attention_dropout=0.5),
    "siglip": SiglipVisionConfig(**TINY, intermediate_size=24, attention_dropout=0.5, vision_use_head=False),
    "dinov2": Dinov2Config(**TINY, hidden_dropout_prob=0.5, drop_path_rate=0.5),
    "dinov3": DINOv3ViTConfig(**TINY, intermediate_size=24, pos_embed_jitter=2.0, pos_embed_rescale=2.0),
}
PIXELS = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", RESTLESS)
def test_two_passes_in_training_see_the_same(make_vlm, kind):
    vlm = make_vlm(vision=RESTLESS[kind], feature_layers=[-1])
    expected = vlm.encode_images(PIXELS).patches
    vlm.train()
    assert vlm.training and vlm.language_model.training and not vlm.vision_tower.training
    assert torch.equal(vlm.encode_images(PIXELS).patches, expected) and torch.equal(
        vlm.encode_images(PIXELS).patches, expected
    )
    nn.Sequential(vlm).train()  # also as a part of another module
    assert torch.equal(vlm.encode_images(PIXELS).patches, expected)
    vlm.vision_tower.train()
    assert not torch.equal(
        vlm.encode_images(PIXELS).patches, vlm.encode_images(PIXELS).patches
    )  # else the test says little


def test_the_tower_is_in_eval_mode_in_a_training(small, monkeypatch, tmp_path):
    """In every pass of the loop, where the rest is in training mode; its weights stay what they were."""
    from vlmlaw.data.shards import Dataset
    from vlmlaw.training import cell as train
    from vlmlaw.training.settings import CellSettings, TrainingSettings
    from vlmlaw.vlm.towers import features

    modes, see = [], features.patch_features

    def watched(tower, pixel_values, **options):
        modes.append((tower.training, {p.dtype for p in tower.parameters()}))
        return see(tower, pixel_values, **options)

    monkeypatch.setattr(features, "patch_features", watched)
    plan = TrainingSettings(steps=2, batch_size=4, learning_rate=1e-3, new_learning_rate=1e-2, dtype="bfloat16")
    cell = {"size": "3k", "n_visual_tokens": 4, "compressor": "average", "compressor_options": {}, "seed": 0}
    settings = CellSettings(**cell, feature_layers=(2,), training=plan)
    assert Dataset(small.data["train"]).image_names
    train.train_cell(
        small.language_model,
        small.encoder,
        small.tokens["train"],
        small.data["train"],
        tmp_path / "cell",
        settings=settings,
    )
    assert len(modes) >= 2 and all(mode == (False, {torch.float32}) for mode in modes)
    before = AutoModelForImageTextToText.from_pretrained(tmp_path / "cell" / "model")
    assert before.language_model.dtype == torch.bfloat16  # the arithmetic's, in which a cell is saved
    assert {p.dtype for p in before.vision_tower.parameters()} == {torch.float32}
    from transformers import AutoModel

    for name, parameter in AutoModel.from_pretrained(small.encoder).named_parameters():
        assert torch.equal(before.vision_tower.get_parameter(name), parameter), name


TYPES = [("float32", "bfloat16"), ("bfloat16", "float32"), ("float32", "float32"), ("bfloat16", "bfloat16")]


@pytest.mark.parametrize(("of_tower", "of_rest"), TYPES)
@torch.no_grad()
def test_the_towers_type_is_its_own_through_saving_and_loading(make_vlm, tmp_path, of_tower, of_rest):
    """Weights and arithmetic, by transformers' loading as saved and in another type, and by ours."""
    vlm = make_vlm(vision=RESTLESS["clip"], feature_layers=[-1], vision_dtype=of_tower)
    vlm.to(getattr(torch, of_rest))
    vlm.vision_tower.to(getattr(torch, of_tower))
    assert str(vlm.dtype) == f"torch.{of_rest}"
    expected = vlm.encode_images(PIXELS).patches
    assert str(expected.dtype) == f"torch.{of_tower}"
    vlm.save_pretrained(tmp_path)
    for asked in ("", "float32", "bfloat16"):
        options = {"dtype": getattr(torch, asked)} if asked else {}
        loaded = AutoModelForImageTextToText.from_pretrained(tmp_path, **options)
        assert {str(p.dtype) for p in loaded.vision_tower.parameters()} == {f"torch.{of_tower}"}
        others = {str(p.dtype) for name, p in loaded.named_parameters() if not name.startswith("vision_tower.")}
        assert others == {f"torch.{asked or of_rest}"}
        assert torch.equal(loaded.encode_images(PIXELS).patches, expected)
        ids = torch.tensor([[1, 1, 1, 1, 7, 8]] * 2)
        assert str(loaded(ids, pixel_values=PIXELS).logits.dtype) == f"torch.{asked or of_rest}"


@torch.no_grad()
def test_a_checkpoint_that_names_no_type_of_its_tower_has_one_for_all(make_vlm, tmp_path):
    """As those saved before the tower had a type of its own."""
    vlm = make_vlm()
    assert vlm.config.vision_dtype is None
    vlm.save_pretrained(tmp_path)
    for dtype in (torch.float32, torch.bfloat16):
        loaded = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=dtype)
        assert {p.dtype for p in loaded.parameters()} == {dtype}


@pytest.mark.parametrize("of_tower", ["float32", "bfloat16"])
def test_sharded_training_keeps_the_towers_type(make_vlm, words, tmp_path, of_tower):
    """FSDP2 in bfloat16, on one process: the tower's weights and features are as before, and saved as they are."""
    vlm = make_vlm(vision=RESTLESS["clip"], feature_layers=[-1], vision_dtype=of_tower)
    vlm.vision_tower.to(getattr(torch, of_tower)).requires_grad_(False)
    expected, compute = vlm.encode_images(PIXELS).patches, ComputeSettings(logs=())
    ids = torch.tensor([[1, 1, 1, 1, 7, 8]] * 2)
    with join(compute, sharded=True) as machine:
        prepare(vlm, machine=machine, compute=compute, dtype=torch.bfloat16)
        vlm.train()
        out = vlm(ids, pixel_values=PIXELS, labels=ids)
        assert out.logits.dtype == torch.bfloat16
        out.loss.backward()
        assert torch.equal(vlm.encode_images(PIXELS).patches, expected)
        save_whole(vlm, tmp_path, machine=machine, dtype=torch.bfloat16)
    words.save_pretrained(tmp_path)
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert loaded.language_model.dtype == torch.bfloat16
    assert str(loaded.vision_tower.dtype) == f"torch.{of_tower}"
    assert torch.equal(loaded.encode_images(PIXELS).patches, expected)
    evaluated, _ = load_cell(tmp_path, dtype="float32")
    assert evaluated.dtype == torch.float32 and torch.equal(evaluated.encode_images(PIXELS).patches, expected)


@pytest.mark.parametrize("of_tower", ["float32", "bfloat16"])
def test_vision_dtype_of_the_experiment_is_the_towers(make_vlm, small, tmp_path, of_tower):
    """From the fetched tower's pin to the cell's model."""
    from vlmlaw.hub.settings import ModelSettings
    from vlmlaw.training.cell import build_vlm
    from vlmlaw.training.pretrained import fetch_vision
    from vlmlaw.training.settings import CellSettings, TrainingSettings

    source = tmp_path / "source"
    from transformers import CLIPImageProcessor, CLIPVisionModel

    CLIPVisionModel(RESTLESS["clip"]).save_pretrained(source)
    CLIPImageProcessor(image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(source)
    fetch_vision(tmp_path / "encoder", settings=ModelSettings(source=str(source), dtype=of_tower))
    plan = TrainingSettings(steps=1, batch_size=1, learning_rate=1.0, new_learning_rate=1.0, dtype="bfloat16")
    cell = {"size": "3k", "n_visual_tokens": 4, "compressor": "average", "compressor_options": {}, "seed": 0}
    settings = CellSettings(**cell, feature_layers=(-1,), training=plan, place_embedding=False)
    vlm = build_vlm(small.language_model, tmp_path / "encoder", settings=settings)
    assert vlm.config.vision_dtype == of_tower
    assert {str(p.dtype) for p in vlm.vision_tower.parameters()} == {f"torch.{of_tower}"}
    assert str(vlm.encode_images(PIXELS).patches.dtype) == f"torch.{of_tower}"
