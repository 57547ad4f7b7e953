"""Multi-head attention with the parameter names of `torch.nn.MultiheadAttention`, as products of matrices.

Written out because torch's fused kernel is not counted by `FlopCounterMode` on a CPU, and because one query per
region over a handful of keys gains nothing from it. Shapes: ... any leading sizes, N queries, M keys, C width.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def heads_for(width: int, at_most: int) -> int:
    """The largest number of heads that divides the width."""
    return max(heads for heads in range(1, at_most + 1) if width % heads == 0)


class MultiheadAttention(nn.MultiheadAttention):
    """softmax(Q K^T / sqrt(C / heads)) V by head, each of Q, K, V and the output through a linear map with bias.

    Weights: `in_proj_weight` 3C x C, `in_proj_bias` 3C, `out_proj` C x C, C.
    """

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__(width, n_heads)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:  # type: ignore[override]
        """(..., N, C), (..., M, C), (..., M, C) to (..., N, C)."""
        return self.attend(queries, *self.look_up(keys, values))

    def look_up(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (..., M, C) by head, as `attend` takes them: made once, many queries can ask them."""
        return self.look_up_keys(keys), self.look_up_values(values)

    def look_up_keys(self, keys: Tensor) -> Tensor:
        return self._by_head(F.linear(keys, self.in_proj_weight.chunk(3)[1], self.in_proj_bias.chunk(3)[1]))

    def look_up_values(self, values: Tensor) -> Tensor:
        return self._by_head(F.linear(values, self.in_proj_weight.chunk(3)[2], self.in_proj_bias.chunk(3)[2]))

    def attend(self, queries: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Queries (..., N, C) over keys and values by head, to (..., N, C)."""
        weight_q, bias_q = self.in_proj_weight.chunk(3)[0], self.in_proj_bias.chunk(3)[0]
        q = self._by_head(F.linear(queries, weight_q, bias_q))
        weights = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(self.head_dim), dim=-1)
        return self.out_proj((weights @ v).transpose(-2, -3).flatten(-2))

    def _by_head(self, tokens: Tensor) -> Tensor:
        """(..., N, C) to (..., heads, N, C / heads)."""
        return tokens.unflatten(-1, (self.num_heads, self.head_dim)).transpose(-2, -3)

    @staticmethod
    def flops(width: int, n_queries: int, n_keys: int, n_groups: int = 1) -> int:
        """For n_groups groups, each of n_queries queries over n_keys keys."""
        projections = 2 * width**2 * (2 * n_queries + 2 * n_keys)
        products = 2 * 2 * n_queries * n_keys * width
        return n_groups * (projections + products)
