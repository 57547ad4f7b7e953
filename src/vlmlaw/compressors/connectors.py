"""Released connectors that end at the LLM's width: tokens of k x k regions, flattened and mapped; no projector follows.

Shapes: B images, P patches, V visual tokens, k a region's side, R = k * k patches in a region, C width, D the LLM's.
"""

from torch import Tensor, nn

from vlmlaw.compressors.base import Inputs, Shape
from vlmlaw.compressors.grids import RegionCompressor, split_into_regions


class ShuffleConnector(RegionCompressor):
    """flat(region v), the patches of a region in raster order one behind the other, through maps to the LLM's width."""

    is_connector = True

    def compress(self, inputs: Inputs) -> Tensor:
        regions_BVRC = split_into_regions(inputs.patches_BPC, self.grid_side, self.region_side)
        return self.map_regions(regions_BVRC)

    def map_regions(self, regions_BVRC: Tensor) -> Tensor:
        """(B, V, R, C) to (B, V, D)."""
        raise NotImplementedError

    @property
    def flat_width(self) -> int:
        return self.region_side**2 * self.width


class InternVLShuffle(ShuffleConnector):
    """W2 GELU(W1 LayerNorm(flat(region v))): InternVL 1.5 (Chen et al. 2024, arXiv 2404.16821), where R = 4.

    Weights have the released names: `mlp1.0` LayerNorm RC, `.1` D x RC, D, `.3` D x D, D.

    >>> import torch
    >>> from vlmlaw.compressors import build_compressor
    >>> connector = build_compressor("internvl", grid_side=4, width=8, n_visual_tokens=4, question_width=12)
    >>> connector(torch.zeros(2, 16, 8)).shape
    torch.Size([2, 4, 12])
    """

    name = "internvl"

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        flat, out = self.flat_width, self.out_width
        self.mlp1 = nn.Sequential(nn.LayerNorm(flat), nn.Linear(flat, out), nn.GELU(), nn.Linear(out, out))

    def flops(self, n_question_tokens: int = 0) -> int:
        return 2 * self.n_visual_tokens * self.out_width * (self.flat_width + self.out_width)

    def map_regions(self, regions_BVRC: Tensor) -> Tensor:
        return self.mlp1(regions_BVRC.flatten(2))


class Qwen2VLMerger(ShuffleConnector):
    """W2 GELU(W1 flat(LayerNorm(x_p) of region v)): Qwen2-VL (Wang et al. 2024, arXiv 2409.12191), where R = 4.

    Weights have the released names: `ln_q` C; `mlp.0` RC x RC, RC; `mlp.2` D x RC, D.

    >>> import torch
    >>> from vlmlaw.compressors import build_compressor
    >>> connector = build_compressor("qwen2_vl", grid_side=4, width=8, n_visual_tokens=4, question_width=12)
    >>> connector(torch.zeros(2, 16, 8)).shape
    torch.Size([2, 4, 12])
    """

    name = "qwen2_vl"

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        flat = self.flat_width
        self.ln_q = nn.LayerNorm(self.width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(flat, flat), nn.GELU(), nn.Linear(flat, self.out_width))

    def flops(self, n_question_tokens: int = 0) -> int:
        return 2 * self.n_visual_tokens * self.flat_width * (self.flat_width + self.out_width)

    def map_regions(self, regions_BVRC: Tensor) -> Tensor:
        return self.mlp(self.ln_q(regions_BVRC).flatten(2))


class SmolVLMShuffle(ShuffleConnector):
    """W flat(region v): SmolVLM (Marafioti et al. 2025, arXiv 2504.05299), where R = 9 or 16; as Idefics3's.

    Weights have the released names: `modality_projection.proj` D x RC, no bias.

    >>> import torch
    >>> from vlmlaw.compressors import build_compressor
    >>> connector = build_compressor("smolvlm", grid_side=4, width=8, n_visual_tokens=4, question_width=12)
    >>> connector(torch.zeros(2, 16, 8)).shape
    torch.Size([2, 4, 12])
    """

    name = "smolvlm"

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self.modality_projection = nn.Module()
        self.modality_projection.proj = nn.Linear(self.flat_width, self.out_width, bias=False)

    def flops(self, n_question_tokens: int = 0) -> int:
        return 2 * self.n_visual_tokens * self.flat_width * self.out_width

    def map_regions(self, regions_BVRC: Tensor) -> Tensor:
        return self.modality_projection.get_submodule("proj")(regions_BVRC.flatten(2))
