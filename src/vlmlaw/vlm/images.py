"""Image inputs of a VLM: patch features that are cached once for all cells, or pixels that its own tower encodes.

At the scale of LLaVA's data, the features of all patches would take terabytes; there the tower runs in each training,
on square images that were resized once. B images, P patches in raster order, C tower width, K = levels * C.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from vlmlaw.data.framing import square
from vlmlaw.data.shards import Dataset
from vlmlaw.errors import UserError
from vlmlaw.runtime.whole_files import UNREADABLE
from vlmlaw.vlm.image_inputs import ImageInputs
from vlmlaw.vlm.towers.load import normalise

if TYPE_CHECKING:
    from vlmlaw.vlm.config import VlmConfig


ImagesOf = Callable[[np.ndarray], ImageInputs]  # from indices of images to the model's inputs


def pixel_values(pictures_HWC: Sequence[np.ndarray], config: VlmConfig) -> Tensor:
    """Turn uint8 images of any size into pixel_values (B, 3, H, W), made square and normalised as in training.

    >>> from vlmlaw.vlm.towers.conv_tower import ConvTowerConfig
    >>> from vlmlaw.vlm.config import VlmConfig
    >>> config = VlmConfig(vision_config=ConvTowerConfig(image_size=16), image_mean=[0.5] * 3, image_std=[0.5] * 3)
    >>> white = pixel_values([np.full((20, 30, 3), 255, np.uint8)], config)
    >>> white.shape, white.unique().tolist()
    (torch.Size([1, 3, 16, 16]), [1.0])
    """
    from PIL import Image

    side, fit, color = config.vision_config.image_size, config.image_fit, config.pad_color
    squares = [square(Image.fromarray(one), side, fit=fit, pad_color=color) for one in pictures_HWC]
    return normalise(np.stack([np.asarray(one) for one in squares]), config.image_mean, config.image_std)


def are_features(folder: Path) -> bool:
    """Whether the folder is a feature cache rather than a dataset."""
    return not (folder / "index.npz").exists()


def open_images(folder: Path, *, layers: Sequence[int], image_px: int) -> ImagesOf:
    """Return a function from indices of images to inputs: `patches` from a cache, or `pixel_values` from a dataset.

    Pixels stay uint8; the model normalises them on its own device. Raises UserError if the folder is neither.
    """
    if are_features(folder):
        features_of = load_features(folder, layers=layers)
        return lambda rows: ImageInputs(patches=features_of(rows))
    dataset = Dataset(folder)

    def pixels_of(rows: np.ndarray) -> ImageInputs:
        different, which = np.unique(rows, return_inverse=True)
        images = [dataset.image(row) for row in different]
        for row, image in zip(different, images, strict=True):
            if image.shape != (image_px, image_px, 3):
                raise UserError(
                    f"image {dataset.image_names[row]!r} of {folder} is {image.shape[1]} x {image.shape[0]}, but the "
                    f"tower reads squares of {image_px}; prepare the data again."
                )
        pixels_BHWC = np.stack(images)[which] if images else np.zeros((0, image_px, image_px, 3), np.uint8)
        return ImageInputs(pixel_values=torch.from_numpy(pixels_BHWC))

    return pixels_of


def feature_file(folder: Path, layer: int) -> Path:
    """Path of the features of one hidden state in a cache."""
    return folder / f"layer{layer}.npy"


def load_features(folder: Path, *, layers: Sequence[int]) -> Callable[[np.ndarray], Tensor]:
    """Return a function from indices of images to features (B, P, K), layers concatenated.

    Raises UserError if a layer's features cannot be read.
    """
    try:
        files: list[Any] = [np.load(feature_file(folder, layer), mmap_mode="r") for layer in layers]
    except UNREADABLE as error:
        raise UserError(
            f"{folder} lacks features of layers {list(layers)} ({error}); make them by `vlmlaw encoder features`."
        ) from error

    def features_of(rows: np.ndarray) -> Tensor:
        # A batch may ask several questions about one image, which is read and converted to float32 once.
        different, which = np.unique(rows, return_inverse=True)
        features_BPK = torch.from_numpy(np.concatenate([file[different] for file in files], axis=-1)).float()
        return features_BPK[torch.from_numpy(which)]

    return features_of
