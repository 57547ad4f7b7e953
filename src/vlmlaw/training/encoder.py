"""Train the miniature's vision encoder to name what each patch shows; cells use it frozen.

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
from vlmlaw.errors import UserError
from vlmlaw.runtime.progress import progress
from vlmlaw.runtime.whole_files import UNREADABLE, whole_folder
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
EMPTY = 0
FIRST_LETTER = 1 + len(GLYPHS)  # classes of a patch: empty, then glyphs, then letters
QUIET = 0.1  # weight in the loss of the squared features of empty patches


def normalise(pixels_BHWC: np.ndarray) -> Tensor:
    """Return pixel_values (B, 3, H, W) of the miniature's pictures."""
    return load.normalise(pixels_BHWC, [PIXEL_MEAN] * 3, [PIXEL_STD] * 3)


class PatchReader(nn.Module):
    """A tower with linear heads that name what each patch shows, and in which color.

    With two heads rather than one for pairs, a mean over patches still holds which glyphs and which colors there are,
    but not which belongs to which, so that tokens are needed to keep objects apart. Empty patches are trained to have
    features near zero, because the few objects of a scene would be lost in the mean over all of its patches.
    """

    def __init__(self, tower: PreTrainedModel):
        super().__init__()
        self.tower = tower
        self.shown = nn.Linear(tower.config.hidden_size, FIRST_LETTER + len(LETTERS))
        self.color = nn.Linear(tower.config.hidden_size, 1 + len(COLORS))

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return features (B, P, C), and logits (B, P, number of classes) of what is shown and of its color."""
        features_BPC = features.patch_features(self.tower, pixel_values, layers=[-1])
        return features_BPC, self.shown(features_BPC), self.color(features_BPC)

    def loss(self, pixel_values: Tensor, shown_BP: Tensor, color_BP: Tensor) -> Tensor:
        """Return the cross-entropies of both heads plus the weighted mean square of empty patches' features.

        Objects, letters and empty patches have the same weight; weighted by their number, the few patches of objects
        would be learned last.
        """
        features_BPC, *logits = self(pixel_values)
        loudness = features_BPC[shown_BP == EMPTY].square().sum() / features_BPC.numel()
        of_heads = [
            F.cross_entropy(of_head.flatten(0, 1), classes.flatten(), reduction="none").view_as(classes)
            for of_head, classes in zip(logits, (shown_BP, color_BP), strict=True)
        ]
        losses_BP = of_heads[0] + of_heads[1]
        parts = [losses_BP[mask].mean() for mask in patch_groups(shown_BP).values() if mask.any()]
        return torch.stack(parts).mean() + QUIET * loudness


def patch_groups(shown: Tensor) -> dict[str, Tensor]:
    """Return masks of the patches that show objects, letters and nothing."""
    return {
        "objects": (shown > EMPTY) & (shown < FIRST_LETTER),
        "letters": shown >= FIRST_LETTER,
        "empty": shown == EMPTY,
    }


def _load(folder: Path, what: str) -> tuple[np.ndarray, Tensor, Tensor]:
    """Load a whole dataset: pixels_NHWC, and for each patch (N, P) what it shows and its color."""
    dataset = Dataset(folder)
    rows = range(len(dataset.image_names))
    pixels = np.stack(list(progress(dataset.images(rows), len(rows), what)))
    try:
        with np.load(folder / LABELS_FILE) as labels:
            shown, color = (torch.from_numpy(labels[name].astype(np.int64)).flatten(1) for name in ("glyphs", "colors"))
    except UNREADABLE as error:
        raise UserError(f"{folder / LABELS_FILE} cannot be read ({error}); draw the pictures again.") from error
    return pixels, shown, color


def train_encoder(train: Path, development: Path, out: Path, *, settings: VisionSettings) -> None:
    """Train the encoder on `train`, measure it on `development`, and write it to `out` with `training.json`."""
    use_repeatable_arithmetic(settings.seed)
    config = conv_tower.ConvTowerConfig(hidden_size=settings.hidden_size, num_hidden_layers=settings.num_hidden_layers)
    reader = PatchReader(AutoModel.from_config(config))
    pixels, shown, color = _load(train, "encoder: reading images")
    optimizer = make_optimizer(
        [(settings.training.learning_rate, reader.parameters())],
        weight_decay=settings.training.weight_decay,
        beta2=settings.training.beta2,
    )

    def loss_of_step(step: int) -> Tensor:
        rows = records_of_step(len(pixels), settings.training.batch_size, seed=settings.seed, step=step)
        return reader.loss(normalise(pixels[rows]), shown[rows], color[rows])

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
    """Return the shares of patches with correct glyph and color, of objects, letters and empty ones that exist."""
    pixels, *classes = _load(folder, "encoder: development images")
    logits = [reader(normalise(batch))[1:] for batch in _chunks(pixels)]
    named = [torch.cat([of_head.argmax(-1) for of_head in heads]) for heads in zip(*logits, strict=True)]
    right = torch.stack([a == b for a, b in zip(named, classes, strict=True)]).all(dim=0).float()
    return {name: right[mask].mean().item() for name, mask in patch_groups(classes[0]).items() if mask.any()}


def _chunks(images: np.ndarray) -> Iterator[np.ndarray]:
    return (images[at : at + IMAGES_AT_ONCE] for at in range(0, len(images), IMAGES_AT_ONCE))
