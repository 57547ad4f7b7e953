"""Images made smaller before the tower: against Pillow's resizing and towers that were built for the smaller image."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel, CLIPVisionConfig, Dinov2Config, SiglipVisionConfig

from vlmlaw.vlm.cost import inference_flops, training_flops, vision_flops
from vlmlaw.vlm.towers.conv_tower import ConvTowerConfig
from vlmlaw.vlm.towers.load import downsampled, normalise

SHAPE = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24}
TOWERS = {
    "conv": ConvTowerConfig(hidden_size=16, num_hidden_layers=3, image_size=48),
    "clip": CLIPVisionConfig(**SHAPE, image_size=48, patch_size=8),
    "siglip": SiglipVisionConfig(**SHAPE, image_size=48, patch_size=8, vision_use_head=False),
    "dinov2": Dinov2Config(hidden_size=16, num_hidden_layers=3, num_attention_heads=2, image_size=48, patch_size=8),
}
TABLES = {
    "clip": "embeddings.position_embedding.weight",
    "siglip": "embeddings.position_embedding.weight",
    "dinov2": "embeddings.position_embeddings",
}
SIDE, SMALL, IMAGE = 6, 3, 1
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
every_tower = pytest.mark.parametrize("tower", TOWERS)


def native(tower, small_px: int):
    """A tower of the same weights that was made for the smaller image: its table of positions resized by itself."""
    config = type(tower.config)(**tower.config.to_dict() | {"image_size": small_px})
    built, state = AutoModel.from_config(config), dict(tower.state_dict())
    name = next((key for key in state if key.endswith(tuple(TABLES.values()))), None)
    if name is not None:
        table_ND = state[name].reshape(-1, state[name].shape[-1])
        first_ND, grid_PD = table_ND[: -(SIDE**2)], table_ND[-(SIDE**2) :]
        grid_DHW = grid_PD.T.reshape(1, -1, SIDE, SIDE)
        side = small_px // 8
        small_PD = F.interpolate(grid_DHW, size=(side, side), mode="bicubic", align_corners=False).flatten(2)[0].T
        resized_ND = torch.cat([first_ND, small_PD])
        state[name] = resized_ND.reshape(built.state_dict()[name].shape)
    for key in [key for key in state if key.endswith("position_ids")]:
        del state[key]
    built.load_state_dict(state, strict=False)
    return built.eval()


@torch.no_grad()
def test_the_image_is_resized_as_pillow_resizes_it():
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(256, size=(12, 12, 3), dtype=np.uint8))
    picture = coarse.resize((96, 96), Image.Resampling.BICUBIC)
    for side in (48, 40, 8):
        theirs = normalise(np.array(picture.resize((side, side), Image.Resampling.BICUBIC))[None], MEAN, STD)
        ours = downsampled(normalise(np.array(picture)[None], MEAN, STD), side, MEAN, STD)
        steps = ((ours - theirs) * torch.tensor(STD).view(1, 3, 1, 1) * 255).abs()
        assert steps.max() < 1.6 and steps.mean() < 0.5  # Pillow rounds after rows and after columns


@every_tower
@torch.no_grad()
def test_a_model_of_it_is_the_model_of_all_patches_of_a_tower_made_for_the_smaller_image(make_vlm, tower):
    shared = {"feature_layers": [1, -2], "position_embedding": False, "image_mean": MEAN, "image_std": STD}
    vlm = make_vlm(vision=TOWERS[tower], compressor="downsample", n_visual_tokens=SMALL**2, **shared)
    small = native(vlm.vision_tower, SMALL * 8)
    other = make_vlm(vision=small.config, compressor="none", n_visual_tokens=SMALL**2, **shared)
    other.vision_tower = small
    for part in ("projector", "language_model"):
        getattr(other, part).load_state_dict(getattr(vlm, part).state_dict())
    pixels = normalise(np.random.default_rng(1).integers(256, size=(2, 48, 48, 3), dtype=np.uint8), MEAN, STD)
    ids = torch.cat([torch.full((2, SMALL**2), vlm.config.image_token_id), torch.tensor([[5, 6, 7]] * 2)], dim=1)
    ours = vlm(ids, pixel_values=pixels).logits
    theirs = other(ids, pixel_values=downsampled(pixels, SMALL * 8, MEAN, STD)).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@every_tower
@torch.no_grad()
def test_the_tower_costs_what_torch_counts_at_the_smaller_size(make_vlm, tower):
    vlm = make_vlm(vision=TOWERS[tower], compressor="downsample", n_visual_tokens=SMALL**2, feature_layers=[-1])
    vlm.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter:
        vlm.encode_images(torch.randn(1, 3, 48, 48))
    stated = vision_flops(vlm.config.vision_config, side=SMALL)
    assert stated == counter.get_total_flops()
    cost, whole = inference_flops(vlm, n_text_tokens=5), vision_flops(vlm.config.vision_config)
    assert cost.vision == stated < whole / 3 and cost.compressor == 0
    of_projector = 2 * (16 * 32 + 32 * 32)
    assert cost.projector == SMALL**2 * of_projector
    assert training_flops(vlm, with_tower=True).per_image == 3 * cost.projector + stated


@torch.no_grad()
def test_at_inference_every_square_of_one_training_and_the_whole_image_at_the_most(make_vlm):
    vision = TOWERS["clip"]
    none = make_vlm(vision=vision, compressor="none", n_visual_tokens=SIDE**2)
    vlm = make_vlm(vision=vision, compressor="downsample_at_inference", n_visual_tokens=SIDE**2)
    vlm.load_state_dict(none.state_dict())
    pixels = torch.randn(1, 3, 48, 48).clamp(-1, 1)
    question = torch.tensor([[5, 6, 7]])

    def ids(n: int) -> torch.Tensor:
        return torch.cat([torch.full((1, n), vlm.config.image_token_id), question], dim=1)

    whole = vlm(ids(SIDE**2), pixel_values=pixels).logits
    torch.testing.assert_close(whole, none(ids(SIDE**2), pixel_values=pixels).logits)
    assert vlm(ids(9), pixel_values=pixels, n_visual_tokens=9).logits.shape[1] == 12


def test_training_reaches_the_projector(make_vlm):
    vlm = make_vlm(vision=TOWERS["conv"], compressor="downsample", n_visual_tokens=4).train()
    ids = torch.cat([torch.full((1, 4), vlm.config.image_token_id), torch.tensor([[5, 6]])], dim=1)
    vlm(ids, pixel_values=torch.randn(1, 3, 48, 48), labels=ids).loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in vlm.projector.parameters() if p.ndim > 1)
