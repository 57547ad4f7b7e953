"""Learned queries that attend to the whole image; their tokens stand for no place.

Shapes: B images, P patches, V visual tokens, C width, D the LLM's width, N queries held, I inner width of attention.
"""

import math
import random
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlmlaw.compressors.attention import MultiheadAttention, heads_for
from vlmlaw.compressors.base import Compressor, Inputs, Shape
from vlmlaw.errors import UserError

MLP_RATIO = 4
LAYER_NORM_EPS = 1e-6  # MQT's, as released
SINE_PERIOD = 10_000


class PerceiverAttention(nn.Module):
    """attention(LayerNorm q, [LayerNorm patches; LayerNorm q]), no map with a bias, heads of `head_width`.

    Weights: `norm_media`, `norm_latents` C; `to_q` I x C; `to_kv` 2I x C, `to_out` C x I; I = heads * head_width.
    """

    def __init__(self, width: int, n_heads: int, head_width: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        inner = n_heads * head_width
        self.norm_media = nn.LayerNorm(width)
        self.norm_latents = nn.LayerNorm(width)
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_kv = nn.Linear(width, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, width, bias=False)

    def forward(self, queries_BVC: Tensor, patches_BPC: Tensor) -> Tensor:
        normed_BVC = self.norm_latents(queries_BVC)
        context = torch.cat([self.norm_media(patches_BPC), normed_BVC], dim=1)
        keys, values = self.to_kv(context).chunk(2, dim=-1)
        q, k, v = (x.unflatten(-1, (self.n_heads, -1)).transpose(1, 2) for x in (self.to_q(normed_BVC), keys, values))
        weights = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]), dim=-1)
        return self.to_out((weights @ v).transpose(1, 2).flatten(2))

    @staticmethod
    def flops(width: int, inner: int, n_queries: int, n_patches: int) -> int:
        n_keys = n_patches + n_queries
        return 4 * width * inner * (n_queries + n_keys) + 4 * n_queries * n_keys * inner


class Resampler(Compressor):
    """V learned queries through `depth` layers of attention over patches and queries, then a LayerNorm.

    The Perceiver resampler of Flamingo (Alayrac et al. 2022, arXiv 2204.14198, section 3.1.1), as OpenFlamingo
    released it: q += attention(q, [patches; q]), q += MLP(LayerNorm q), no bias but in the norms, no places. The
    option `places` adds a learned embedding of its place to each patch, for towers whose last level has lost it.
    Weights have the released names: `latents` V x C; `layers.i.0` PerceiverAttention; `layers.i.1.0` LayerNorm C, `.1`
    4C x C, `.3` C x 4C; `norm` C; with `places` also `position` P x C.

    >>> from vlmlaw.compressors import build_compressor
    >>> compressor = build_compressor("resampler", grid_side=4, width=8, n_visual_tokens=4, depth=1)
    >>> compressor(torch.zeros(2, 16, 8)).shape
    torch.Size([2, 4, 8])
    """

    name = "resampler"

    def __init__(
        self, shape: Shape, *, depth: int = 6, n_heads: int = 8, head_width: int = 64, places: bool = False
    ) -> None:
        super().__init__(shape)
        self._at_least_one(depth=depth, n_heads=n_heads, head_width=head_width)
        self._truth_value(places=places)
        width, self.inner_width = self.width, n_heads * head_width
        self.latents = nn.Parameter(torch.empty(self.n_visual_tokens, width))
        self.position = nn.Parameter(torch.empty(self.n_patches, width)) if places else None
        hidden = MLP_RATIO * width
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    PerceiverAttention(width, n_heads, head_width),
                    nn.Sequential(
                        nn.LayerNorm(width),
                        nn.Linear(width, hidden, bias=False),
                        nn.GELU(),
                        nn.Linear(hidden, width, bias=False),
                    ),
                ]
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.normal_(self.latents)  # deviation 1, as released
        if self.position is not None:
            nn.init.trunc_normal_(self.position, std=0.02)

    def flops(self, n_question_tokens: int = 0) -> int:
        n_queries = self.n_visual_tokens
        mlp = 4 * n_queries * MLP_RATIO * self.width**2
        attention = PerceiverAttention.flops(self.width, self.inner_width, n_queries, self.n_patches)
        return len(self.layers) * (attention + mlp)

    def compress(self, inputs: Inputs) -> Tensor:
        patches_BPC = inputs.patches_BPC if self.position is None else inputs.patches_BPC + self.position
        # a copy: FlopCounterMode under no_grad stumbles over a view of a parameter
        queries_BVC = self.latents.repeat(len(patches_BPC), 1, 1)
        layers: Any = self.layers  # of an attention and an MLP each
        for attention, mlp in layers:
            queries_BVC = queries_BVC + attention(queries_BVC, patches_BPC)
            queries_BVC = queries_BVC + mlp(queries_BVC)
        return self.norm(queries_BVC)


def sine_places(side: int, width: int) -> Tensor:
    """(side^2, width) places of a square grid in sine waves, the column's half before the row's, as MAE's table.

    >>> sine_places(2, 8).shape
    torch.Size([4, 8])
    """
    quarter = width // 4
    rates = SINE_PERIOD ** -(torch.arange(quarter, dtype=torch.float64) / quarter)
    waves = torch.arange(side, dtype=torch.float64)[:, None] * rates
    line = torch.cat([waves.sin(), waves.cos()], dim=1)  # (side, width / 2)
    columns, rows = line.repeat(side, 1), line.repeat_interleave(side, dim=0)
    return torch.cat([columns, rows], dim=1).float()


