"""Learned compressors that read each k x k region as one flat vector of R * C numbers.

Their weights grow as k^2: at V = 1 they read the whole image at once.
Shapes: B images, P patches, V visual tokens, k a region's side, R = k * k patches in a region, C width.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from vlmlaw.compressors.base import Inputs, Shape
from vlmlaw.compressors.grids import RegionCompressor, pool, split_into_regions


class BlockLinear(RegionCompressor):
    """visual_v = mean of the patches of region v + W flat(region v) + b, with W = 0 and b = 0 at the start.

    It starts as `average` and learns what the mean leaves out; MLP with pixel shuffle without its hidden layer,
    as a residual on the mean. Ours: at V = 1 it beats both of its parts in the miniature.
    Weights: `linear` C x RC, C.

    >>> import torch
    >>> from vlmlaw.compressors import build_compressor
    >>> patches = torch.arange(16.0).reshape(1, 16, 1)  # a 4 x 4 grid of width 1, in raster order
    >>> build_compressor("block_linear", 4, 1, 4)(patches).flatten().tolist()
    [2.5, 4.5, 10.5, 12.5]
    """

    name = "block_linear"

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self.linear = nn.Linear(self.region_side**2 * self.width, self.width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def flops(self, n_question_tokens: int = 0) -> int:
        return 2 * self.n_patches * self.width**2

    def compress(self, inputs: Inputs) -> Tensor:
        regions_BVRC = split_into_regions(inputs.patches_BPC, self.grid_side, self.region_side)
        mean_BVC = pool(inputs.patches_BPC, self.grid_side, self.tokens_side)
        return mean_BVC + self.linear(regions_BVRC.flatten(2))


class MlpShuffle(RegionCompressor):
    """visual_v = W2 GELU(W1 LayerNorm(flat(region v)) + b1) + b2: pixel shuffle, then an MLP.

    As InternVL 1.5 (Chen et al. 2024, arXiv 2404.16821, section 3.1), whose MLP ends in the LLM's width; here in C.
    Weights: `norm` RC; `hidden` H x RC, H; `output` C x H, C, with H = `hidden_width` (C unless given).

    >>> import torch
    >>> from vlmlaw.compressors import build_compressor
    >>> compressor = build_compressor("mlp_shuffle", grid_side=4, width=8, n_visual_tokens=4, hidden_width=16)
    >>> compressor(torch.zeros(2, 16, 8)).shape
    torch.Size([2, 4, 8])
    """

    name = "mlp_shuffle"

    def __init__(self, shape: Shape, *, hidden_width: int | None = None) -> None:
        super().__init__(shape)
        self._at_least_one(hidden_width=hidden_width)
        self.hidden_width = hidden_width or self.width
        flat_width = self.region_side**2 * self.width
        self.norm = nn.LayerNorm(flat_width)
        self.hidden = nn.Linear(flat_width, self.hidden_width)
        self.output = nn.Linear(self.hidden_width, self.width)

    def flops(self, n_question_tokens: int = 0) -> int:
        return 2 * self.hidden_width * self.width * (self.n_patches + self.n_visual_tokens)

    def compress(self, inputs: Inputs) -> Tensor:
        flat_BVF = split_into_regions(inputs.patches_BPC, self.grid_side, self.region_side).flatten(2)
        return self.output(F.gelu(self.hidden(self.norm(flat_BVF))))
