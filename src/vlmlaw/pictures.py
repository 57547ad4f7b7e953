"""Pictures of any size as the vision tower takes them: square, of its size, normalised as it was trained."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.image_utils import (
    IMAGENET_STANDARD_MEAN,
    IMAGENET_STANDARD_STD,
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
)

from vlmlaw.encoder import PIXEL_MEAN, PIXEL_STD
from vlmlaw.errors import UserError

Levels = Sequence[float]
NORMALISATION: dict[str, tuple[Levels, Levels]] = {
    "vlmlaw_conv_tower": ([PIXEL_MEAN] * 3, [PIXEL_STD] * 3),
    "clip_vision_model": (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD),
    "siglip_vision_model": (IMAGENET_STANDARD_MEAN, IMAGENET_STANDARD_STD),
    "siglip2_vision_model": (IMAGENET_STANDARD_MEAN, IMAGENET_STANDARD_STD),
}


def pixel_values(images_HWC: Sequence[np.ndarray], vision_config: Any, *, fit: str) -> Tensor:
    """pixel_values (B, 3, H, W) of uint8 images of any size. Raises UserError for a tower of an unknown kind."""
    if vision_config.model_type not in NORMALISATION:
        raise UserError(
            f"how the vision tower {vision_config.model_type} normalises pixels is not known; "
            f"there are {', '.join(NORMALISATION)}."
        )
    mean, std = (torch.tensor(levels).view(3, 1, 1) for levels in NORMALISATION[vision_config.model_type])
    squares = np.stack(
        [as_square(image, vision_config.image_size, fit=fit, fill=mean.flatten()) for image in images_HWC]
    )
    return (torch.from_numpy(squares).permute(0, 3, 1, 2).float() / 255 - mean) / std


def as_square(pixels_HWC: np.ndarray, image_px: int, *, fit: str, fill: Tensor) -> np.ndarray:
    """The picture as image_px x image_px: `pad` to a square (LLaVA-1.5), `crop` its middle, or `stretch`."""
    from PIL import Image, ImageOps

    picture = Image.fromarray(pixels_HWC)
    if picture.size == (image_px, image_px):
        return pixels_HWC
    if fit == "pad":
        side = max(picture.size)
        color = tuple(int(level * 255) for level in fill.tolist())
        whole = Image.new("RGB", (side, side), color)
        whole.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
        picture = whole
    elif fit == "crop":
        picture = ImageOps.fit(picture, (image_px, image_px), method=Image.Resampling.BICUBIC)
    return np.asarray(picture.resize((image_px, image_px), resample=Image.Resampling.BICUBIC))
