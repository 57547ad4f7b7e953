"""The encoder: what patches show, training that repeats, and a cache that holds what the tower computes."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModel

from vlmlaw.data.miniature.glyphs import COLORS, GLYPHS, LETTERS
from vlmlaw.data.shards import Dataset
from vlmlaw.errors import UserError
from vlmlaw.training.encoder import PatchReader, accuracy, normalise, patch_groups, train_encoder
from vlmlaw.training.features import cache_features
from vlmlaw.training.settings import OptimizerSettings, VisionSettings
from vlmlaw.vlm.images import feature_file, load_features
from vlmlaw.vlm.towers import conv_tower, features
from vlmlaw.vlm.towers.load import PIXEL_MEAN, PIXEL_STD

N_SHOWN, N_COLORS = 1 + len(GLYPHS) + len(LETTERS), 1 + len(COLORS)
SETTINGS = VisionSettings(
    hidden_size=16,
    num_hidden_layers=1,
    training=OptimizerSettings(steps=8, batch_size=6, learning_rate=1e-2, checkpoint_seconds=1e9),
    source="train",
    seed=0,
)


def reader() -> PatchReader:
    return PatchReader(AutoModel.from_config(conv_tower.ConvTowerConfig(hidden_size=16, num_hidden_layers=1)))


def test_heads_have_a_class_for_everything_that_a_patch_can_show():
    assert (reader().shown.out_features, reader().color.out_features) == (N_SHOWN, N_COLORS)
    groups = patch_groups(torch.arange(N_SHOWN))
    assert {name: int(mask.sum()) for name, mask in groups.items()} == {
        "objects": len(GLYPHS),
        "letters": len(LETTERS),
        "empty": 1,
    }


def test_few_patches_of_objects_weigh_as_much_as_many_empty_ones():
    """The loss is the mean over groups of torch's own cross-entropy, and the empty patches' square."""
    torch.manual_seed(0)
    one = reader()
    pixels = torch.randn(2, 3, 32, 32)
    shown = torch.zeros(2, 16, dtype=torch.long)
    shown[0, :2], shown[1] = torch.tensor([3, 5]), 1 + len(GLYPHS) + 2
    color = torch.zeros_like(shown)
    color[0, :2] = torch.tensor([1, 8])
    features_BPC, *logits = one(pixels)
    expected = []
    for mask in (shown == 0, (shown > 0) & (shown <= len(GLYPHS)), shown > len(GLYPHS)):
        parts = zip(logits, (shown, color), strict=True)
        expected.append(sum(torch.nn.functional.cross_entropy(of[mask], wanted[mask]) for of, wanted in parts))
    quiet = 0.1 * features_BPC[shown == 0].square().sum() / features_BPC.numel()
    torch.testing.assert_close(one.loss(pixels, shown, color), sum(expected) / 3 + quiet)


def test_pixels_are_normalised_channels_first():
    pixels = np.random.default_rng(0).integers(256, size=(2, 4, 6, 3), dtype=np.uint8)
    found = normalise(pixels)
    assert found.shape == (2, 3, 4, 6)
    assert found[1, 2, 3, 5].item() == pytest.approx((pixels[1, 3, 5, 2] / 255 - PIXEL_MEAN) / PIXEL_STD, abs=1e-6)


@pytest.mark.parametrize("layers", [[2], [1, 2], [-1, 0]])
@torch.no_grad()
def test_the_cache_holds_what_the_tower_computes(small, tmp_path, monkeypatch, layers):
    """In half precision, image by image, whatever the number of images at once."""
    monkeypatch.setattr("vlmlaw.training.encoder.IMAGES_AT_ONCE", 5)
    cache_features(small.encoder, small.data["train"], tmp_path / "features", layers=layers)
    assert {path.name for path in (tmp_path / "features").iterdir()} == {f"layer{layer}.npy" for layer in layers}
    tower, data = AutoModel.from_pretrained(small.encoder).eval(), Dataset(small.data["train"])
    found = load_features(tmp_path / "features", layers=layers)
    rows = np.array([11, 0, 3, 3])
    direct = features.patch_features(tower, normalise(np.stack(list(data.images(rows)))), layers=layers)
    assert found(rows).dtype == torch.float32
    torch.testing.assert_close(found(rows), direct.half().float(), atol=1e-3, rtol=1e-3)  # the batch rounds, too
    together = features.patch_features(tower, normalise(np.stack(list(data.images(range(5))))), layers=layers)
    assert torch.equal(found(np.arange(5)), together.half().float())
    assert found(np.array([], dtype=int)).shape == (0, 144, 16 * len(layers))


def test_a_layer_that_is_not_cached_is_an_error(small):
    with pytest.raises(UserError, match=r"lacks features of layers \[1, 7\].*vlmlaw encoder features"):
        load_features(small.features["train"], layers=[1, 7])


def test_features_beyond_half_precision_are_an_error(small, tmp_path):
    tower = AutoModel.from_pretrained(small.encoder)
    with torch.no_grad():
        tower.blocks[1].bias += 1e5
    tower.save_pretrained(tmp_path / "encoder")
    with pytest.raises(UserError, match="do not fit into half precision"):
        cache_features(tmp_path / "encoder", small.data["test"], tmp_path / "features", layers=[2])
    assert [path.name for path in tmp_path.iterdir()] == ["encoder"]


@pytest.fixture(scope="module")
def trained(small, tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    train_encoder(small.data["train"], small.data["development"], folder / "out", settings=SETTINGS)
    return folder / "out"


def test_training_lowers_the_loss_and_leaves_an_account(trained, small):
    found = json.loads((trained / "training.json").read_text())
    assert found["steps"] == 8
    assert found["last_loss"] < np.log(N_SHOWN) + np.log(N_COLORS)
    assert set(found["accuracy"]) == {"objects", "letters", "empty"}
    assert all(0 <= share <= 1 for share in found["accuracy"].values())
    assert sorted(path.name for path in trained.iterdir()) == ["config.json", "model.safetensors", "training.json"]
    assert not trained.with_name("out.work").exists()


def test_training_again_gives_the_same_weights(trained, small, tmp_path):
    train_encoder(small.data["train"], small.data["development"], tmp_path / "out", settings=SETTINGS)
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (trained / "model.safetensors").read_bytes()


def test_accuracy_is_the_share_of_patches_named_rightly(small):
    """A reader that always says the same is right where that is shown in that color, and nowhere else."""
    one = reader()
    with np.load(small.data["development"] / "patch_labels.npz") as labels:
        shown, color = labels["glyphs"].astype(int), labels["colors"].astype(int)
    is_object, is_letter = (shown > 0) & (shown <= len(GLYPHS)), shown > len(GLYPHS)
    says_object = (int(shown[is_object][0]), int(color[is_object][0]))
    for says in ((0, 0), (int(shown[is_letter][0]), 0), says_object):
        for head, said in ((one.shown, says[0]), (one.color, says[1])):
            torch.nn.init.zeros_(head.weight)
            with torch.no_grad():
                head.bias.copy_(torch.eye(head.out_features)[said])
        right = (shown == says[0]) & (color == says[1])
        groups = {"objects": is_object, "letters": is_letter, "empty": shown == 0}
        expected = {name: right[mask].mean() for name, mask in groups.items()}
        assert accuracy(one, small.data["development"]) == pytest.approx(expected)


def test_a_cache_is_one_file_a_layer(small):
    assert feature_file(small.features["train"], 2).name == "layer2.npy"
    assert np.load(feature_file(small.features["train"], 2)).dtype == np.float16