class MatryoshkaQueries(Compressor):
    """MQT (Hu et al. 2024, arXiv 2405.19315, section 3): the first V of N learned queries, one training for all V.

    token_v = W attention(LayerNorm(q_v + place_v), LayerNorm(places), LayerNorm(patches)), as released: what a query
    looks at depends on places alone, not on the image; the tokens have the LLM's width, and no projector follows. Both
    kinds of places are sine waves of a `query_side` x `query_side` grid, held in half precision, resized bicubically
    to the patches'. As released there are 256 queries (16 x 16), or P where the grid has fewer patches, and a step of
    training draws an even V (`training_tokens`), but stage 1 takes all.
    Weights have the released names: `query` N x C; `pos_embed` N x C (fixed); `attn`; `ln_q`, `ln_k`, `ln_v` C; `proj`
    C x D.

    >>> from vlmlaw.compressors import build_compressor
    >>> compressor = build_compressor("mqt", grid_side=4, width=8, n_visual_tokens=4, question_width=12)
    >>> patches = torch.randn(1, 16, 8)
    >>> compressor(patches).shape  # of the LLM's width
    torch.Size([1, 4, 12])
    >>> torch.allclose(compressor(patches)[:, :2], compressor.with_n_visual_tokens(2)(patches), atol=1e-6)
    True
    """

    name = "mqt"
    elastic = True
    is_connector = True
    most_queries_side = 16

    def __init__(
        self,
        shape: Shape,
        *,
        n_heads: int = 16,
        query_side: int | None = None,
        training_tokens: Sequence[int] | None = None,
    ) -> None:
        self._query_side = query_side or min(self.most_queries_side, shape.grid_side)
        super().__init__(shape)
        self._at_least_one(n_heads=n_heads, query_side=query_side)
        if self.width % 4:
            raise UserError(f"compressor mqt: width is {self.width}; its sine waves need a multiple of 4.")
        n_queries = self._query_side**2
        even = list(range(2, n_queries + 1, 2)) or [1]
        self.training_tokens = self._trained_at(even if training_tokens is None else training_tokens)
        self.query = nn.Parameter(torch.empty(n_queries, self.width))
        self.pos_embed = nn.Parameter(torch.empty(n_queries, self.width), requires_grad=False)
        self.attn = MultiheadAttention(self.width, heads_for(self.width, n_heads))
        self.ln_q, self.ln_k, self.ln_v = (nn.LayerNorm(self.width, eps=LAYER_NORM_EPS) for _ in range(3))
        self.proj = nn.Parameter(torch.empty(self.width, self.out_width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.trunc_normal_(self.query, std=0.02)
        nn.init.trunc_normal_(self.attn.out_proj.weight, std=0.02)
        nn.init.normal_(self.proj, std=self.out_width**-0.5)
        loaded = getattr(self.pos_embed, "_is_hf_initialized", False)  # transformers' mark of a checkpoint's weights
        if not (loaded or self.pos_embed.is_meta):
            with torch.no_grad():
                self.pos_embed.copy_(sine_places(self._query_side, self.width).half())

    @classmethod
    def allowed_tokens(cls, grid_side: int) -> list[int]:
        return list(range(1, min(cls.most_queries_side, grid_side) ** 2 + 1))

    def own_allowed_tokens(self) -> list[int]:
        return list(range(1, self._query_side**2 + 1))

    def tokens_of_step(self, step: int, *, seed: int, aligning: bool = False) -> list[int]:
        if aligning:
            return [self._query_side**2]
        return [random.Random(f"{seed} {step}").choice(self.training_tokens)]

    def flops(self, n_question_tokens: int = 0) -> int:
        attention = MultiheadAttention.flops(self.width, self.n_visual_tokens, self.n_patches)
        return attention + 2 * self.n_visual_tokens * self.width * self.out_width

    def batch_flops(self) -> int:
        n_patches, n_tokens = self.n_patches, self.n_visual_tokens
        return 2 * (n_patches + n_tokens) * self.width**2 + 2 * n_tokens * n_patches * self.width

    def n_params(self) -> int:
        return super().n_params() - self.pos_embed.numel()

    def compress(self, inputs: Inputs) -> Tensor:
        patches_BPC, n_tokens = inputs.patches_BPC, self.n_visual_tokens
        keys_1PC = self.ln_k(self._patch_places())[None]
        queries_1VC = self.ln_q(self.query + self.pos_embed.detach())[None, :n_tokens]
        k, v = self.attn.look_up_keys(keys_1PC), self.attn.look_up_values(self.ln_v(patches_BPC))
        return self.attn.attend(queries_1VC, k, v) @ self.proj

    def _patch_places(self) -> Tensor:
        """(P, C) the queries' places resized to the grid of patches."""
        side = self._query_side
        table = self.pos_embed.detach().float().T.reshape(1, self.width, side, side)
        resized = F.interpolate(table, size=(self.grid_side, self.grid_side), mode="bicubic", align_corners=False)
        return resized.flatten(2)[0].T.to(self.pos_embed.dtype)
