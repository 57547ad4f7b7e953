"""The encoder: what patches show, training that repeats, and a cache that holds what the tower computes."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModel

from vlmlaw.data.miniature.glyphs import COLORS, GLYPHS, LETTERS
from vlmlaw.data.shards import Dataset
from vlmlaw.errors import UserError
from vlmlaw.training.encoder import PatchReader, accuracy, normalise, patch_classes, train_encoder
from vlmlaw.training.features import cache_features
from vlmlaw.training.settings import OptimizerSettings, VisionSettings
from vlmlaw.vlm.images import feature_file, load_features
from vlmlaw.vlm.towers import conv_tower, features
from vlmlaw.vlm.towers.load import PIXEL_MEAN, PIXEL_STD

N_CLASSES = 1 + len(GLYPHS) * len(COLORS) + len(LETTERS)
SETTINGS = VisionSettings(
    hidden_size=16,
    num_hidden_layers=1,
    training=OptimizerSettings(steps=8, batch_size=6, learning_rate=1e-2, checkpoint_seconds=1e9),
    source="train",
    seed=0,
)


def test_every_thing_that_a_patch_can_show_is_a_class_of_its_own():
    """Empty, each glyph in each color, each letter: numbered without gap."""
    shown = [(0, 0)]
    shown += [(glyph + 1, color + 1) for glyph in range(len(GLYPHS)) for color in range(len(COLORS))]
    shown += [(len(GLYPHS) + 1 + letter, 0) for letter in range(len(LETTERS))]
    glyphs, colors = np.array(shown).T
    assert patch_classes(glyphs, colors).tolist() == list(range(N_CLASSES))
    head = PatchReader(AutoModel.from_config(conv_tower.ConvTowerConfig(hidden_size=16, num_hidden_layers=1))).head
    assert head.out_features == N_CLASSES


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
    assert found["last_loss"] < np.log(N_CLASSES)
    assert set(found["accuracy"]) == {"objects", "letters", "empty"}
    assert all(0 <= share <= 1 for share in found["accuracy"].values())
    assert sorted(path.name for path in trained.iterdir()) == ["config.json", "model.safetensors", "training.json"]
    assert not trained.with_name("out.work").exists()


def test_training_again_gives_the_same_weights(trained, small, tmp_path):
    train_encoder(small.data["train"], small.data["development"], tmp_path / "out", settings=SETTINGS)
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (trained / "model.safetensors").read_bytes()


def test_accuracy_is_the_share_of_patches_named_rightly(small):
    """A reader that always says the same class is right where that class is shown, and nowhere else."""
    reader = PatchReader(AutoModel.from_config(conv_tower.ConvTowerConfig(hidden_size=16, num_hidden_layers=1)))
    with np.load(small.data["development"] / "patch_labels.npz") as labels:
        classes = patch_classes(labels["glyphs"].astype(int), labels["colors"].astype(int))
    letters = classes[classes >= N_CLASSES - len(LETTERS)]
    for says in (0, int(letters[0])):
        torch.nn.init.zeros_(reader.head.weight)
        with torch.no_grad():
            reader.head.bias.copy_(torch.eye(N_CLASSES)[says])
        found = accuracy(reader, small.data["development"])
        expected = {"objects": 0.0, "letters": (letters == says).mean(), "empty": float(says == 0)}
        assert found == pytest.approx(expected)


def test_a_cache_is_one_file_a_layer(small):
    assert feature_file(small.features["train"], 2).name == "layer2.npy"
    assert np.load(feature_file(small.features["train"], 2)).dtype == np.float16
