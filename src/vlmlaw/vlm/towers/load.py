"""Load a vision tower: the vision part of a CLIP or SigLIP, any other AutoModel, or the miniature's own."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers.utils import logging

from vlmlaw.errors import UserError
from vlmlaw.hub.pins import Opened
from vlmlaw.runtime.whole_files import refused_if_damaged
from vlmlaw.vlm.towers import conv_tower, feature_map  # noqa: F401  registers the project's own towers with AutoModel
from vlmlaw.vlm.towers.resize import resized

if TYPE_CHECKING:
    import numpy as np

# Mean and standard deviation of the miniature's grey levels, in [0, 1], as an image processor applies them.
PIXEL_MEAN, PIXEL_STD = 0.3, 0.25


def load_tower(opened: Opened, *, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """Load the tower, frozen, in `dtype` (None: the one that its pin names).

    Raises UserError if some of its weights are missing.
    """
    options: dict[str, Any] = {"trust_remote_code": opened.trust_remote_code}
    with refused_if_damaged(opened.folder, "a vision tower"):
        config = AutoConfig.from_pretrained(opened.folder, **options)
    config = getattr(config, "vision_config", config)
    if dtype is None:
        dtype = getattr(torch, opened.pin.dtype) if opened.pin else torch.float32
    with refused_if_damaged(opened.folder, "a vision tower"), _without_load_report():
        tower, info = AutoModel.from_pretrained(
            opened.folder, config=config, dtype=dtype, use_safetensors=True, output_loading_info=True, **options
        )
    require_complete(opened.folder, type(tower), info["missing_keys"])
    tower = tower.requires_grad_(False).eval()
    return resized(tower, opened.pin.image_size) if opened.pin and opened.pin.image_size else tower


@contextmanager
def _without_load_report() -> Iterator[None]:
    """Keep transformers from listing the text model's weights, which a tower leaves out on purpose."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def require_complete(folder: Path, kind: type, missing: Iterable[str]) -> None:
    """Raise UserError if a checkpoint lacks weights of its model, which would stay random."""
    if lacking := sorted(missing):
        raise UserError(
            f"{folder}: the weights lack {len(lacking)} of {kind.__name__}, such as {lacking[0]}, left random; "
            "take a complete checkpoint of that kind."
        )


def statistics_of(opened: Opened) -> tuple[list[float], list[float]]:
    """Return the mean and standard deviation of each color with which the tower's pixels are normalised."""
    if opened.pin is None:
        return [PIXEL_MEAN] * 3, [PIXEL_STD] * 3
    return list(opened.pin.image_mean), list(opened.pin.image_std)


def pixel_statistics(folder: Path) -> tuple[list[float], list[float]]:
    """Read the mean and standard deviation of each color from a model's preprocessor_config.json.

    Raises UserError if it does not hold three numbers of each.
    """
    path = folder / "preprocessor_config.json"
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
        mean, std = [float(x) for x in given["image_mean"]], [float(x) for x in given["image_std"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} does not say image_mean and image_std ({error!r}); without them the tower would see wrong colors. "
            "Save the model's image processor into its folder."
        ) from error
    if len(mean) != 3 or len(std) != 3 or not min(std) > 0:
        raise UserError(f"{path}: found image_mean {mean}, image_std {std}; expected three numbers each, std above 0.")
    return mean, std


def downsampled(pixels_BCHW: Tensor, side: int, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Resize normalised pixels to (B, 3, side, side): bicubic, antialiased as in Pillow, clamped to black and white."""
    resized = F.interpolate(pixels_BCHW.float(), size=(side, side), mode="bicubic", antialias=True)
    shift, scale = (torch.tensor(x, device=resized.device).view(1, 3, 1, 1) for x in (mean, std))
    return resized.clamp(-shift / scale, (1 - shift) / scale)


def normalise(pixels_BHWC: np.ndarray | Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return pixel_values (B, 3, H, W) in float32 of uint8 images (B, H, W, 3), on the same device."""
    pixels = torch.as_tensor(pixels_BHWC).permute(0, 3, 1, 2).float() / 255
    shift, scale = (torch.tensor(x, device=pixels.device).view(1, 3, 1, 1) for x in (mean, std))
    return (pixels - shift) / scale
