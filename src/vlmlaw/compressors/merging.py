"""Training-free merging: V tokens that are means or sums of the patches of a model trained on all of them.

Shapes: B images, P patches, V visual tokens, N tokens, E those at even places, R those that go in a round, C width,
H key width, F either.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from vlmlaw.compressors.base import ATTENTION, WHOLE_ATTENTION, Inputs, Shape
from vlmlaw.compressors.selection import Comparing, cosine, take


class Merge(NamedTuple):
    """One round of bipartite soft matching: which tokens go, the places (of those that stay) they go to, who stays."""

    going_BR: Tensor
    into_BR: Tensor
    staying_BN: Tensor

    def sums(self, tokens_BNF: Tensor) -> Tensor:
        """(B, N, F) to (B, N - R, F): those that go are added to their partners; those that stay in their order."""
        kept_BNF = take(tokens_BNF, self.staying_BN)
        first_row_B1 = kept_BNF.shape[1] * torch.arange(len(kept_BNF), device=kept_BNF.device).unsqueeze(1)
        rows = (first_row_B1 + self.into_BR).flatten()
        kept_BNF.flatten(0, 1).index_add_(0, rows, take(tokens_BNF, self.going_BR).flatten(0, 1))
        return kept_BNF


def most_similar(metric_BNH: Tensor, n_gone: int) -> Merge:
    """The round of ToMe, section 3: tokens at even places each propose to the most similar token at an odd place; the
    n_gone closest pairs merge.

    As released, the even ones that stay come first, the closer before the less close, and then all odd ones: which
    tokens the next round pairs depends on it.
    """
    n_tokens = metric_BNH.shape[1]
    closeness_BE, partner_BE = cosine(metric_BNH[:, 0::2], metric_BNH[:, 1::2]).max(dim=2)
    order_BE = closeness_BE.argsort(dim=1, descending=True, stable=True)
    going_BR, staying_BE = order_BE[:, :n_gone], order_BE[:, n_gone:]
    odd_BN = torch.arange(1, n_tokens, 2, device=metric_BNH.device).expand(len(metric_BNH), -1)
    into_BR = staying_BE.shape[1] + partner_BE.gather(1, going_BR)
    return Merge(2 * going_BR, into_BR, torch.cat([2 * staying_BE, odd_BN], dim=1))


class ToMe(Comparing):
    """token_v = mean of the patches merged into it, by rounds of bipartite soft matching, until V are left.

    ToMe (Bolya et al. 2023, arXiv 2210.09461, section 3): cosine similarity of the keys, means weighted by size.
    Departure: the paper merges some tokens in every layer of the tower; here the tower is left as it is and all
    merging follows it, in the fewest rounds (at most half of the tokens go in one). Tokens come in the released order:
    see `most_similar`. A token's place is the mean place of its patches.

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
    """token_v = x_v + sum of a_j x_j over the patches j nearest to v, for the V - 1 patches v of highest importance a;
    then one token more, the sum of a_j x_j over all patches that were not chosen.

    LLaVA-PruMerge (Shang et al. 2024, arXiv 2403.15388, section 3.3), as released: nearest by cosine of the keys among
    all other patches, `n_neighbours` of them; tokens in the order of importance, the most important first. Importance
    is the class token's attention in the tower's last layer, all channels as one head, and the keys are that layer's.
    Departure: released code lets outliers of a decide how many to keep; here V is given (`n_chosen` and one more). A
    token's place is its patch's, that of the last the middle of the grid.

    >>> from vlmlaw.compressors import build_compressor
    >>> importance = torch.tensor([[0.5, 0.3, 0.1, 0.1]])
    >>> tokens = build_compressor("prumerge", 2, 1, 2)(torch.ones(1, 4, 1), importance_BP=importance)
    >>> tokens.flatten().tolist()  # 1 + 0.3 + 0.1 + 0.1, and 0.3 + 0.1 + 0.1
    [1.5, 0.5]
    """

    name = "prumerge"
    keys_from = WHOLE_ATTENTION
    needs_importance = True

    def __init__(self, shape: Shape, *, key_width: int | None = None, n_neighbours: int = 32) -> None:
        super().__init__(shape, key_width=key_width)
        self._at_least_one(n_neighbours=n_neighbours)
        self.n_neighbours = n_neighbours

    @property
    def n_chosen(self) -> int:
        return self.n_visual_tokens - 1

    def reduction_flops(self, n_question_tokens: int) -> int:
        return 2 * self.n_chosen * self.n_patches * (self.compared_width + self.width)

    def chosen(self, importance_BP: Tensor) -> Tensor:
        """(B, V - 1) patches that become tokens, in the order of the tokens."""
        return importance_BP.argsort(dim=1, descending=True, stable=True)[:, : self.n_chosen]

    def reduce(self, inputs: Inputs, places_BP2: Tensor) -> tuple[Tensor, Tensor]:
        assert inputs.importance_BP is not None
        patches_BPC, compared_BPH = inputs.patches_BPC, self.compared(inputs)
        chosen_BV = self.chosen(inputs.importance_BP)
        # First the chosen, then the others, as many as patches in all: where a patch was chosen twice, one is missing.
        order_BP = torch.cat([chosen_BV, unchosen(chosen_BV, self.n_patches)], dim=1)
        ordered_BPC, weights_BP = take(patches_BPC, order_BP), inputs.importance_BP.to(patches_BPC.dtype)
        weights_BP = weights_BP.gather(1, order_BP)
        merged_BVC = ordered_BPC[:, : self.n_chosen]
        if self.n_chosen:
            merged_BVC = merged_BVC + self._neighbours(take(compared_BPH, order_BP), weights_BP) @ ordered_BPC
        rest_B1C = (ordered_BPC * weights_BP.unsqueeze(2))[:, self.n_chosen :].sum(dim=1, keepdim=True)
        middle_B12 = places_BP2.mean(dim=1, keepdim=True)
        return torch.cat([merged_BVC, rest_B1C], dim=1), torch.cat([take(places_BP2, chosen_BV), middle_B12], dim=1)

    def _neighbours(self, compared_BPH: Tensor, weights_BP: Tensor) -> Tensor:
        """(B, V - 1, P) the importance of each chosen patch's nearest others, of patches in order; elsewhere 0."""
        closeness_BVP = cosine(compared_BPH[:, : self.n_chosen], compared_BPH)
        itself = torch.eye(self.n_chosen, self.n_patches, dtype=torch.bool, device=closeness_BVP.device)
        closeness_BVP = closeness_BVP.masked_fill(itself, -math.inf)
        nearest_BVR = closeness_BVP.topk(min(self.n_neighbours, self.n_patches - 1), dim=2).indices
        shares_BVR = weights_BP.unsqueeze(1).take_along_dim(nearest_BVR, dim=2)
        return torch.zeros_like(closeness_BVP, dtype=weights_BP.dtype).scatter(2, nearest_BVR, shares_BVR)


