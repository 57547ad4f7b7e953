"""Towers of transformers: their tokens, FLOPs and features against their own outputs, and a refusal of those unfit."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    Aimv2VisionConfig,
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
from vlmlaw.vlm.towers.resize import require_own_features, resized

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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", TOWERS)
@torch.no_grad()
def test_a_resized_tower_is_the_class_with_interpolated_positions_to_the_bit(name, dtype):
    """Also with its FLOPs and patches counted, larger and smaller than its own 32 pixels."""
    config, n_extra = TOWERS[name]
    torch.manual_seed(0)
    tower = AutoModel.from_config(config, attn_implementation="eager").eval().requires_grad_(False)
    for part in tower.modules():  # some tables begin at zero, which would interpolate to anything
        for table in ("position_embeddings", "position_embedding"):
            values = getattr(part, table, None)
            if values is not None:
                torch.nn.init.normal_(getattr(values, "weight", values))
    tower.to(dtype)
    flag = {} if name.startswith("dinov2") else {"interpolate_pos_encoding": True}
    for side in (48, 24):
        pixels = torch.randn(1, 3, side, side, dtype=dtype)
        expected = tower(pixel_values=pixels, output_hidden_states=True, **flag).hidden_states
        larger = resized(tower, side)
        require_own_features(tower, larger)
        require_usable(larger)
        found = larger(pixel_values=pixels, output_hidden_states=True).hidden_states
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True)) and len(found) == 4
        assert found[0].dtype == dtype and found[0].shape[1] == (side // 8) ** 2 + n_extra
        assert not any(p.requires_grad for p in larger.parameters()) and not larger.training
        with FlopCounterMode(display=False) as counter:
            larger(pixel_values=pixels)
        pooled = 2 * 24 * 24 if name == "vit" else 0  # ViT's pooler, which nobody reads
        assert vision_flops(larger.config) == counter.get_total_flops() - pooled
    assert resized(tower, 32) is tower and tower.config.image_size == 32


def test_a_tower_whose_positions_its_class_does_not_interpolate_is_refused():
    own = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 40}
    aimv2 = AutoModel.from_config(Aimv2VisionConfig(**own, image_size=32, patch_size=8))
    with pytest.raises(
        UserError, match=r"type aimv2_vision_model has no position embeddings that .* 32 only; leave out"
    ):
        resized(aimv2, 48)
    clip = AutoModel.from_config(TOWERS["clip"][0])
    with pytest.raises(UserError, match="image_size 44 is no multiple of the tower's patches of 8"):
        resized(clip, 44)
    larger = resized(clip, 48)
    with torch.no_grad():
        larger.embeddings.position_embedding.weight += 0.1
    with pytest.raises(UserError, match="gives features that differ by"):
        require_own_features(clip, larger)
