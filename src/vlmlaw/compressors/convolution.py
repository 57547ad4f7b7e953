"""Convolutional abstraction: the patches talk to their neighbours before and after they are pooled.

Source: C-Abstractor, Honeybee (Cha et al. 2023, arXiv 2312.06742, section 4.1).
Shapes: B images, P patches, V visual tokens, N tokens of a square grid (P or V), C width, S squeezed width.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlmlaw.compressors.base import Inputs, Shape
from vlmlaw.compressors.grids import SquareCompressor, as_image, as_tokens, pool

SQUEEZE = 4


class RegNetBlock(nn.Module):
    """Residual bottleneck of RegNet-Y (Radosavovic et al. 2020) with layer instead of batch normalisation.

    1 x 1, depth-wise 3 x 3, squeeze and excitation, 1 x 1; SiLU between. The 1 x 1 convolutions are linear maps.
    Weights: `expand`, `project` C x C; `depthwise` C x 1 x 3 x 3; `squeeze` S x C, S; `excite` C x S, C;
    three LayerNorms C; S = C / 4.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        squeezed = max(1, width // SQUEEZE)
        self.expand = nn.Linear(width, width, bias=False)
        self.expand_norm = nn.LayerNorm(width)
        self.depthwise = nn.Conv2d(width, width, kernel_size=3, padding=1, groups=width, bias=False)
        self.depthwise_norm = nn.LayerNorm(width)
        self.squeeze = nn.Linear(width, squeezed)
        self.excite = nn.Linear(squeezed, width)
        self.project = nn.Linear(width, width, bias=False)
        self.project_norm = nn.LayerNorm(width)

    def forward(self, tokens_BNC: Tensor) -> Tensor:
        side = math.isqrt(tokens_BNC.shape[1])
        hidden_BNC = F.silu(self.expand_norm(self.expand(tokens_BNC)))
        hidden_BNC = as_tokens(self.depthwise(as_image(hidden_BNC, side)))
        hidden_BNC = F.silu(self.depthwise_norm(hidden_BNC))
        gate_B1C = torch.sigmoid(self.excite(F.silu(self.squeeze(hidden_BNC.mean(dim=1, keepdim=True)))))
        return F.silu(tokens_BNC + self.project_norm(self.project(hidden_BNC * gate_B1C)))

    @staticmethod
    def flops(width: int, n_tokens: int) -> int:
        squeezed = max(1, width // SQUEEZE)
        return 2 * (2 * n_tokens * width**2 + 9 * n_tokens * width + 2 * width * squeezed)


class CAbstractor(SquareCompressor):
    """visual = blocks(adaptive average pooling(blocks(patches + position))), `depth` RegNet blocks each time.

    Honeybee's closing MLP is the model's projector. Weights: `position` P x C; `before.i`, `after.i` RegNetBlock.

    >>> from vlmlaw.compressors import build_compressor
    >>> compressor = build_compressor("conv", grid_side=4, width=8, n_visual_tokens=4, depth=1)
    >>> compressor(torch.zeros(2, 16, 8)).shape
    torch.Size([2, 4, 8])
    """

    name = "conv"

    def __init__(self, shape: Shape, *, depth: int = 3) -> None:
        super().__init__(shape)
        self._at_least_one(depth=depth)
        self.depth = depth
        self.position = nn.Parameter(torch.empty(self.n_patches, self.width))
        self.before = nn.Sequential(*(RegNetBlock(self.width) for _ in range(depth)))
        self.after = nn.Sequential(*(RegNetBlock(self.width) for _ in range(depth)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.trunc_normal_(self.position, std=0.02)

    def flops(self, n_question_tokens: int = 0) -> int:
        before = RegNetBlock.flops(self.width, self.n_patches)
        after = RegNetBlock.flops(self.width, self.n_visual_tokens)
        return self.depth * (before + after)

    def compress(self, inputs: Inputs) -> Tensor:
        mixed_BPC = self.before(inputs.patches_BPC + self.position)
        return self.after(pool(mixed_BPC, self.grid_side, self.tokens_side))
