"""Convolutional networks as towers: their own class's last map, patch by patch, fetched, trained with and saved."""

import json

import pytest
import torch
from transformers import (
    AutoModel,
    ConvNextConfig,
    ConvNextModel,
    EfficientNetConfig,
    EfficientNetModel,
    Qwen2Config,
    ResNetConfig,
    ResNetForImageClassification,
    SwinBackbone,
    SwinConfig,
    ViTConfig,
    ViTModel,
)

from vlmlaw.errors import UserError
from vlmlaw.hub.settings import TowerSettings
from vlmlaw.hub.shapes import Tower, read_config
from vlmlaw.training.pretrained import fetch_vision
from vlmlaw.vlm.config import VlmConfig
from vlmlaw.vlm.cost import count_parameters, vision_flops
from vlmlaw.vlm.model import VlmForConditionalGeneration
from vlmlaw.vlm.towers.feature_map import feature_map_tower
from vlmlaw.vlm.towers.features import patch_features

RESNET = {"embedding_size": 8, "hidden_sizes": [8, 12], "depths": [1, 1], "layer_type": "basic"}
SWIN = {"image_size": 64, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 1], "window_size": 4}
CONVNEXT = {"hidden_sizes": [8, 12], "depths": [1, 1], "num_stages": 2}
EFFICIENT = {
    "width_coefficient": 0.25,
    "in_channels": [32, 16],
    "out_channels": [16, 24],
    "kernel_sizes": [3, 3],
    "strides": [1, 2],
    "num_block_repeats": [1, 1],
    "expand_ratios": [1, 6],
    "hidden_dim": 320,
}


def networks():
    torch.manual_seed(0)
    yield "resnet", ResNetForImageClassification(ResNetConfig(**RESNET)), lambda m, x: m.resnet(x).last_hidden_state
    yield "convnext", ConvNextModel(ConvNextConfig(**CONVNEXT)), lambda m, x: m(x).last_hidden_state
    yield "swin", SwinBackbone(SwinConfig(**SWIN)), lambda m, x: m(x).feature_maps[-1]  # its AutoModel gives tokens
    yield "efficientnet", EfficientNetModel(EfficientNetConfig(**EFFICIENT)), lambda m, x: m(x).last_hidden_state


@pytest.mark.parametrize("kind", ["resnet", "convnext", "swin", "efficientnet"])
def test_patches_are_the_last_map_of_the_networks_own_class_in_raster_order(kind, tmp_path):
    network, own_map = next((network, read) for name, network, read in networks() if name == kind)
    network.eval().save_pretrained(tmp_path / "network")
    feature_map_tower(tmp_path / "network", image_px=64).save_pretrained(tmp_path / "tower")
    (tmp_path / "tower" / "preprocessor_config.json").write_text('{"image_mean": [0, 0, 0], "image_std": [1, 1, 1]}')
    fetch_vision(tmp_path / "fetched", settings=TowerSettings(source=str(tmp_path / "tower"), dtype="float32"))
    tower = AutoModel.from_pretrained(tmp_path / "tower").eval()
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        found, map_BCHW = patch_features(tower, pixels, layers=[-1]), own_map(network, pixels)
    shape = Tower.of_config(read_config(tmp_path / "tower"))
    assert map_BCHW.shape == (2, shape.hidden_size, shape.grid_side, shape.grid_side) and shape.grid_side > 1
    for patch in range(shape.grid_side**2):
        row, column = divmod(patch, shape.grid_side)
        torch.testing.assert_close(found[:, patch], map_BCHW[:, :, row, column])


def test_a_vlm_with_such_a_tower_trains_counts_and_comes_back_from_disk(tmp_path):
    _, network, _ = next(networks())
    network.save_pretrained(tmp_path / "network")
    tower = feature_map_tower(tmp_path / "network", image_px=64)
    text = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = VlmConfig(
        vision_config=tower.config.to_dict(),
        text_config=Qwen2Config(vocab_size=10, num_key_value_heads=2, **text).to_dict(),
        compressor="average",
        n_visual_tokens=4,
        feature_layers=[-1],
        image_token_id=1,
    )
    model = VlmForConditionalGeneration(config)
    model.vision_tower = tower.requires_grad_(False)
    model.train()
    statistics = {name: value.clone() for name, value in tower.named_buffers()}
    ids = torch.tensor([[1, 1, 1, 1, 5, 6]])
    pixels = torch.randn(1, 3, 64, 64)
    loss = model(ids, pixel_values=pixels, labels=torch.tensor([[-100] * 5 + [6]])).loss
    loss.backward()
    assert loss > 0 and all(torch.equal(value, statistics[name]) for name, value in tower.named_buffers())
    assert count_parameters(model).vision == sum(p.numel() for p in network.resnet.parameters())
    model.eval().save_pretrained(tmp_path / "vlm")
    again = VlmForConditionalGeneration.from_pretrained(tmp_path / "vlm").eval()
    with torch.no_grad():
        assert torch.equal(again(ids, pixel_values=pixels).logits, model(ids, pixel_values=pixels).logits)


def test_flops_are_those_of_its_convolutions(tmp_path):
    _, network, _ = next(networks())
    network.save_pretrained(tmp_path)
    counted = []
    tower = feature_map_tower(tmp_path, image_px=64)
    for part in tower.modules():
        if isinstance(part, torch.nn.Conv2d):
            part.register_forward_hook(lambda conv, _, out: counted.append(2 * out[0].numel() * conv.weight[0].numel()))
    tower(torch.zeros(1, 3, 64, 64))
    assert vision_flops(tower.config) == sum(counted) > 0


def test_networks_that_give_no_map_of_squares_and_ones_without_all_weights_are_refused(tmp_path):
    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    ViTModel(ViTConfig(image_size=32, patch_size=16, **shape)).save_pretrained(tmp_path / "vit")
    with pytest.raises(UserError, match="vit makes"):  # tokens, and it has no backbone
        feature_map_tower(tmp_path / "vit", image_px=32)
    _, network, _ = next(networks())
    network.save_pretrained(tmp_path / "resnet")
    config = json.loads((tmp_path / "resnet" / "config.json").read_text())
    (tmp_path / "resnet" / "config.json").write_text(json.dumps(config | {"depths": [1, 2]}))
    with pytest.raises(UserError, match=r"lack \d+ of resnet"):
        feature_map_tower(tmp_path / "resnet", image_px=64)
