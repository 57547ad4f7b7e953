"""Towers of transformers: their tokens, FLOPs and features against their own outputs, and a refusal of those unfit."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoModel,
    CLIPVisionConfig,
    Dinov2Config,
    Dinov2WithRegistersConfig,
    SiglipVisionConfig,
    SwinConfig,
    ViTConfig,
)

from vlmlaw.errors import UserError
from vlmlaw.vlm.cost import class_tokens, vision_flops
from vlmlaw.vlm.towers.features import patch_features, require_usable

SHAPE = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
TOWERS = {
    "clip": (CLIPVisionConfig(**SHAPE, intermediate_size=40), 1),
    "siglip": (SiglipVisionConfig(**SHAPE, intermediate_size=40, vision_use_head=False), 0),
    "dinov2": (Dinov2Config(**SHAPE), 1),
    "dinov2 gated": (Dinov2Config(**SHAPE, use_swiglu_ffn=True), 1),
    "dinov2 with registers": (Dinov2WithRegistersConfig(**SHAPE, num_register_tokens=4), 5),
    "vit": (ViTConfig(**SHAPE, intermediate_size=40), 1),
}


@pytest.mark.parametrize("name", TOWERS)
@torch.no_grad()
def test_tokens_flops_and_features_are_the_towers_own(name):
    config, n_extra = TOWERS[name]
    torch.manual_seed(0)
    options = {"add_pooling_layer": False} if name == "vit" else {}
    tower = AutoModel.from_config(config, attn_implementation="eager", **options).eval()
    require_usable(tower)
    pixels = torch.randn(2, 3, 32, 32)
    states = tower(pixel_values=pixels, output_hidden_states=True).hidden_states
    assert class_tokens(config) == n_extra == states[-1].shape[1] - 16
    assert torch.equal(patch_features(tower, pixels, layers=[-2, 1]), torch.cat([states[2], states[1]], -1)[:, -16:])
    with FlopCounterMode(display=False) as counter:
        tower(pixel_values=pixels[:1])
    assert vision_flops(config) == counter.get_total_flops()


def test_a_tower_without_a_grid_of_patches_is_refused():
    config = SwinConfig(image_size=32, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[1, 1], window_size=4)
    with pytest.raises(UserError, match=r"type swin gives .* expected .* hidden states of 8 x 8 patches"):
        require_usable(AutoModel.from_config(config).eval())
