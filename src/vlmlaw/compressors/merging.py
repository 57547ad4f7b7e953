"""Training-free merging: V tokens that are means or sums of the patches of a model trained on all of them.

Shapes: B images, P patches, V visual tokens, N tokens left, R tokens that go in a round, C width, H key width.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from vlmlaw.compressors.base import ATTENTION, Inputs, Shape
from vlmlaw.compressors.selection import Comparing, best, keep, take


def merge_most_similar(sums_BNF: Tensor, metric_BNH: Tensor, n_gone: int) -> Tensor:
    """One round of bipartite soft matching (ToMe, section 3): (B, N, F) to (B, N - n_gone, F).

    Tokens at even places each propose to the most similar token at an odd place; the n_gone closest pairs merge
    by addition. The order of those that stay is kept.
    """
    n_tokens = sums_BNF.shape[1]
    unit_BNH = F.normalize(metric_BNH, dim=-1)
    closeness_BE, partner_BE = (unit_BNH[:, 0::2] @ unit_BNH[:, 1::2].transpose(1, 2)).max(dim=2)
    going_BR = closeness_BE.argsort(dim=1, descending=True, stable=True)[:, :n_gone]
    into_BR = 2 * partner_BE.gather(1, going_BR) + 1
    going_BR = 2 * going_BR
    first_row_B1 = n_tokens * torch.arange(len(sums_BNF), device=sums_BNF.device).unsqueeze(1)
    into_rows = (first_row_B1 + into_BR).flatten()
    merged_BNF = sums_BNF.flatten(0, 1).index_add(0, into_rows, take(sums_BNF, going_BR).flatten(0, 1))
    merged_BNF = merged_BNF.unflatten(0, sums_BNF.shape[:2])
    places_BN = torch.arange(n_tokens, device=sums_BNF.device).expand(len(sums_BNF), -1)
    staying_BN = places_BN.scatter(1, going_BR, n_tokens).sort(dim=1).values
    return take(merged_BNF, staying_BN[:, : n_tokens - n_gone])


class ToMe(Comparing):
    """token_v = mean of the patches merged into it, by rounds of bipartite soft matching, until V are left.

    ToMe (Bolya et al. 2023, arXiv 2210.09461, section 3): cosine similarity of the keys, means weighted by size.
    Departure: the paper merges some tokens in every layer of the tower; here the tower is left as it is and all
    merging follows it, in the fewest rounds (at most half of the tokens go in one). Its place is the mean place.
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
        ones_BP1 = torch.ones_like(places_BP2[..., :1])
        columns = [patches_BPC.float(), places_BP2, ones_BP1]
        if self.key_width is not None:
            columns.insert(0, self.compared(inputs).float())
        sums_BNF = torch.cat(columns, dim=2)
        for _, n_gone in self.rounds():
            # a cosine does not see the size that a sum carries
            sums_BNF = merge_most_similar(sums_BNF, sums_BNF[..., : self.compared_width], n_gone)
        means_BVF = sums_BNF[..., :-1] / sums_BNF[..., -1:]
        return means_BVF[..., -2 - self.width : -2].to(patches_BPC.dtype), means_BVF[..., -2:]


class PruMerge(Comparing):
    """token_v = x_v + sum of a_j x_j over the patches j nearest to v, for the V patches v of highest importance a.

    LLaVA-PruMerge (Shang et al. 2024, arXiv 2403.15388, section 3.3), nearest by cosine of the keys among all
    other patches, `n_neighbours` of them. Departure: the paper lets outliers of a decide how many to keep; here V is
    given. The importance is the class token's attention, which sums to 1 over the patches. Its place is v's.
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
        unit_BPH = F.normalize(self.compared(inputs), dim=-1)
        closeness_BVP = take(unit_BPH, index_BV) @ unit_BPH.transpose(1, 2)
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
    """

    name = "visionzip"
    keys_from = ATTENTION
    needs_importance = True

    @property
    def n_contextual(self) -> int:
        return self.n_visual_tokens * 10 // 64

    def reduction_flops(self, n_question_tokens: int) -> int:
        n_others = self.n_patches - self.n_visual_tokens
        return 2 * n_others * self.n_contextual * (self.compared_width + self.width)

    def reduce(self, inputs: Inputs, places_BP2: Tensor) -> tuple[Tensor, Tensor]:
        assert inputs.importance_BP is not None
        unit_BPH = F.normalize(self.compared(inputs), dim=-1)
        n_contextual = self.n_contextual
        n_dominant = self.n_visual_tokens - n_contextual
        order_BP = inputs.importance_BP.argsort(dim=1, descending=True, stable=True)
        dominant_BV = order_BP[:, :n_dominant].sort(dim=1).values
        if n_contextual == 0:
            return keep(inputs, places_BP2, dominant_BV)
        left_BN = order_BP[:, n_dominant:].sort(dim=1).values
        n_left = left_BN.shape[1]
        spacing = n_left // n_contextual
        places_N = torch.arange(n_left)
        is_target_N = (places_N % spacing == 0) & (places_N < spacing * n_contextual)
        target_BV, other_BN = left_BN[:, places_N[is_target_N]], left_BN[:, places_N[~is_target_N]]
        nearest_BN = (take(unit_BPH, other_BN) @ take(unit_BPH, target_BV).transpose(1, 2)).argmax(dim=2)
        goes_BVN = F.one_hot(nearest_BN, n_contextual).transpose(1, 2).to(inputs.patches_BPC.dtype)
        gathered_BVC = goes_BVN @ take(inputs.patches_BPC, other_BN) / goes_BVN.sum(dim=2, keepdim=True).clamp(min=1)
        contextual_BVC = take(inputs.patches_BPC, target_BV) + gathered_BVC
        visual_BVC = torch.cat([take(inputs.patches_BPC, dominant_BV), contextual_BVC], dim=1)
        return visual_BVC, take(places_BP2, torch.cat([dominant_BV, target_BV], dim=1))
