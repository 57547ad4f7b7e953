"""Training-free merging: V tokens that are means or sums of the patches of a model trained on all of them.

Shapes: B images, P patches, V visual tokens, N tokens, E those at even places, R those that go in a round, C width,
H key width, F either.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from vlmlaw.compressors.base import ATTENTION, Inputs, Shape
from vlmlaw.compressors.selection import Comparing, best, cosine, keep, take


class Merge(NamedTuple):
    """One round of bipartite soft matching: which tokens go, the places (of those that stay) they go to, who stays."""

    going_BR: Tensor
    into_BR: Tensor
    staying_BN: Tensor

    def sums(self, tokens_BNF: Tensor) -> Tensor:
        """(B, N, F) to (B, N - R, F): those that go are added to their partners; the order of the others is kept."""
        kept_BNF = take(tokens_BNF, self.staying_BN)
        first_row_B1 = kept_BNF.shape[1] * torch.arange(len(kept_BNF), device=kept_BNF.device).unsqueeze(1)
        rows = (first_row_B1 + self.into_BR).flatten()
        kept_BNF.flatten(0, 1).index_add_(0, rows, take(tokens_BNF, self.going_BR).flatten(0, 1))
        return kept_BNF


def most_similar(metric_BNH: Tensor, n_gone: int) -> Merge:
    """The round of ToMe, section 3: tokens at even places each propose to the most similar token at an odd place; the
    n_gone closest pairs merge."""
    n_tokens = metric_BNH.shape[1]
    closeness_BE, partner_BE = cosine(metric_BNH[:, 0::2], metric_BNH[:, 1::2]).max(dim=2)
    going_BR = closeness_BE.argsort(dim=1, descending=True, stable=True)[:, :n_gone]
    partner_BR = 2 * partner_BE.gather(1, going_BR) + 1
    going_BR = 2 * going_BR
    places_BN = torch.arange(n_tokens, device=metric_BNH.device).expand(len(metric_BNH), -1)
    stays_BN = torch.ones_like(places_BN).scatter(1, going_BR, 0)
    staying_BN = places_BN.masked_fill(stays_BN == 0, n_tokens).sort(dim=1).values[:, : n_tokens - n_gone]
    return Merge(going_BR, (stays_BN.cumsum(dim=1) - 1).gather(1, partner_BR), staying_BN)


class ToMe(Comparing):
    """token_v = mean of the patches merged into it, by rounds of bipartite soft matching, until V are left.

    ToMe (Bolya et al. 2023, arXiv 2210.09461, section 3): cosine similarity of the keys, means weighted by size.
    Departure: the paper merges some tokens in every layer of the tower; here the tower is left as it is and all
    merging follows it, in the fewest rounds (at most half of the tokens go in one). Its place is the mean place.

    >>> from vlmlaw.compressors import build_compressor
    >>> patches = torch.eye(2).repeat_interleave(2, dim=0).unsqueeze(0)  # two pairs of equal patches
    >>> build_compressor("tome", 2, 2, 2)(patches).tolist()
    [[[1.0, 0.0], [0.0, 1.0]]]
    """

    name = "tome"
    keys_from = ATTENTION

    def rounds(self) -> list[tuple[int, int]]:
        """(tokens before, tokens that go) for each round."""
        plan, n_tokens = [], self.n_patches
        while n_tokens > self.n_visual_tokens:
            n_gone = min(n_tokens - self.n_visual_tokens, n_tokens // 2)
            plan.append((n_tokens, n_gone))
            n_tokens -= n_gone
        return plan

    def reduction_flops(self, n_question_tokens: int) -> int:
        return sum(2 * ((n + 1) // 2) * (n // 2) * self.compared_width for n, _ in self.rounds())

    def reduce(self, inputs: Inputs, places_BP2: Tensor) -> tuple[Tensor, Tensor]:
        patches_BPC = inputs.patches_BPC
        sizes_BP1 = torch.ones_like(places_BP2[..., :1])
        sums = [patches_BPC.float(), torch.cat([places_BP2, sizes_BP1], dim=2)]
        if self.key_width is not None:
            sums.insert(0, self.compared(inputs).float())
        for _, n_gone in self.rounds():
            merge = most_similar(sums[0], n_gone)  # a cosine does not see the size that a sum carries
            sums = [merge.sums(tokens_BNF) for tokens_BNF in sums]
        *_, sums_BVC, placed_BV3 = sums
        sizes_BV1 = placed_BV3[..., 2:]
        return (sums_BVC / sizes_BV1).to(patches_BPC.dtype), placed_BV3[..., :2] / sizes_BV1


class PruMerge(Comparing):
    """token_v = x_v + sum of a_j x_j over the patches j nearest to v, for the V patches v of highest importance a.

    LLaVA-PruMerge (Shang et al. 2024, arXiv 2403.15388, section 3.3), nearest by cosine of the keys among all
    other patches, `n_neighbours` of them. Departure: the paper lets outliers of a decide how many to keep; here V is
    given. The importance is the class token's attention, which sums to 1 over the patches. Its place is v's.

    >>> from vlmlaw.compressors import build_compressor
    >>> importance = torch.tensor([[0.5, 0.3, 0.1, 0.1]])
    >>> build_compressor("prumerge", 2, 1, 1)(torch.ones(1, 4, 1), importance_BP=importance)  # 1 + 0.3 + 0.1 + 0.1
    tensor([[[1.5000]]])
    """

    name = "prumerge"
    keys_from = ATTENTION
    needs_importance = True

    def __init__(self, shape: Shape, *, key_width: int | None = None, n_neighbours: int = 32) -> None:
        super().__init__(shape, key_width=key_width)
        self._at_least_one(n_neighbours=n_neighbours)
        self.n_neighbours = n_neighbours

    def reduction_flops(self, n_question_tokens: int) -> int:
        return 2 * self.n_visual_tokens * self.n_patches * (self.compared_width + self.width)

    def reduce(self, inputs: Inputs, places_BP2: Tensor) -> tuple[Tensor, Tensor]:
        assert inputs.importance_BP is not None
        importance_BP = inputs.importance_BP.to(inputs.patches_BPC.dtype)
        index_BV = best(inputs.importance_BP, self.n_visual_tokens)
        compared_BPH = self.compared(inputs)
        closeness_BVP = cosine(take(compared_BPH, index_BV), compared_BPH)
        closeness_BVP = closeness_BVP.scatter(2, index_BV.unsqueeze(2), -math.inf)
        n_neighbours = min(self.n_neighbours, self.n_patches - 1)
        nearest_BVR = closeness_BVP.topk(n_neighbours, dim=2).indices
        weights_BVP = torch.zeros_like(closeness_BVP, dtype=importance_BP.dtype)
        weights_BVP = weights_BVP.scatter(2, nearest_BVR, importance_BP.unsqueeze(1).take_along_dim(nearest_BVR, dim=2))
        visual_BVC = take(inputs.patches_BPC, index_BV) + weights_BVP @ inputs.patches_BPC
        return visual_BVC, take(places_BP2, index_BV)


class VisionZip(Comparing):
    """Dominant tokens, the patches of highest importance, then contextual tokens, which gather the others.

    VisionZip (Yang et al. 2024, arXiv 2412.04467, section 3.1). Of V tokens 10 in 64 are contextual (the paper's
    54 + 10). The patches left, in raster order, give evenly spaced targets; each other one goes to its most similar
    target by cosine of the keys, and contextual_v = target_v + mean of those that went to it: as released, while the
    paper's text has a mean of all. A contextual token's place is its target's.

    >>> from vlmlaw.compressors import build_compressor
    >>> importance = torch.arange(16.0).reshape(1, 16) / 120  # of each patch; it sums to 1
    >>> compressor = build_compressor("visionzip", 4, 1, 8)
    >>> compressor(torch.ones(1, 16, 1), importance_BP=importance).shape, compressor.n_contextual
    (torch.Size([1, 8, 1]), 1)
    """

    name = "visionzip"
    keys_from = ATTENTION
    needs_importance = True

    @property
    def n_contextual(self) -> int:
        return self.n_visual_tokens * 10 // 64

    def reduction_flops(self, n_question_tokens: int) -> int:
        return 2 * self.n_patches * self.n_contextual * (self.compared_width + self.width)

    def reduce(self, inputs: Inputs, places_BP2: Tensor) -> tuple[Tensor, Tensor]:
        assert inputs.importance_BP is not None
        compared_BPH = self.compared(inputs)
        n_contextual = self.n_contextual
        n_dominant = self.n_visual_tokens - n_contextual
        order_BP = inputs.importance_BP.argsort(dim=1, descending=True, stable=True)
        dominant_BV = order_BP[:, :n_dominant].sort(dim=1).values
        if n_contextual == 0:
            return keep(inputs, places_BP2, dominant_BV)
        left_BN = order_BP[:, n_dominant:].sort(dim=1).values
        spacing = left_BN.shape[1] // n_contextual
        target_BV = left_BN[:, : spacing * n_contextual : spacing]
        nearest_BP1 = cosine(compared_BPH, take(compared_BPH, target_BV)).argmax(dim=2, keepdim=True)
        kept_BV = torch.cat([dominant_BV, target_BV], dim=1)
        # All patches at once, those that are kept with weight 0: quicker than copying the others out.
        patches_BPC = inputs.patches_BPC
        goes_BPV = patches_BPC.new_zeros(*nearest_BP1.shape[:2], n_contextual).scatter(2, nearest_BP1, 1)
        goes_BPV = goes_BPV.scatter(1, kept_BV.unsqueeze(2).expand(-1, -1, n_contextual), 0)
        gathered_BVC = goes_BPV.transpose(1, 2) @ patches_BPC
        gathered_BVC = gathered_BVC / goes_BPV.sum(dim=1).unsqueeze(2).clamp(min=1)
        contextual_BVC = take(patches_BPC, target_BV) + gathered_BVC
        return torch.cat([take(patches_BPC, dominant_BV), contextual_BVC], dim=1), take(places_BP2, kept_BV)
