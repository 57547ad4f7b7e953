"""Square grids of patches, pooled to smaller ones or cut into square regions: one visual token for each.

Shapes: B images, P patches, V regions in raster order, k a region's side, R = k * k patches in a region, C width.
"""

import math

import torch
import torch.nn.functional as F
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


def as_image(patches_BPC: Tensor, grid_side: int) -> Tensor:
    """(B, P, C) to (B, C, s, s), a view that torch's convolutions read as channels-last."""
    return patches_BPC.reshape(len(patches_BPC), grid_side, grid_side, -1).permute(0, 3, 1, 2)


def as_tokens(image_BCss: Tensor) -> Tensor:
    """(B, C, m, m) to (B, m * m, C)."""
    return image_BCss.permute(0, 2, 3, 1).flatten(1, 2)


def windows(grid_side: int, side: int) -> tuple[list[int], list[int]]:
    """First rows and ends of the `side` windows of adaptive pooling; where `side` does not divide, they overlap.

    >>> windows(9, 4)
    ([0, 2, 4, 6], [3, 5, 7, 9])
    """
    starts = [i * grid_side // side for i in range(side)]
    return starts, [-(-(i + 1) * grid_side // side) for i in range(side)]


def pool(patches_BPC: Tensor, grid_side: int, side: int) -> Tensor:
    """(B, P, C) to (B, side^2, C): adaptive average pooling of the grid.

    Nothing is copied in another order: a B x P x C tensor is an image whose channels come last.

    >>> pool(torch.arange(9.0).reshape(1, 9, 1), 3, 2).flatten().tolist()
    [2.0, 3.0, 5.0, 6.0]
    """
    if side == grid_side:
        return patches_BPC
    image_BCss = as_image(patches_BPC, grid_side)
    if grid_side % side == 0:
        return as_tokens(F.avg_pool2d(image_BCss, grid_side // side))
    if image_BCss.is_cuda and torch.are_deterministic_algorithms_enabled():
        return pool_by_products(patches_BPC, grid_side, side)  # adaptive pooling's gradient is not deterministic there
    return as_tokens(F.adaptive_avg_pool2d(image_BCss, side))


def pool_by_products(patches_BPC: Tensor, grid_side: int, side: int) -> Tensor:
    """`pool` as two products with a matrix of window means."""
    places = torch.arange(grid_side, device=patches_BPC.device)
    starts, ends = (torch.tensor(x, device=patches_BPC.device).unsqueeze(1) for x in windows(grid_side, side))
    inside = ((places >= starts) & (places < ends)).to(patches_BPC.dtype)
    means = inside / inside.sum(dim=1, keepdim=True)  # (side, grid side)
    rows = means @ patches_BPC.unflatten(1, (grid_side, grid_side)).flatten(2)
    return (means @ rows.unflatten(2, (grid_side, -1))).flatten(1, 2)


def even_positions(grid_side: int, side: int) -> Tensor:
    """(side^2, 2) centres of the cells when the grid is cut evenly into side x side of them."""
    step = grid_side / side
    line = (torch.arange(side, dtype=torch.float32) + 0.5) * step - 0.5
    return torch.cartesian_prod(line, line).reshape(-1, 2)


class SquareCompressor(Compressor):
    """V tokens of a square grid of their own: any square number up to P."""

    @classmethod
    def allowed_tokens(cls, grid_side: int) -> list[int]:
        return [side**2 for side in range(1, grid_side + 1)]

    @property
    def tokens_side(self) -> int:
        return math.isqrt(self.n_visual_tokens)

    @property
    def positions(self) -> Tensor | None:
        return even_positions(self.grid_side, self.tokens_side)


class RegionCompressor(SquareCompressor):
    """One token for each k x k region of the grid: V = (s / k)^2 for every k that divides s."""

    @classmethod
    def allowed_tokens(cls, grid_side: int) -> list[int]:
        return [side**2 for side in divisors(grid_side)]

    @property
    def region_side(self) -> int:
        return self.grid_side // self.tokens_side
