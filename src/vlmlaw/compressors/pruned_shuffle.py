"""Pruning after a shuffle: a learned pixel shuffle makes tokens of regions, and a training-free method keeps V of them.

As models whose tower is followed by a shuffle (InternVL, Qwen2-VL) are pruned: the shuffle is trained, the choice is
made at inference. One training serves every V. Shapes: B images, P patches, S shuffled tokens, V visual tokens, k a
region's side, C width, D the LLM's width.
"""

from typing import ClassVar

import torch
from torch import Tensor

from vlmlaw.compressors.base import Compressor, Inputs, Shape
from vlmlaw.compressors.connectors import InternVLShuffle
from vlmlaw.compressors.grids import divisors, even_positions, split_into_regions
from vlmlaw.compressors.selection import DivPrune, FasterVLM, TrainingFree
from vlmlaw.errors import UserError


def default_region(grid_side: int) -> int:
    """The side of the smallest regions that tile the grid: 2, as released, where it can be.

    >>> default_region(24), default_region(27)
    (2, 3)
    """
    return next((side for side in divisors(grid_side) if side > 1), 1)


class PrunedInternVL(InternVLShuffle):
    """InternVL's shuffle of k x k regions into S tokens of the LLM's width, and V of these by `selection`.

    Trained at all S tokens; `region_side` is k. Importance of a shuffled token is the sum over its region. Weights are
    the shuffle's, under the released names.
    """

    elastic = True
    moves_with_content = True
    selection: ClassVar[type[TrainingFree]]

    def __init__(self, shape: Shape, *, region_side: int | None = None) -> None:
        self._at_least_one(region_side=region_side)
        self._region_side = region_side or default_region(shape.grid_side)
        if self._region_side not in divisors(shape.grid_side):
            raise UserError(
                f"compressor {self.name}: regions of side {region_side} do not tile a {shape.grid_side} x "
                f"{shape.grid_side} grid; region_side can be {', '.join(map(str, divisors(shape.grid_side)))}."
            )
        super().__init__(shape)

    @classmethod
    def allowed_tokens(cls, grid_side: int) -> list[int]:
        return list(range(1, (grid_side // default_region(grid_side)) ** 2 + 1))

    def own_allowed_tokens(self) -> list[int]:
        return list(range(1, self.n_shuffled + 1))

    @property
    def region_side(self) -> int:
        return self._region_side

    @property
    def shuffled_side(self) -> int:
        return self.grid_side // self._region_side

    @property
    def n_shuffled(self) -> int:
        """S, the tokens that the shuffle makes."""
        return self.shuffled_side**2

    @property
    def positions(self) -> Tensor | None:
        return None  # a matter of content

    def tokens_of_step(self, step: int, *, seed: int, aligning: bool = False) -> list[int]:
        return [self.n_shuffled]

    def flops(self, n_question_tokens: int = 0) -> int:
        shuffle = 2 * self.n_shuffled * self.out_width * (self.flat_width + self.out_width)
        return shuffle + self._selector().flops()

    def _selector(self) -> Compressor:
        return self.selection(Shape(self.shuffled_side, self.out_width, self.n_visual_tokens))

    def compress(self, inputs: Inputs) -> Tensor:
        return self.compress_with_positions(inputs)[0]

    def compress_with_positions(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        shuffled_BSD = self.map_regions(split_into_regions(inputs.patches_BPC, self.grid_side, self._region_side))
        importance_BS = None
        if inputs.importance_BP is not None and self.needs_importance:
            regions_BSR1 = split_into_regions(inputs.importance_BP.unsqueeze(2), self.grid_side, self._region_side)
            importance_BS = regions_BSR1.sum(dim=(2, 3))
        with torch.no_grad():  # a choice has no gradient; the tokens are taken below
            chosen = Inputs(shuffled_BSD, shuffled_BSD, None, None, importance_BS, None, None)
            places_BV2 = self._selector().compress_with_positions(chosen)[1]
        assert places_BV2 is not None
        rows_BV, columns_BV = places_BV2.long().unbind(dim=2)
        index_BV = rows_BV * self.shuffled_side + columns_BV
        images_B1 = torch.arange(len(index_BV), device=index_BV.device).unsqueeze(1)
        places_S2 = even_positions(self.grid_side, self.shuffled_side).to(index_BV.device)
        return shuffled_BSD[images_B1, index_BV], places_S2[index_BV]


class InternVLDivPrune(PrunedInternVL):
    """DivPrune after InternVL's shuffle: of the shuffled tokens, as the LLM reads them, the V most diverse.

    >>> from vlmlaw.compressors import build_compressor
    >>> connector = build_compressor("internvl_divprune", grid_side=4, width=8, n_visual_tokens=3, question_width=12)
    >>> connector.n_shuffled, connector(torch.randn(2, 16, 8)).shape
    (4, torch.Size([2, 3, 12]))
    """

    name = "internvl_divprune"
    selection = DivPrune


class InternVLFasterVLM(PrunedInternVL):
    """FasterVLM after InternVL's shuffle: the V shuffled tokens whose patches the tower attends to most.

    >>> from vlmlaw.compressors import build_compressor
    >>> connector = build_compressor("internvl_fastervlm", grid_side=4, width=8, n_visual_tokens=1, question_width=12)
    >>> patches, importance = torch.randn(1, 16, 8), torch.eye(16)[10:11]  # a patch of the last region
    >>> connector.forward_with_positions(patches, importance_BP=importance)[1].tolist()
    [[[2.5, 2.5]]]
    """

    name = "internvl_fastervlm"
    selection = FasterVLM
    needs_importance = True
