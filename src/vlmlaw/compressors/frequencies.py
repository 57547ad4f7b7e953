"""Low frequencies of the grid of patches.

Shapes: B images, P patches, V visual tokens, s the grid's side, m the tokens' side, C width.
"""

import math

import torch
from torch import Tensor

from vlmlaw.compressors.base import Inputs, without_autocast
from vlmlaw.compressors.grids import SquareCompressor


def cosine_transform(side: int, device: torch.device) -> Tensor:
    """(side, side) the orthonormal DCT-II as a matrix: frequencies by places.

    >>> matrix = cosine_transform(4, torch.device("cpu"))
    >>> torch.allclose(matrix @ matrix.T, torch.eye(4, dtype=torch.float64))
    True
    """
    places = torch.arange(side, dtype=torch.float64, device=device)
    matrix = torch.cos(math.pi / side * (places + 0.5) * places.unsqueeze(1)) * math.sqrt(2 / side)
    matrix[0] /= math.sqrt(2)
    return matrix


class Fourier(SquareCompressor):
    """The m x m lowest frequencies of the grid's cosine transform, transformed back at that size.

    Fourier-VLM (Wang et al. 2025, arXiv 2508.06038), as released: orthonormal transforms of both sizes, so that a
    constant image comes out s / m times as large; in float32, before the projector. Any square V.

    >>> from vlmlaw.compressors import build_compressor
    >>> build_compressor("fourier", 4, 1, 4)(torch.ones(1, 16, 1)).round().flatten().tolist()
    [2.0, 2.0, 2.0, 2.0]
    """

    name = "fourier"

    def flops(self, n_question_tokens: int = 0) -> int:
        s, m = self.grid_side, self.tokens_side
        return 2 * (m * s * s + m * m * s) * self.width + self.batch_flops()

    def batch_flops(self) -> int:
        return 2 * self.tokens_side**2 * self.grid_side

    def compress(self, inputs: Inputs) -> Tensor:
        patches_BPC, s, m = inputs.patches_BPC, self.grid_side, self.tokens_side
        forth, back = (cosine_transform(side, patches_BPC.device) for side in (s, m))
        resize = (back.T @ forth[:m]).float()  # (m, s)
        with without_autocast(patches_BPC.device):
            rows = resize @ patches_BPC.float().unflatten(1, (s, s)).flatten(2)
            tokens = resize @ rows.unflatten(2, (s, -1))
        return tokens.flatten(1, 2).to(patches_BPC.dtype)
