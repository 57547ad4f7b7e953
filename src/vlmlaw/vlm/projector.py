"""Modules between compressor and LLM: the projector, and an embedding of where in the image visual tokens are from.

B images, V visual tokens, P patches, C tower width, D LLM width.
"""

import torch
from torch import Tensor, nn


class Projector(nn.Module):
    """A two-layer GELU MLP from the tower's width to the LLM's (LLaVA-1.5, Liu et al. 2023, arXiv 2310.03744).

    A LayerNorm stands before it (as in Qwen2-VL's merger, Wang et al. 2024, arXiv 2409.12191): the mean of many patches
    is far smaller than one patch, and without it the fewest tokens would need the largest weights. `mlp` has the layout
    of LLaVA's `mm_projector`. Without `norm` it is that of the released LLaVA, QueCC and TokenPacker. With `absent` it
    changes nothing: the compressor already outputs tokens of the LLM's width.

    >>> len(list(Projector(8, 16).parameters())), len(list(Projector(16, 16, absent=True).parameters()))
    (6, 0)
    """

    def __init__(self, in_width: int, out_width: int, *, norm: bool = True, absent: bool = False):
        super().__init__()
        self.norm: nn.Module = nn.LayerNorm(in_width, eps=1e-6) if norm and not absent else nn.Identity()
        layers = (nn.Linear(in_width, out_width), nn.GELU(), nn.Linear(out_width, out_width))
        self.mlp = nn.Sequential(*(() if absent else layers))

    def reset_norm(self) -> None:
        """Set the initial weights of the norm, if there is one."""
        if isinstance(self.norm, nn.LayerNorm):
            self.norm.reset_parameters()

    def forward(self, visual_BVC: Tensor) -> Tensor:
        """Visual tokens (B, V, D)."""
        return self.mlp(self.norm(visual_BVC))


class PlaceEmbedding(nn.Module):
    """Learned embedding of each patch's place, interpolated bilinearly between patches.

    A visual token that stands for many patches carries the embedding of their centre, whatever V is.
    """

    def __init__(self, grid_side: int, width: int):
        super().__init__()
        self.grid_side = grid_side
        self.table = nn.Embedding(grid_side**2, width)

    @torch.no_grad()
    def start_from(self, embeddings_PD: Tensor) -> None:
        """Initialise each place with the embedding of the word that the LLM already knows for it."""
        self.table.weight.copy_(embeddings_PD)

    def forward(self, places_BV2: Tensor) -> Tensor:
        """Embeddings (B, V, D) of places (row, column) in patch units."""
        low, high = places_BV2.floor().long(), places_BV2.ceil().long()
        share = (places_BV2 - low).to(self.table.weight.dtype)
        corners = [
            (rows, columns, row_share * column_share)
            for rows, row_share in ((low[..., 0], 1 - share[..., 0]), (high[..., 0], share[..., 0]))
            for columns, column_share in ((low[..., 1], 1 - share[..., 1]), (high[..., 1], share[..., 1]))
        ]
        return sum(weight[..., None] * self.table(rows * self.grid_side + columns) for rows, columns, weight in corners)
