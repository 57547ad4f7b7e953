"""Towers: patch features in raster order, without class tokens, of the hidden states that are asked for."""

from itertools import pairwise

import pytest
import torch
from transformers import AutoConfig, AutoModel, CLIPVisionConfig, CLIPVisionModel, SiglipVisionConfig, SiglipVisionModel

from vlmlaw.vlm.towers.conv_tower import ConvTower, ConvTowerConfig, stem_widths
from vlmlaw.vlm.towers.features import grid_side, patch_features

SHAPE = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24}
PIXELS = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def towers():
    torch.manual_seed(0)
    return {
        "conv": ConvTower(ConvTowerConfig(hidden_size=16, num_hidden_layers=3, image_size=32)).eval(),
        "clip": CLIPVisionModel(CLIPVisionConfig(**SHAPE, image_size=32, patch_size=8)).eval(),
        "siglip": SiglipVisionModel(SiglipVisionConfig(**SHAPE, image_size=32, patch_size=8)).eval(),
    }


@pytest.mark.parametrize("kind", ["conv", "clip", "siglip"])
@torch.no_grad()
def test_layers_are_concatenated_and_may_be_counted_from_the_end(kind):
    tower = towers()[kind]
    assert grid_side(tower.config) == 4
    each = [patch_features(tower, PIXELS, layers=[layer]) for layer in range(4)]
    assert all(features.shape == (2, 16, 16) for features in each)
    assert not any(torch.equal(a, b) for a, b in pairwise(each))
    assert torch.equal(patch_features(tower, PIXELS, layers=[1, -1, -2]), torch.cat([each[1], each[3], each[2]], -1))


@torch.no_grad()
def test_a_class_token_is_left_out():
    """CLIP's stands first: what is left is patch p's state, which starts from patch p's pixels."""
    tower = towers()["clip"]
    states = tower(pixel_values=PIXELS, output_hidden_states=True).hidden_states
    assert states[2].shape == (2, 17, 16)
    assert torch.equal(patch_features(tower, PIXELS, layers=[2]), states[2][:, 1:])


@pytest.mark.parametrize("kind", ["conv", "clip", "siglip"])
@torch.no_grad()
def test_patches_are_in_raster_order(kind):
    """A change within the patch at row 1, column 2 reaches features 1 * 4 + 2 and not 2 * 4 + 1."""
    tower = towers()[kind]
    changed = PIXELS.clone()
    changed[:, :, 9:15, 17:23] += 5
    moved = (patch_features(tower, changed, layers=[0]) - patch_features(tower, PIXELS, layers=[0])).abs().sum((0, 2))
    assert moved[6] > 0 and moved[9] == 0


@torch.no_grad()
def test_the_conv_tower_comes_back_bit_for_bit(tmp_path):
    tower = towers()["conv"]
    tower.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), ConvTowerConfig)
    assert torch.equal(loaded(PIXELS).last_hidden_state, tower(PIXELS).last_hidden_state)


def test_the_stem_halves_until_a_patch_is_one_place():
    for patch, widths in ((8, [3, 24, 48, 64]), (4, [3, 24, 64]), (2, [3, 64])):
        config = ConvTowerConfig(hidden_size=64, patch_size=patch)
        assert stem_widths(config) == widths
        tower = ConvTower(config)
        assert [conv.in_channels for conv in tower.stem] == widths[:-1]


def test_a_patch_that_halving_cannot_make_is_an_error():
    with pytest.raises(ValueError, match="patch_size 14 is no power of 2"):
        ConvTower(ConvTowerConfig(patch_size=14))
