"""Compressors whose every token asks its own k x k region: QueCC and TokenPacker.

Parameter names and shapes are those of the published modules; `published.split_published` reads their weights.
Shapes: B images (or image-question pairs), P patches, V visual tokens, R = P / V patches in a region, C width,
L levels, K = L * C, T question tokens, D question width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlmlaw.compressors.attention import MultiheadAttention, heads_for
from vlmlaw.compressors.base import EMBEDDING, LLM, Inputs, Shape
from vlmlaw.compressors.grids import RegionCompressor, as_image, as_tokens, split_into_regions
from vlmlaw.errors import UserError

LAYER_NORM_EPS = 1e-6
PUBLISHED_HEADS = 8


def last_question_token(question_BTD: Tensor, question_mask_BT: Tensor | None) -> Tensor:
    """(B, D): the last token that the mask keeps, wherever the padding is; zeros for a question without any."""
    if question_mask_BT is None:
        return question_BTD[:, -1]
    n_tokens = question_mask_BT.shape[1]
    order = torch.arange(1, n_tokens + 1, device=question_mask_BT.device)
    last_B = (question_mask_BT * order).argmax(dim=1)
    last_BD = question_BTD.take_along_dim(last_B[:, None, None], dim=1).squeeze(1)
    return torch.where(question_mask_BT.any(dim=1, keepdim=True), last_BD, torch.zeros_like(last_BD))


def mean_question_token(question_BTD: Tensor, question_mask_BT: Tensor | None) -> Tensor:
    """(B, D): the mean of the tokens that the mask keeps; zeros for a question without any."""
    if question_mask_BT is None:
        return question_BTD.mean(dim=1)
    kept_BTD = question_BTD.masked_fill(~question_mask_BT.unsqueeze(2), 0)
    return kept_BTD.sum(dim=1) / question_mask_BT.sum(dim=1, keepdim=True).clamp(min=1)


def normed_mlp(width_in: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width_in, width), nn.GELU(), nn.Linear(width, width), nn.LayerNorm(width, eps=LAYER_NORM_EPS)
    )


class RegionAttention(RegionCompressor):
    """token_v = attention(query_v, keys of region v, values of region v)."""

    reads_all_levels = True

    clip_attn: MultiheadAttention

    def look_up(self, keys_BPC: Tensor, values_BPC: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of each region by head (B, V, heads, R, C / heads)."""
        keys_BVRC = split_into_regions(keys_BPC, self.grid_side, self.region_side)
        return self.clip_attn.look_up(keys_BVRC, split_into_regions(values_BPC, self.grid_side, self.region_side))

    def attend(self, queries_BVC: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Each region's query over the keys and values of `look_up`."""
        return self.clip_attn.attend(queries_BVC.unsqueeze(2), k, v).squeeze(2)

    def attention_flops(self) -> int:
        return MultiheadAttention.flops(self.width, 1, self.region_side**2, n_groups=self.n_visual_tokens)

    def look_up_flops(self) -> int:
        """The part of `attention_flops` that projects keys and values."""
        return 2 * self.width**2 * 2 * self.n_patches

    def two_layer_flops(self, width_in: int) -> int:
        """Of an MLP width_in to C to C on every patch."""
        return 2 * self.n_patches * (width_in + self.width) * self.width


class QueCC(RegionAttention):
    """Query-based convolutional cross-attention (Li et al. 2024, arXiv 2411.03312, section 4).

    1. t = LayerNorm(W question's last token), added to every single-level patch x_p;
    2. query_v = depth-wise convolution, kernel = stride = k, of LayerNorm(MLP(x_p + t)) over region v;
    3. keys, values = LayerNorm(MLP(all levels at p));
    4. token_v = attention(query_v, keys and values of region v).

    The question is the LLM's hidden states, as in the paper; no gradient goes back into it (section 4). With the option
    question_from = embedding it is the rows of the LLM's embedding layer, which cost nothing, and step 1 reads their
    mean: a last token that has seen no other says nothing. Of several questions on one image steps 1, 2 and 4 are done
    for each, step 3, most of the FLOPs, once.
    Weights, out x in, each linear and the convolution with bias:
        text_projection.0  C x D    .1 LayerNorm C
        q_proj.0           C x C    .2 C x C    .3 LayerNorm C
        k_proj.0, v_proj.0 C x LC   .2 C x C    .3 LayerNorm C
        q_downsample       C x 1 x k x k
        clip_attn          in_proj 3C x C, out_proj C x C

    >>> from vlmlaw.compressors import build_compressor
    >>> compressor = build_compressor("quecc", grid_side=4, width=8, n_visual_tokens=4, question_width=6)
    >>> compressor(torch.zeros(2, 16, 8), question_BTD=torch.zeros(2, 5, 6)).shape
    torch.Size([2, 4, 8])
    """

    name = "quecc"
    needs_question = True
    shares_images = True

    def __init__(self, shape: Shape, *, n_heads: int = PUBLISHED_HEADS, question_from: str = LLM) -> None:
        super().__init__(shape)
        self._at_least_one(n_heads=n_heads)
        if question_from not in (LLM, EMBEDDING):
            raise UserError(f"compressor quecc: question_from is {question_from!r}; expected {LLM} or {EMBEDDING}.")
        self.question_from = question_from
        assert shape.question_width is not None  # checked by the base class
        width, levels_width = self.width, self.n_levels * self.width
        self.text_projection = nn.Sequential(
            nn.Linear(shape.question_width, width), nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        )
        self.q_proj = normed_mlp(width, width)
        self.k_proj = normed_mlp(levels_width, width)
        self.v_proj = normed_mlp(levels_width, width)
        k = self.region_side
        self.q_downsample = nn.Conv2d(width, width, kernel_size=k, stride=k, groups=width)
        self.clip_attn = MultiheadAttention(width, heads_for(width, n_heads))

    def flops(self, n_question_tokens: int = 0) -> int:
        """The question's length does not matter: one vector of it is read."""
        assert self.question_width is not None
        text = 2 * self.question_width * self.width
        downsample = 2 * self.n_patches * self.width
        queries = self.two_layer_flops(self.width) + downsample
        return text + queries + self.attention_flops() - self.look_up_flops() + self.image_flops()

    def image_flops(self) -> int:
        return 2 * self.two_layer_flops(self.n_levels * self.width) + self.look_up_flops()

    def compress(self, inputs: Inputs) -> Tensor:
        assert inputs.question_BTD is not None
        summary = last_question_token if self.question_from == LLM else mean_question_token
        question_BD = summary(inputs.question_BTD, inputs.question_mask_BT).detach()
        text_B1C = self.text_projection(question_BD).unsqueeze(1)
        queries_BPC = self.q_proj(inputs.for_each_question(inputs.patches_BPC) + text_B1C)
        queries_BVC = as_tokens(self.q_downsample(as_image(queries_BPC, self.grid_side)))
        k, v = self.look_up(self.k_proj(inputs.levels_BPK), self.v_proj(inputs.levels_BPK))
        return self.attend(queries_BVC, inputs.for_each_question(k), inputs.for_each_question(v))


class TokenPacker(RegionAttention):
    """Coarse tokens that gather the details of their regions (Li et al. 2024, arXiv 2407.02392, section 3.2).

    1. query_v = LayerNorm(W x~_v), x~ the single-level grid resized bilinearly to sqrt(V) x sqrt(V);
    2. keys, values = LayerNorm(MLP(all levels at p));
    3. token_v = attention(query_v, keys and values of region v).

    Weights, out x in (linear maps start normal with deviation 0.02, as published):
        q_proj_1                C x C, no bias
        k_proj_1.0, v_proj_1.0  C x LC, bias    .2 C x C, bias
        ln_q_1, ln_k_1, ln_v_1  C
        clip_attn               in_proj 3C x C, out_proj C x C, bias
    The published module ends with `mlp` to the LLM's width: that is the projector, which is the model's.

    >>> from vlmlaw.compressors import build_compressor
    >>> compressor = build_compressor("tokenpacker", grid_side=4, width=8, n_visual_tokens=4, n_levels=2)
    >>> compressor(torch.zeros(2, 16, 16)).shape
    torch.Size([2, 4, 8])
    """

    name = "tokenpacker"

    def __init__(self, shape: Shape, *, n_heads: int = PUBLISHED_HEADS) -> None:
        super().__init__(shape)
        self._at_least_one(n_heads=n_heads)
        width, levels_width = self.width, self.n_levels * self.width
        self.q_proj_1 = nn.Linear(width, width, bias=False)
        self.k_proj_1 = nn.Sequential(nn.Linear(levels_width, width), nn.GELU(), nn.Linear(width, width))
        self.v_proj_1 = nn.Sequential(nn.Linear(levels_width, width), nn.GELU(), nn.Linear(width, width))
        self.ln_q_1 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.ln_k_1 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.ln_v_1 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.clip_attn = MultiheadAttention(width, heads_for(width, n_heads))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def flops(self, n_question_tokens: int = 0) -> int:
        queries = 2 * self.n_visual_tokens * self.width**2
        return queries + 2 * self.two_layer_flops(self.n_levels * self.width) + self.attention_flops()

    def compress(self, inputs: Inputs) -> Tensor:
        side = self.tokens_side
        image_BCss = as_image(inputs.patches_BPC, self.grid_side)
        coarse_BVC = as_tokens(F.interpolate(image_BCss, size=(side, side), mode="bilinear", align_corners=False))
        keys_BPC = self.ln_k_1(self.k_proj_1(inputs.levels_BPK))
        values_BPC = self.ln_v_1(self.v_proj_1(inputs.levels_BPK))
        return self.attend(self.ln_q_1(self.q_proj_1(coarse_BVC)), *self.look_up(keys_BPC, values_BPC))
