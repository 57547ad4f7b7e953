"""Compressors without weights that look at nothing but the grid: the baselines of every comparison.

Shapes: B images, P patches, V visual tokens, C width.
"""

import random
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vlmlaw.compressors.base import AFTER, BEFORE, Compressor, Inputs, Shape, patch_positions
from vlmlaw.compressors.grids import SquareCompressor, as_image, as_tokens, pool


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


class AveragePooling(SquareCompressor):
    """visual_v = mean of the patches of window v: adaptive average pooling, whose windows overlap where sqrt(V) does
    not divide the grid's side.

    >>> from vlmlaw.compressors import build_compressor
    >>> patches = torch.arange(16.0).reshape(1, 16, 1)  # a 4 x 4 grid of width 1, in raster order
    >>> build_compressor("average", 4, 1, 4)(patches).flatten().tolist()
    [2.5, 4.5, 10.5, 12.5]
    """

    name = "average"
    place, may_stand = AFTER, (BEFORE, AFTER)

    def compress(self, inputs: Inputs) -> Tensor:
        return pool(inputs.patches_BPC, self.grid_side, self.tokens_side)


class MatryoshkaPooling(AveragePooling):
    """M3 (Cai et al. 2024, arXiv 2405.17430, section 3): average pooling, one training for all V.

    A training step takes the mean of the losses at every scale; as released these are the grid and its halves, rounded
    down (24 x 24: V = 576, 144, 36, 9, 1), or `training_tokens`. Stage 1 is at all patches, as LLaVA's, from whose
    result the released code starts. Any other square V can be made of the weights.

    >>> from vlmlaw.compressors import build_compressor
    >>> compressor = build_compressor("m3", 24, 1, 576)
    >>> compressor.training_tokens, compressor.with_n_visual_tokens(4)(torch.zeros(1, 576, 1)).shape
    ([1, 9, 36, 144, 576], torch.Size([1, 4, 1]))
    """

    name = "m3"
    elastic = True

    def __init__(self, shape: Shape, *, training_tokens: Sequence[int] | None = None) -> None:
        super().__init__(shape)
        scales = [(shape.grid_side >> n_halvings) ** 2 for n_halvings in range(shape.grid_side.bit_length())]
        self.training_tokens = self._trained_at(scales if training_tokens is None else training_tokens)

    def tokens_of_step(self, step: int, *, seed: int, aligning: bool = False) -> list[int]:
        return [self.n_patches] if aligning else self.training_tokens


class ElasticAverage(MatryoshkaPooling):
    """Average pooling, one training for all V, a training step drawing one of them evenly, as MQT does (2405.19315).

    A step costs the mean of the V where one of `m3` costs their sum.

    >>> from vlmlaw.compressors import build_compressor
    >>> compressor = build_compressor("average_elastic", 4, 1, 16, training_tokens=[4, 16])
    >>> [compressor.tokens_of_step(step, seed=0) for step in range(4)]
    [[16], [4], [4], [4]]
    """

    name = "average_elastic"

    def tokens_of_step(self, step: int, *, seed: int, aligning: bool = False) -> list[int]:
        return [self.n_patches] if aligning else [random.Random(f"{seed} {step}").choice(self.training_tokens)]


class StridedSampling(SquareCompressor):
    """visual_v = the patch at the middle of cell v (of two middles the last), the grid cut evenly into V cells.

    >>> from vlmlaw.compressors import build_compressor
    >>> patches = torch.arange(16.0).reshape(1, 16, 1)  # a 4 x 4 grid of width 1, in raster order
    >>> build_compressor("stride", 4, 1, 4)(patches).flatten().tolist()
    [5.0, 7.0, 13.0, 15.0]
    """

    name = "stride"

    @property
    def positions(self) -> Tensor | None:
        middles = torch.tensor(self._middles(), dtype=torch.float32)
        return torch.cartesian_prod(middles, middles).reshape(-1, 2)

    def compress(self, inputs: Inputs) -> Tensor:
        middles = self._middles()
        if self.grid_side % self.tokens_side == 0:  # evenly spaced: a view
            first, step = middles[0], self.grid_side // self.tokens_side
            return as_tokens(as_image(inputs.patches_BPC, self.grid_side)[:, :, first::step, first::step])
        return inputs.patches_BPC[:, [row * self.grid_side + column for row in middles for column in middles]]

    def _middles(self) -> list[int]:
        """The row (or column) in the middle of each cell."""
        side = self.tokens_side
        return [(2 * i + 1) * self.grid_side // (2 * side) for i in range(side)]


class BilinearResize(SquareCompressor):
    """The grid resized to sqrt(V) x sqrt(V) bilinearly (as LLaVA-OneVision, arXiv 2408.03326, does for frames).

    Each token mixes the four patches nearest its centre (no antialiasing), so that a large step skips patches,
    unlike the mean. Any square V up to P, dividing or not.

    >>> from vlmlaw.compressors import build_compressor
    >>> patches = torch.arange(16.0).reshape(1, 16, 1)  # a 4 x 4 grid of width 1, in raster order
    >>> build_compressor("bilinear", 4, 1, 4)(patches).flatten().tolist()
    [2.5, 4.5, 10.5, 12.5]
    """

    name = "bilinear"
    place, may_stand = AFTER, (BEFORE, AFTER)

    def compress(self, inputs: Inputs) -> Tensor:
        side = self.tokens_side
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


class Downsample(SquareCompressor):
    """The image made smaller before the tower, whose sqrt(V) x sqrt(V) patches are the tokens.

    The one compressor that makes the tower cheaper, too. The model resizes the image (bicubic, antialiased) and the
    tower reads it at positions between those that it learned; here patches pass as they are.

    >>> from vlmlaw.compressors import build_compressor
    >>> compressor = build_compressor("downsample", 24, 8, 144)
    >>> compressor.tower_side, compressor(torch.zeros(1, 144, 8)).shape
    (12, torch.Size([1, 144, 8]))
    """

    name = "downsample"
    before_tower = True

    @property
    def tower_side(self) -> int:
        return self.tokens_side

    def compress(self, inputs: Inputs) -> Tensor:
        return inputs.patches_BPC


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


class DownsampleAtInference(Downsample):
    """`downsample`, at inference only."""

    name = "downsample_at_inference"
    elastic = training_free = True
