"""Where a compressor stands: before or after the projector, as published or as an option says."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vlmlaw.compressors import COMPRESSORS
from vlmlaw.compressors.base import AFTER, BEFORE
from vlmlaw.errors import UserError
from vlmlaw.vlm.cost import inference_flops
from vlmlaw.vlm.image_inputs import ImageInputs

GOLDEN = Path(__file__).parents[1] / "golden"
POOLING = {"average", "average_elastic", "average_at_inference", "m3", "bilinear", "bilinear_at_inference"}
PATCHES = torch.randn(2, 16, 32, generator=torch.Generator().manual_seed(0))  # two levels of 16


def pooled(tokens_BPC):
    image_BCss = tokens_BPC.transpose(1, 2).unflatten(2, (4, 4))
    return F.adaptive_avg_pool2d(image_BCss, 2).flatten(2).transpose(1, 2)


def test_pooling_stands_after_the_projector_and_all_else_before():
    assert {name for name, kind in COMPRESSORS.items() if kind.place == AFTER} == POOLING
    assert {name for name, kind in COMPRESSORS.items() if "place" in kind.option_names()} == POOLING


@pytest.mark.parametrize("name", ["average", "m3", "average_at_inference"])
@torch.no_grad()
def test_the_mean_is_of_what_the_projector_makes_or_the_projectors_of_the_mean(make_vlm, name):
    options = {"compressor": name, "feature_layers": [1, 2], "seed": 1}
    vlm = make_vlm(**options)
    found = vlm.visual_tokens(ImageInputs(patches=PATCHES))
    torch.testing.assert_close(found, pooled(vlm.projector(PATCHES[..., 16:])), atol=1e-6, rtol=0)
    other = make_vlm(**options, compressor_options={"place": BEFORE})
    before = other.visual_tokens(ImageInputs(patches=PATCHES))
    torch.testing.assert_close(before, other.projector(pooled(PATCHES[..., 16:])), atol=1e-6, rtol=0)
    assert {n: p.shape for n, p in vlm.state_dict().items()} == {n: p.shape for n, p in other.state_dict().items()}
    assert (found - before).abs().max() > 0.01
    costs = [inference_flops(one, n_text_tokens=5).projector for one in (vlm, other)]
    assert costs[0] == 4 * costs[1]  # 16 patches, or 4 tokens


@pytest.mark.parametrize("name", ["stride_at_inference", "random_at_inference", "none"])
@torch.no_grad()
def test_a_choice_of_patches_is_the_same_on_either_side(make_vlm, name):
    vlm = make_vlm(compressor=name, n_visual_tokens=16 if name == "none" else 4)
    patches = PATCHES[..., 16:]
    kept = vlm.compressor(vlm.projector(patches) @ torch.eye(32)[:, :16])  # the choice does not look at values
    assert torch.equal(vlm.visual_tokens(ImageInputs(patches=patches))[..., :16], kept)


def test_another_place_is_an_error(make_vlm):
    with pytest.raises(UserError, match="compressor average: place is 'beside'; expected before or after"):
        make_vlm(compressor="average", compressor_options={"place": "beside"})
    with pytest.raises(UserError, match="compressor stride: place is 'after'; expected before"):
        make_vlm(compressor="stride", compressor_options={"place": "after"})


@pytest.mark.parametrize(("file", "name"), [("m3_g12", "m3"), ("onevision_g12", "bilinear")])
@torch.no_grad()
def test_tokens_are_those_of_the_released_code(make_vlm, file, name):
    """Projector, then pooling, on the released weights."""
    from transformers import Qwen2Config

    from vlmlaw.vlm.towers.conv_tower import ConvTowerConfig

    with np.load(GOLDEN / f"{file}.npz") as data:
        meta = json.loads(str(data["meta"]))
        arrays = {key: torch.from_numpy(data[key]).float() for key in data.files if key.partition("/")[2]}
    weights = {key.removeprefix("weights/"): tensor for key, tensor in arrays.items() if key.startswith("weights/")}
    width, text_width = weights["0.weight"].shape[1], weights["0.weight"].shape[0]
    (patches,) = (tensor for key, tensor in arrays.items() if key.startswith("inputs/"))
    tower = ConvTowerConfig(hidden_size=width, num_hidden_layers=2, image_size=8 * meta["grid"])
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4, "num_hidden_layers": 1, "intermediate_size": 8}
    vlm = make_vlm(
        vision=tower,
        text=Qwen2Config(hidden_size=text_width, vocab_size=300, **heads),
        compressor=name,
        n_visual_tokens=meta["grid"] ** 2,
        projector_norm=False,
    )
    vlm.projector.mlp.load_state_dict(weights)
    outputs = {key: tensor for key, tensor in arrays.items() if key.startswith("outputs/")}
    assert outputs
    for key, expected in outputs.items():
        vlm.compressor.n_visual_tokens = expected.shape[1]
        found = vlm.visual_tokens(ImageInputs(patches=patches))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0, msg=key)
