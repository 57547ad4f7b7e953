"""The miniature's vision encoder: trained once on what each patch shows, then frozen.

B images, P patches in raster order, C width.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel

from vlmlaw.data.miniature.glyphs import COLORS, GLYPHS, LETTERS
from vlmlaw.data.miniature.write import LABELS_FILE
from vlmlaw.data.shards import Dataset
from vlmlaw.runtime.progress import progress
from vlmlaw.runtime.whole_files import whole_folder
from vlmlaw.runtime.workspace import clear_workspace, workspace_of
from vlmlaw.tokens.packing import records_of_step
from vlmlaw.training.loop import fit
from vlmlaw.training.optimizer import make_optimizer
from vlmlaw.training.workspace import account, use_repeatable_arithmetic
from vlmlaw.vlm.towers import conv_tower, features, load
from vlmlaw.vlm.towers.load import PIXEL_MEAN, PIXEL_STD

if TYPE_CHECKING:
    from vlmlaw.training.settings import VisionSettings

IMAGES_AT_ONCE = 64
EMPTY, FIRST_OBJECT = 0, 1
FIRST_LETTER = FIRST_OBJECT + len(GLYPHS) * len(COLORS)
QUIET = 0.1  # weight of the empty patches' loudness in the encoder's loss


def normalise(pixels_BHWC: np.ndarray) -> Tensor:
    """pixel_values (B, 3, H, W) of the miniature's pictures."""
    return load.normalise(pixels_BHWC, [PIXEL_MEAN] * 3, [PIXEL_STD] * 3)


class PatchReader(nn.Module):
    """A tower with a linear head that names what each patch shows.

    An object's class is its glyph and color together: features in which each pair has a direction of its own can be
    averaged over many patches and still tell which color belongs to which glyph. Empty patches are trained to have
    features near zero, or the few objects of a scene would be lost in the mean over all of its patches.
    """

    def __init__(self, tower: PreTrainedModel):
        super().__init__()
        self.tower = tower
        self.head = nn.Linear(tower.config.hidden_size, FIRST_LETTER + len(LETTERS))

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, P, C) and logits (B, P, number of classes)."""
        features_BPC = features.patch_features(self.tower, pixel_values, layers=[-1])
        return features_BPC, self.head(features_BPC)

    def loss(self, pixel_values: Tensor, classes_BP: Tensor) -> Tensor:
        """Cross-entropy of the classes, and the mean square of empty patches' features."""
        features_BPC, logits = self(pixel_values)
        loudness = features_BPC[classes_BP == EMPTY].square().sum() / features_BPC.numel()
        return F.cross_entropy(logits.flatten(0, 1), classes_BP.flatten()) + QUIET * loudness


def patch_classes(glyphs: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """The class of each patch: 0 empty, then every glyph in every color, then letters (whatever their color)."""
    objects = FIRST_OBJECT + (glyphs - 1) * len(COLORS) + colors - 1
    letters = FIRST_LETTER + glyphs - 1 - len(GLYPHS)
    return np.select([glyphs == 0, glyphs <= len(GLYPHS)], [EMPTY, objects], letters)


def _load(folder: Path, what: str) -> tuple[np.ndarray, Tensor]:
    """pixels_NHWC and classes_NP of a whole dataset (the miniature's fit in memory)."""
    dataset = Dataset(folder)
    rows = range(len(dataset.image_names))
    pixels = np.stack(list(progress(dataset.images(rows), len(rows), what)))
    with np.load(folder / LABELS_FILE) as labels:
        classes = patch_classes(labels["glyphs"].astype(np.int64), labels["colors"].astype(np.int64))
    return pixels, torch.from_numpy(classes).flatten(1)


def train_encoder(train: Path, development: Path, out: Path, *, settings: VisionSettings) -> None:
    """Train the encoder on `train`, measure it on `development`, and write it with `training.json` to `out`."""
    use_repeatable_arithmetic(settings.seed)
    config = conv_tower.ConvTowerConfig(hidden_size=settings.hidden_size, num_hidden_layers=settings.num_hidden_layers)
    reader = PatchReader(AutoModel.from_config(config))
    pixels, classes = _load(train, "encoder: reading images")
    optimizer = make_optimizer(
        [(settings.training.learning_rate, reader.parameters())], weight_decay=settings.training.weight_decay
    )

    def loss_of_step(step: int) -> Tensor:
        rows = records_of_step(len(pixels), settings.training.batch_size, seed=settings.seed, step=step)
        return reader.loss(normalise(pixels[rows]), classes[rows])

    spent = fit(
        reader,
        optimizer,
        loss=loss_of_step,
        settings=settings.training,
        workspace=workspace_of(out),
        what="encoder",
    )
    with whole_folder(out) as folder:
        reader.tower.save_pretrained(folder)
        made = account(settings, spent) | {"accuracy": accuracy(reader, development)}
        (folder / "training.json").write_text(json.dumps(made, indent=2))
    clear_workspace(out)


@torch.no_grad()
def accuracy(reader: PatchReader, folder: Path) -> dict[str, float]:
    """Shares of patches named rightly: those of objects, of letters, and empty ones, as far as there are any."""
    pixels, classes = _load(folder, "encoder: development images")
    right = (torch.cat([reader(normalise(batch))[1].argmax(-1) for batch in _chunks(pixels)]) == classes).float()
    is_letter, is_empty = classes >= FIRST_LETTER, classes == EMPTY
    where = {"objects": ~is_letter & ~is_empty, "letters": is_letter, "empty": is_empty}
    return {name: right[mask].mean().item() for name, mask in where.items() if mask.any()}


def _chunks(images: np.ndarray) -> Iterator[np.ndarray]:
    return (images[at : at + IMAGES_AT_ONCE] for at in range(0, len(images), IMAGES_AT_ONCE))
