"""Learned queries that attend to the whole image; their tokens stand for no place.

Shapes: B images, P patches, V visual tokens, C width.
"""

import random
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vlmlaw.compressors.attention import MultiheadAttention, heads_for
from vlmlaw.compressors.base import Compressor, Inputs, Shape

PUBLISHED_HEADS = 8
MLP_RATIO = 4


class ResamplerLayer(nn.Module):
    """q += attention(LayerNorm q, LayerNorm [patches; q]); q += MLP(LayerNorm q).

    Weights: `queries_norm`, `patches_norm` C; `attention`; `mlp.0` LayerNorm C, `.1` 4C x C, 4C, `.3` C x 4C, C.
    """

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.queries_norm = nn.LayerNorm(width)
        self.patches_norm = nn.LayerNorm(width)
        self.attention = MultiheadAttention(width, n_heads)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, MLP_RATIO * width), nn.GELU(), nn.Linear(MLP_RATIO * width, width)
        )

    def forward(self, queries_BVC: Tensor, patches_BPC: Tensor) -> Tensor:
        normed_BVC = self.queries_norm(queries_BVC)
        context = torch.cat([self.patches_norm(patches_BPC), normed_BVC], dim=1)
        queries_BVC = queries_BVC + self.attention(normed_BVC, context, context)
        return queries_BVC + self.mlp(queries_BVC)

    @staticmethod
    def flops(width: int, n_queries: int, n_patches: int) -> int:
        mlp = 2 * 2 * n_queries * MLP_RATIO * width**2
        return MultiheadAttention.flops(width, n_queries, n_patches + n_queries) + mlp


class Resampler(Compressor):
    """V learned queries through `depth` layers of attention over patches and queries, then a LayerNorm.

    The Perceiver resampler of Flamingo (Alayrac et al. 2022, arXiv 2204.14198, section 3.1.1); as in the Q-Former
    of BLIP-2 (arXiv 2301.12597) the queries see each other. Places are learned (`position`), since the towers of
    today may not carry theirs to the last level. Weights: `queries` V x C; `position` P x C; `layers.i`; `norm` C.

    >>> from vlmlaw.compressors import build_compressor
    >>> compressor = build_compressor("resampler", grid_side=4, width=8, n_visual_tokens=4, depth=1)
    >>> compressor(torch.zeros(2, 16, 8)).shape
    torch.Size([2, 4, 8])
    """

    name = "resampler"

    def __init__(self, shape: Shape, *, depth: int = 2, n_heads: int = PUBLISHED_HEADS) -> None:
        super().__init__(shape)
        self._at_least_one(depth=depth, n_heads=n_heads)
        self.queries = nn.Parameter(torch.empty(self.n_visual_tokens, self.width))
        self.position = nn.Parameter(torch.empty(self.n_patches, self.width))
        n_heads = heads_for(self.width, n_heads)
        self.layers = nn.ModuleList(ResamplerLayer(self.width, n_heads) for _ in range(depth))
        self.norm = nn.LayerNorm(self.width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.trunc_normal_(self.queries, std=0.02)
        nn.init.trunc_normal_(self.position, std=0.02)

    def flops(self, n_question_tokens: int = 0) -> int:
        return len(self.layers) * ResamplerLayer.flops(self.width, self.n_visual_tokens, self.n_patches)

    def compress(self, inputs: Inputs) -> Tensor:
        patches_BPC = inputs.patches_BPC + self.position
        # a copy: FlopCounterMode under no_grad stumbles over a view of a parameter
        queries_BVC = self.queries.repeat(len(patches_BPC), 1, 1)
        for layer in self.layers:
            queries_BVC = layer(queries_BVC, patches_BPC)
        return self.norm(queries_BVC)


class MatryoshkaQueries(Compressor):
    """MQT (Hu et al. 2024, arXiv 2405.19315, section 3): the first V of P learned queries, one training for all V.

    token_v = W LayerNorm(attention(LayerNorm q_v, y + position, y)), y = LayerNorm(W' patches). Queries do not see
    each other, so the first tokens are the same whatever V is. A training step draws one V: evenly, as in the paper
    (there from 2, 4, ..., 256), here from 1 to P, or from `training_tokens`. Departures: P queries instead of 256, so
    that V reaches P; places of patches are learned instead of sine waves, and queries, being learned, have none added.
    Weights: `queries` P x C; `position` P x C; `patches_proj` C x C; `attention`; `output` C x C;
    `queries_norm`, `patches_norm`, `output_norm` C.

    >>> from vlmlaw.compressors import build_compressor
    >>> compressor = build_compressor("mqt", grid_side=4, width=8, n_visual_tokens=4)
    >>> patches = torch.randn(1, 16, 8)
    >>> torch.allclose(compressor(patches)[:, :2], compressor.with_n_visual_tokens(2)(patches), atol=1e-6)
    True
    """

    name = "mqt"
    elastic = True

    def __init__(
        self, shape: Shape, *, n_heads: int = PUBLISHED_HEADS, training_tokens: Sequence[int] | None = None
    ) -> None:
        super().__init__(shape)
        self._at_least_one(n_heads=n_heads)
        self.training_tokens = self._trained_at(training_tokens)
        self.queries = nn.Parameter(torch.empty(self.n_patches, self.width))
        self.position = nn.Parameter(torch.empty(self.n_patches, self.width))
        width = self.width
        self.patches_proj = nn.Linear(width, width, bias=False)
        self.queries_norm = nn.LayerNorm(width)
        self.patches_norm = nn.LayerNorm(width)
        self.attention = MultiheadAttention(width, heads_for(width, n_heads))
        self.output_norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, width, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.trunc_normal_(self.queries, std=0.02)
        nn.init.trunc_normal_(self.position, std=0.02)

    def tokens_of_step(self, step: int, *, seed: int) -> list[int]:
        return [random.Random(f"{seed} {step}").choice(self.training_tokens)]

    def flops(self, n_question_tokens: int = 0) -> int:
        maps = 2 * (self.n_patches + self.n_visual_tokens) * self.width**2
        return maps + MultiheadAttention.flops(self.width, self.n_visual_tokens, self.n_patches)

    def compress(self, inputs: Inputs) -> Tensor:
        patches_BPC = self.patches_norm(self.patches_proj(inputs.patches_BPC))
        queries_VC = self.queries_norm(self.queries)[: self.n_visual_tokens]
        queries_BVC = queries_VC.expand(len(patches_BPC), -1, -1)
        return self.output(self.output_norm(self.attention(queries_BVC, patches_BPC + self.position, patches_BPC)))
