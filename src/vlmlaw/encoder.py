"""The miniature's vision encoder: trained once on what each patch shows, then frozen; features cached for all cells.

B images, P patches in raster order, C width.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel

from vlmlaw import vision
from vlmlaw.data.glyphs import COLORS, GLYPHS, LETTERS
from vlmlaw.data.miniature import LABELS_FILE
from vlmlaw.data.shards import Dataset
from vlmlaw.errors import UserError
from vlmlaw.files import whole_folder
from vlmlaw.loop import account, clear_workspace, fit, make_optimizer, use_repeatable_arithmetic, workspace_of
from vlmlaw.packing import records_of_step
from vlmlaw.progress import progress

if TYPE_CHECKING:
    from vlmlaw.experiment import VisionSettings

# Mean and standard deviation of the miniature's grey levels, in [0, 1], as an image processor applies them.
PIXEL_MEAN, PIXEL_STD = 0.3, 0.25
IMAGES_AT_ONCE = 64
EMPTY, FIRST_OBJECT = 0, 1
FIRST_LETTER = FIRST_OBJECT + len(GLYPHS) * len(COLORS)
QUIET = 0.1  # weight of the empty patches' loudness in the encoder's loss


def normalise(pixels_BHWC: np.ndarray) -> Tensor:
    """pixel_values (B, 3, H, W) of uint8 images."""
    return (torch.from_numpy(pixels_BHWC).permute(0, 3, 1, 2).float() / 255 - PIXEL_MEAN) / PIXEL_STD


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
        features_BPC = vision.patch_features(self.tower, pixel_values, layers=[-1])
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
    config = vision.ConvTowerConfig(hidden_size=settings.hidden_size, num_hidden_layers=settings.num_hidden_layers)
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


def feature_file(folder: Path, layer: int) -> Path:
    """Where the features of one of the tower's hidden states lie in a cache."""
    return folder / f"layer{layer}.npy"


@torch.no_grad()
def cache_features(encoder: Path, dataset: Path, out: Path, *, layers: Sequence[int]) -> None:
    """Features (n_images, P, C) in half precision of every image, one file for each of `layers`.

    The files are written image by image through a memory map, so that memory stays small whatever their size.
    Raises UserError where a feature is beyond half precision.
    """
    tower = AutoModel.from_pretrained(encoder).eval()
    data = Dataset(dataset)
    n_images = len(data.image_names)
    shape = (n_images, vision.grid_side(tower.config) ** 2, tower.config.hidden_size)
    with whole_folder(out) as folder:
        files = [
            np.lib.format.open_memmap(feature_file(folder, layer), mode="w+", dtype=np.float16, shape=shape)
            for layer in layers
        ]
        starts = range(0, n_images, IMAGES_AT_ONCE)
        for start in progress(starts, len(starts), "features"):
            rows = range(start, min(start + IMAGES_AT_ONCE, n_images))
            pixel_values = normalise(np.stack(list(data.images(rows))))
            features_BPK = vision.patch_features(tower, pixel_values, layers=layers).to(torch.float16)
            if not features_BPK.isfinite().all():
                raise UserError(
                    f"{encoder}: features of images {rows.start} to {rows.stop - 1} of {dataset} do not fit into half "
                    f"precision (beyond {torch.finfo(torch.float16).max:.0f}); name other layers than {list(layers)}."
                )
            for file, part in zip(files, features_BPK.chunk(len(layers), dim=-1), strict=True):
                file[rows.start : rows.stop] = part.numpy()
        for file in files:
            file.flush()


def load_features(folder: Path, *, layers: Sequence[int]) -> Callable[[np.ndarray], Tensor]:
    """A function from image rows to features (B, P, K) of the layers, concatenated. Raises UserError: no such layer."""
    try:
        files: list[Any] = [np.load(feature_file(folder, layer), mmap_mode="r") for layer in layers]
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder} lacks features of layers {list(layers)} ({error}); make them by `vlmlaw encoder features`."
        ) from error

    def features_of(rows: np.ndarray) -> Tensor:
        # Questions on one image ask for it again and again; each is read and widened once.
        different, which = np.unique(rows, return_inverse=True)
        features_BPK = torch.from_numpy(np.concatenate([file[different] for file in files], axis=-1)).float()
        return features_BPK[torch.from_numpy(which)]

    return features_of
