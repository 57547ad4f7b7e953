"""Compressors without weights that look at nothing but the grid: the baselines of every comparison.

Shapes: B images, P patches, V visual tokens, C width.
"""

import random
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vlmlaw.compressors.base import Compressor, Inputs, Shape, patch_positions
from vlmlaw.compressors.grids import RegionCompressor, as_image, as_tokens, even_positions, region_means


class AllPatches(Compressor):
    """No compression: V = P.

    >>> from vlmlaw.compressors import build_compressor
    >>> build_compressor("none", 4, 8, 16)(torch.zeros(1, 16, 8)).shape
    torch.Size([1, 16, 8])
    """

    name = "none"

    @classmethod
    def allowed_tokens(cls, grid_side: int) -> list[int]:
        return [grid_side**2]

    @property
    def positions(self) -> Tensor | None:
        return patch_positions(self.grid_side)

    def compress(self, inputs: Inputs) -> Tensor:
        return inputs.patches_BPC


class AveragePooling(RegionCompressor):
    """visual_v = mean of the patches of region v.

    >>> from vlmlaw.compressors import build_compressor
    >>> patches = torch.arange(16.0).reshape(1, 16, 1)  # a 4 x 4 grid of width 1, in raster order
    >>> build_compressor("average", 4, 1, 4)(patches).flatten().tolist()
    [2.5, 4.5, 10.5, 12.5]
    """

    name = "average"

    def compress(self, inputs: Inputs) -> Tensor:
        return region_means(inputs.patches_BPC, self.grid_side, self.region_side)


class MatryoshkaPooling(AveragePooling):
    """M3 (Cai et al. 2024, arXiv 2405.17430, section 3): average pooling, one training for all V.

    A training step takes the mean of the losses at every scale, as in the paper (there V = 1, 9, 36, 144, 576); here at
    every V that the grid allows, or at `training_tokens`. Coarser tokens are means of finer ones.

    >>> from vlmlaw.compressors import build_compressor
    >>> compressor = build_compressor("m3", 4, 1, 16)
    >>> compressor.training_tokens, compressor.with_n_visual_tokens(4)(torch.zeros(1, 16, 1)).shape
    ([1, 4, 16], torch.Size([1, 4, 1]))
    """

    name = "m3"
    elastic = True

    def __init__(self, shape: Shape, *, training_tokens: Sequence[int] | None = None) -> None:
        super().__init__(shape)
        self.training_tokens = self._trained_at(training_tokens)

    def tokens_of_step(self, step: int, *, seed: int) -> list[int]:
        return self.training_tokens


class StridedSampling(RegionCompressor):
    """visual_v = the patch at the middle of region v (for an even side, the last of the two middles).

    >>> from vlmlaw.compressors import build_compressor
    >>> patches = torch.arange(16.0).reshape(1, 16, 1)  # a 4 x 4 grid of width 1, in raster order
    >>> build_compressor("stride", 4, 1, 4)(patches).flatten().tolist()
    [5.0, 7.0, 13.0, 15.0]
    """

    name = "stride"

    @property
    def positions(self) -> Tensor | None:
        return patch_positions(self.grid_side)[self._kept()]

    def compress(self, inputs: Inputs) -> Tensor:
        k, offset = self.region_side, self.region_side // 2
        image_BCss = as_image(inputs.patches_BPC, self.grid_side)
        return as_tokens(image_BCss[:, :, offset::k, offset::k])

    def _kept(self) -> Tensor:
        index = torch.arange(self.n_patches).reshape(self.grid_side, self.grid_side)
        k, offset = self.region_side, self.region_side // 2
        return index[offset::k, offset::k].flatten()


class BilinearResize(Compressor):
    """The grid resized to sqrt(V) x sqrt(V) bilinearly (as LLaVA-OneVision, arXiv 2408.03326, does for frames).

    Each token mixes the four patches nearest its centre (no antialiasing), so that a large step skips patches,
    unlike the mean. Any square V up to P, dividing or not.

    >>> from vlmlaw.compressors import build_compressor
    >>> patches = torch.arange(16.0).reshape(1, 16, 1)  # a 4 x 4 grid of width 1, in raster order
    >>> build_compressor("bilinear", 4, 1, 4)(patches).flatten().tolist()
    [2.5, 4.5, 10.5, 12.5]
    """

    name = "bilinear"

    @classmethod
    def allowed_tokens(cls, grid_side: int) -> list[int]:
        return [side**2 for side in range(1, grid_side + 1)]

    @property
    def positions(self) -> Tensor | None:
        return even_positions(self.grid_side, round(self.n_visual_tokens**0.5))

    def compress(self, inputs: Inputs) -> Tensor:
        side = round(self.n_visual_tokens**0.5)
        if side == self.grid_side:
            return inputs.patches_BPC
        image_BCss = as_image(inputs.patches_BPC, self.grid_side)
        return as_tokens(F.interpolate(image_BCss, size=(side, side), mode="bilinear", align_corners=False))


class RandomSelection(Compressor):
    """V patches drawn once, without replacement, by `seed`: the same ones in every image, in raster order.

    >>> from vlmlaw.compressors import build_compressor
    >>> patches = torch.arange(16.0).reshape(1, 16, 1)  # a 4 x 4 grid of width 1, in raster order
    >>> build_compressor("random", 4, 1, 4)(patches).flatten().tolist()
    [0.0, 6.0, 12.0, 15.0]
    """

    name = "random"

    def __init__(self, shape: Shape, *, seed: int = 0) -> None:
        super().__init__(shape)
        self.seed = seed

    @property
    def kept(self) -> list[int]:
        """The places of the patches, ascending."""
        return sorted(random.Random(self.seed).sample(range(self.n_patches), self.n_visual_tokens))

    @property
    def positions(self) -> Tensor | None:
        return patch_positions(self.grid_side)[self.kept]

    def compress(self, inputs: Inputs) -> Tensor:
        return inputs.patches_BPC if self.n_visual_tokens == self.n_patches else inputs.patches_BPC[:, self.kept]


# The same without a training of their own: applied at inference to a model trained on all patches (`none`). What they
# lose beside the trained ones is what training at V is worth; what content-aware selection must beat is these.


class AverageAtInference(AveragePooling):
    """`average`, at inference only."""

    name = "average_at_inference"
    elastic = training_free = True


class StrideAtInference(StridedSampling):
    """`stride`, at inference only."""

    name = "stride_at_inference"
    elastic = training_free = True


class BilinearAtInference(BilinearResize):
    """`bilinear`, at inference only."""

    name = "bilinear_at_inference"
    elastic = training_free = True


class RandomAtInference(RandomSelection):
    """`random`, at inference only."""

    name = "random_at_inference"
    elastic = training_free = True