def unchosen(chosen_BV: Tensor, n_patches: int) -> Tensor:
    """(B, P - V) patches that were not chosen, ascending; for each that was chosen twice the first is left out."""
    others = torch.arange(n_patches, device=chosen_BV.device).expand(len(chosen_BV), -1)
    return others.scatter(1, chosen_BV, -1).sort(dim=1).values[:, chosen_BV.shape[1] :]


class PruMergePlus(PruMerge):
    """PruMerge+: half of the chosen patches by importance, then half spaced evenly over the raster.

    As released with a given ratio (`token_prune_merge_advanced_plus`, `if_adaptive=False`): a spaced patch that is also
    important is a token twice. Of an odd number, the important are one more.

    >>> from vlmlaw.compressors import build_compressor
    >>> compressor = build_compressor("prumerge_plus", 4, 1, 5)
    >>> compressor.chosen(torch.arange(16.0).unsqueeze(0)).tolist()
    [[15, 14, 4, 12]]
    """

    name = "prumerge_plus"

    def chosen(self, importance_BP: Tensor) -> Tensor:
        n_spaced = self.n_chosen // 2
        important_BV = importance_BP.argsort(dim=1, descending=True, stable=True)[:, : self.n_chosen - n_spaced]
        if not n_spaced:
            return important_BV
        step = self.n_patches // n_spaced
        spaced_V = step // 2 + step * torch.arange(n_spaced, device=importance_BP.device)
        return torch.cat([important_BV, spaced_V.expand(len(important_BV), -1)], dim=1)


