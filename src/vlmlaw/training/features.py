"""Cache a tower's features of every image, once for all cells."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from vlmlaw.data.shards import Dataset
from vlmlaw.errors import UserError
from vlmlaw.hub.pins import open_model
from vlmlaw.runtime.progress import progress
from vlmlaw.runtime.whole_files import whole_folder
from vlmlaw.vlm.device import best_device
from vlmlaw.vlm.images import feature_file
from vlmlaw.vlm.towers import features
from vlmlaw.vlm.towers.load import load_tower, normalise, statistics_of

IMAGES_AT_ONCE = 64


@torch.no_grad()
def cache_features(encoder: Path, dataset: Path, out: Path, *, layers: Sequence[int]) -> None:
    """Write the features (n_images, P, C) of every image in half precision, one file for each of `layers`.

    The files are written in batches through a memory map, so that memory stays small whatever their size.
    Raises UserError if a feature is beyond half precision.
    """
    opened = open_model(encoder)
    tower, (mean, std) = load_tower(opened), statistics_of(opened)
    torch.nn.Module.to(tower, best_device())  # typed more precisely than transformers' own `to`
    data = Dataset(dataset)
    n_images = len(data.image_names)
    shape = (n_images, features.grid_side(tower.config) ** 2, tower.config.hidden_size)
    with whole_folder(out) as folder:
        files = [
            np.lib.format.open_memmap(feature_file(folder, layer), mode="w+", dtype=np.float16, shape=shape)
            for layer in layers
        ]
        starts = range(0, n_images, IMAGES_AT_ONCE)
        for start in progress(starts, len(starts), "features"):
            rows = range(start, min(start + IMAGES_AT_ONCE, n_images))
            pixel_values = normalise(np.stack(list(data.images(rows))), mean, std).to(tower.device, tower.dtype)
            features_BPK = features.patch_features(tower, pixel_values, layers=layers).to(torch.float16)
            if not features_BPK.isfinite().all():
                raise UserError(
                    f"{encoder}: features of images {rows.start} to {rows.stop - 1} of {dataset} do not fit into half "
                    f"precision (beyond {torch.finfo(torch.float16).max:.0f}); name other layers than {list(layers)}."
                )
            for file, part in zip(files, features_BPK.chunk(len(layers), dim=-1), strict=True):
                file[rows.start : rows.stop] = part.cpu().numpy()
        for file in files:
            file.flush()
