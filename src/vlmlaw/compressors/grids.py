"""Square grids of patches cut into square regions: one visual token for each region.

Shapes: B images, P patches, V regions in raster order, k a region's side, R = k * k patches in a region, C width.
"""

import math

import torch
from torch import Tensor

from vlmlaw.compressors.base import Compressor


def divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


def split_into_regions(patches_BPC: Tensor, grid_side: int, region_side: int) -> Tensor:
    """(B, P, C) to (B, V, R, C): the patches of each region, both in raster order."""
    n_images, _, width = patches_BPC.shape
    side = grid_side // region_side
    grid = patches_BPC.reshape(n_images, side, region_side, side, region_side, width)
    return grid.transpose(2, 3).reshape(n_images, side * side, region_side * region_side, width)


def region_means(patches_BPC: Tensor, grid_side: int, region_side: int) -> Tensor:
    """(B, P, C) to (B, V, C): down the columns, then along the rows, so that nothing is copied in another order."""
    if region_side == 1:
        return patches_BPC
    side = grid_side // region_side
    rows = patches_BPC.unflatten(1, (side, region_side, grid_side)).mean(dim=2)
    return rows.unflatten(2, (side, region_side)).mean(dim=3).flatten(1, 2)


def as_image(patches_BPC: Tensor, grid_side: int) -> Tensor:
    """(B, P, C) to (B, C, s, s), a view that torch's convolutions read as channels-last."""
    return patches_BPC.reshape(len(patches_BPC), grid_side, grid_side, -1).permute(0, 3, 1, 2)


def as_tokens(image_BCss: Tensor) -> Tensor:
    """(B, C, m, m) to (B, m * m, C)."""
    return image_BCss.permute(0, 2, 3, 1).flatten(1, 2)


def even_positions(grid_side: int, side: int) -> Tensor:
    """(side^2, 2) centres of the cells when the grid is cut evenly into side x side of them."""
    step = grid_side / side
    line = (torch.arange(side, dtype=torch.float32) + 0.5) * step - 0.5
    return torch.cartesian_prod(line, line).reshape(-1, 2)


class RegionCompressor(Compressor):
    """One token for each k x k region of the grid: V = (s / k)^2 for every k that divides s."""

    @classmethod
    def allowed_tokens(cls, grid_side: int) -> list[int]:
        return [side**2 for side in divisors(grid_side)]

    @property
    def tokens_side(self) -> int:
        return math.isqrt(self.n_visual_tokens)

    @property
    def region_side(self) -> int:
        return self.grid_side // self.tokens_side

    @property
    def positions(self) -> Tensor | None:
        return even_positions(self.grid_side, self.tokens_side)