class VisionZip(Comparing):
    """Dominant tokens, the patches of highest importance, then contextual tokens, which gather the others.

    VisionZip (Yang et al. 2024, arXiv 2412.04467, section 3.1). Of V tokens 54 in 64, rounded down, are dominant (the
    paper's 54 + 10, 108 + 20, 162 + 30), but at least one. As released, the tower's class token is the first of them; a
    tower without one (SigLIP) has a patch instead. The patches left, in raster order, give evenly spaced targets; each
    other one goes to its most similar target by cosine of the keys, and contextual_v = target_v + mean of those that
    went to it: as released, while the paper's text has a mean of all. A contextual token's place is its target's, the
    class token's the middle.

    >>> from vlmlaw.compressors import build_compressor
    >>> importance = torch.arange(16.0).reshape(1, 16) / 120  # of each patch; it sums to 1
    >>> compressor = build_compressor("visionzip", 4, 1, 8)
    >>> tokens = compressor(torch.ones(1, 16, 1), importance_BP=importance, class_BK=torch.full((1, 1), 7.0))
    >>> tokens.flatten().tolist()[:6], compressor.n_contextual
    ([7.0, 1.0, 1.0, 1.0, 1.0, 1.0], 2)
    """

    name = "visionzip"
    keys_from = ATTENTION
    needs_importance = True
    reads_class_token = True

    @property
    def n_contextual(self) -> int:
        return self.n_visual_tokens - max(1, self.n_visual_tokens * 54 // 64)

    def reduction_flops(self, n_question_tokens: int) -> int:
        return 2 * self.n_patches * self.n_contextual * (self.compared_width + self.width)

    def reduce(self, inputs: Inputs, places_BP2: Tensor) -> tuple[Tensor, Tensor]:
        assert inputs.importance_BP is not None
        patches_BPC, class_BC = inputs.patches_BPC, inputs.class_BC
        n_dominant = self.n_visual_tokens - self.n_contextual - (class_BC is not None)
        order_BP = inputs.importance_BP.argsort(dim=1, descending=True, stable=True)
        dominant_BV = order_BP[:, :n_dominant].sort(dim=1).values
        tokens, places = [take(patches_BPC, dominant_BV)], [take(places_BP2, dominant_BV)]
        if class_BC is not None:
            tokens.insert(0, class_BC.unsqueeze(1))
            places.insert(0, places_BP2.mean(dim=1, keepdim=True))
        if self.n_contextual:
            left_BN = order_BP[:, n_dominant:].sort(dim=1).values
            target_BV = left_BN[:, :: left_BN.shape[1] // self.n_contextual][:, : self.n_contextual]
            tokens.append(self._contextual(inputs, torch.cat([dominant_BV, target_BV], dim=1), target_BV))
            places.append(take(places_BP2, target_BV))
        return torch.cat(tokens, dim=1), torch.cat(places, dim=1)

    def _contextual(self, inputs: Inputs, kept_BV: Tensor, target_BV: Tensor) -> Tensor:
        """(B, Z, C) targets, each with the mean of the patches that are most similar to it and not kept."""
        patches_BPC, compared_BPH = inputs.patches_BPC, self.compared(inputs)
        nearest_BP1 = cosine(compared_BPH, take(compared_BPH, target_BV)).argmax(dim=2, keepdim=True)
        # All patches at once, those that are kept with weight 0: quicker than copying the others out.
        goes_BPV = patches_BPC.new_zeros(*nearest_BP1.shape[:2], self.n_contextual).scatter(2, nearest_BP1, 1)
        goes_BPV = goes_BPV.scatter(1, kept_BV.unsqueeze(2).expand(-1, -1, self.n_contextual), 0)
        gathered_BVC = goes_BPV.transpose(1, 2) @ patches_BPC
        return take(patches_BPC, target_BV) + gathered_BVC / goes_BPV.sum(dim=1).unsqueeze(2).clamp(min=1)
