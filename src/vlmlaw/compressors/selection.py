"""Training-free selection: keep V patches of a model that was trained on all of them, choosing by content.

Kept patches stay in raster order, and equal scores go to the earlier patch on every device.
Shapes: B images (or image-question pairs), P patches, V visual tokens, C width, H key width, T question tokens.
"""

import math

import torch
from torch import Tensor

from vlmlaw.compressors.base import (
    EMBEDDING,
    PROJECTED,
    Compressor,
    Inputs,
    Shape,
    patch_positions,
    without_autocast,
)
from vlmlaw.errors import UserError

MOST_PAIRS = 2**20  # pairs of patches compared at once: 4 MB, however many images there are


def received_attention(features_BPH: Tensor) -> Tensor:
    """(B, P) mean attention that each patch receives from all, softmax(x x^T / sqrt(H)) by rows; it sums to 1.

    An importance for towers without a class token, as VisionZip (arXiv 2412.04467, section 3.1) takes for SigLIP,
    there from the tower's own attention. Costs 2 P^2 H FLOPs, which are the caller's to count.

    >>> received_attention(torch.zeros(1, 4, 8)).tolist()  # equal patches receive equal attention
    [[0.25, 0.25, 0.25, 0.25]]
    """
    scores_BPP = features_BPH @ features_BPH.transpose(1, 2) / math.sqrt(features_BPH.shape[-1])
    return scores_BPP.softmax(dim=-1).mean(dim=1)


def best(scores_BP: Tensor, n_kept: int) -> Tensor:
    """(B, n_kept) indices of the highest scores, ascending."""
    return scores_BP.argsort(dim=1, descending=True, stable=True)[:, :n_kept].sort(dim=1).values


def take(tokens_BPC: Tensor, index_BV: Tensor) -> Tensor:
    """(B, V, C) the tokens of each image at its indices."""
    images_B1 = torch.arange(len(index_BV), device=index_BV.device).unsqueeze(1)
    return tokens_BPC[images_B1, index_BV]  # whole rows: several times as fast as a gather by element


def cosine(a_BNH: Tensor, b_BMH: Tensor) -> Tensor:
    """(B, N, M) cosines of all pairs, in float32 whatever the inputs' type and also under autocast.

    A choice hangs on small differences: bfloat16 makes ties of cosines that differ by less than .004. The products are
    divided by the lengths, so that no tokens are copied.
    """
    with without_autocast(a_BNH.device):
        a_BNH, b_BMH = a_BNH.float(), b_BMH.float()
        lengths_BN, lengths_BM = (x.norm(dim=-1).clamp(min=1e-12) for x in (a_BNH, b_BMH))
        products_BNM = a_BNH @ b_BMH.transpose(1, 2)
    return products_BNM.div_(lengths_BN.unsqueeze(2)).div_(lengths_BM.unsqueeze(1))


def keep(inputs: Inputs, places_BP2: Tensor, index_BV: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens that are patches as they were, and their places."""
    return take(inputs.patches_BPC, index_BV), take(places_BP2, index_BV)


class TrainingFree(Compressor):
    """Applied at inference: any V up to P from the same trained weights; V = P changes nothing and costs nothing."""

    elastic = True
    training_free = True
    moves_with_content = True

    def flops(self, n_question_tokens: int = 0) -> int:
        return 0 if self.n_visual_tokens == self.n_patches else self.reduction_flops(n_question_tokens)

    def compress(self, inputs: Inputs) -> Tensor:
        return self.compress_with_positions(inputs)[0]

    def compress_with_positions(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        places_P2 = patch_positions(self.grid_side).to(inputs.patches_BPC.device)
        places_BP2 = places_P2.expand(len(inputs.patches_BPC), -1, -1)
        if self.n_visual_tokens == self.n_patches:
            return inputs.patches_BPC, places_BP2
        return self.reduce(inputs, places_BP2)

    def reduce(self, inputs: Inputs, places_BP2: Tensor) -> tuple[Tensor, Tensor]:
        """V < P tokens and their places."""
        raise NotImplementedError

    def reduction_flops(self, n_question_tokens: int) -> int:
        return 0


class Comparing(TrainingFree):
    """Compares patches with each other or the question: by `keys_BPH` if built with `key_width`, else as they are."""

    def __init__(self, shape: Shape, *, key_width: int | None = None) -> None:
        super().__init__(shape)
        self._at_least_one(key_width=key_width)
        self.key_width = key_width

    @property
    def compared_width(self) -> int:
        return self.key_width or self.width

    def compared(self, inputs: Inputs) -> Tensor:
        """(B, P, H) what the patches are compared by."""
        if self.key_width is None:
            return inputs.patches_BPC
        n_images = len(inputs.patches_BPC)
        self._expect("keys", inputs.keys_BPH, (n_images, self.n_patches, self.key_width))
        assert inputs.keys_BPH is not None
        return inputs.keys_BPH

    def _shares_space_with_question(self) -> None:
        if self.compared_width != self.question_width:
            raise UserError(
                f"compressor {self.name}: patches are compared at width {self.compared_width} but questions have width "
                f"{self.question_width}; set key_width = {self.question_width} and pass projected patches as keys."
            )


class DivPrune(Comparing):
    """Max-min diversity: greedily the patch whose nearest chosen one is farthest, by 1 - cosine.

    DivPrune (Alvar et al. 2025, arXiv 2503.02175, section 3.2), there and in our models of the patches as the LLM sees
    them, that is projected. The first is the patch whose nearest other patch is
    farthest. V rounds of P comparisons, since the greedy choice is sequential in V by nature, for a few images at once:
    memory for pairs of patches is bounded by MOST_PAIRS, or one image's.

    >>> from vlmlaw.compressors import build_compressor
    >>> patches = torch.tensor([[[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]]])
    >>> build_compressor("divprune", 2, 2, 2)(patches).tolist()  # one patch of each direction
    [[[1.0, 0.0], [0.0, 1.0]]]
    """

    name = "divprune"
    keys_from = PROJECTED

    def reduction_flops(self, n_question_tokens: int) -> int:
        return 2 * self.n_patches**2 * self.compared_width

    def reduce(self, inputs: Inputs, places_BP2: Tensor) -> tuple[Tensor, Tensor]:
        compared_BPH = self.compared(inputs)
        n_at_once = max(1, MOST_PAIRS // self.n_patches**2)
        order_BV = torch.cat([most_diverse(part, self.n_visual_tokens) for part in compared_BPH.split(n_at_once)])
        return keep(inputs, places_BP2, order_BV.sort(dim=1).values)


def most_diverse(compared_BPH: Tensor, n_chosen: int) -> Tensor:
    """(B, n_chosen) patches in the order in which DivPrune chooses them."""
    distance_BPP = cosine(compared_BPH, compared_BPH).neg_().add_(1)
    distance_BPP.diagonal(dim1=1, dim2=2).fill_(math.inf)
    chosen_B1 = distance_BPP.amin(dim=2).argmax(dim=1, keepdim=True)
    nearest_BP = torch.full_like(distance_BPP[:, 0], math.inf)
    chosen = [chosen_B1]
    for _ in range(n_chosen - 1):
        from_chosen_BP = distance_BPP.take_along_dim(chosen_B1.unsqueeze(2), dim=1).squeeze(1)
        nearest_BP = torch.minimum(nearest_BP, from_chosen_BP).scatter(1, chosen_B1, -math.inf)
        chosen_B1 = nearest_BP.argmax(dim=1, keepdim=True)
        chosen.append(chosen_B1)
    return torch.cat(chosen, dim=1)


class FasterVLM(TrainingFree):
    """The V patches that the tower's class token attends to most (FasterVLM, Zhang et al. 2024, arXiv 2412.01818).

    Heads averaged, in the layer whose output the patches are, as released.

    >>> from vlmlaw.compressors import build_compressor
    >>> patches = torch.arange(16.0).reshape(1, 16, 1)  # a 4 x 4 grid of width 1, in raster order
    >>> importance = torch.arange(16.0).reshape(1, 16) / 120  # of each patch; it sums to 1
    >>> build_compressor("fastervlm", 4, 1, 4)(patches, importance_BP=importance).flatten().tolist()
    [12.0, 13.0, 14.0, 15.0]
    """

    name = "fastervlm"
    needs_importance = True

    def reduce(self, inputs: Inputs, places_BP2: Tensor) -> tuple[Tensor, Tensor]:
        assert inputs.importance_BP is not None
        return keep(inputs, places_BP2, best(inputs.importance_BP, self.n_visual_tokens))


class VisPruner(TrainingFree):
    """Half of V by the class token's attention, half diverse (VisPruner, Zhang et al. 2024, arXiv 2412.01818, v2).

    As released: of the patches that are not among the most important, those at even places whose nearest at an odd
    place is nearest are dropped, `n_dropped` a round, until V / 2 are left; the rounds start in the order of
    importance, and those left of the even places go before the odd. By cosine of the patches, before the
    projector.

    >>> from vlmlaw.compressors import build_compressor
    >>> patches = torch.eye(2).repeat_interleave(2, dim=0).unsqueeze(0)  # two pairs of equal patches
    >>> importance = torch.tensor([[0.4, 0.3, 0.2, 0.1]])
    >>> build_compressor("vispruner", 2, 2, 2)(patches, importance_BP=importance).tolist()
    [[[1.0, 0.0], [0.0, 1.0]]]
    """

    name = "vispruner"
    needs_importance = True

    def __init__(self, shape: Shape, *, n_dropped: int = 8) -> None:
        super().__init__(shape)
        self._at_least_one(n_dropped=n_dropped)
        self.n_dropped = n_dropped

    def rounds(self) -> list[tuple[int, int]]:
        """(patches before, patches dropped) of each round."""
        n_important = self.n_visual_tokens // 2
        plan, n_left = [], self.n_patches - n_important
        while n_gone := min(self.n_dropped, n_left - (self.n_visual_tokens - n_important), n_left // 2):
            plan.append((n_left, n_gone))
            n_left -= n_gone
        return plan

    def reduction_flops(self, n_question_tokens: int) -> int:
        return 2 * self.n_patches**2 * self.width

    def reduce(self, inputs: Inputs, places_BP2: Tensor) -> tuple[Tensor, Tensor]:
        assert inputs.importance_BP is not None
        n_important = self.n_visual_tokens // 2
        order_BP = inputs.importance_BP.argsort(dim=1, descending=True, stable=True)
        important_BV, left_BN = order_BP[:, :n_important], order_BP[:, n_important:]
        n_at_once = max(1, MOST_PAIRS // self.n_patches**2)
        parts = zip(inputs.patches_BPC.split(n_at_once), left_BN.split(n_at_once), strict=True)
        left_BN = torch.cat([self._diverse(*part) for part in parts])
        return keep(inputs, places_BP2, torch.cat([important_BV, left_BN], dim=1).sort(dim=1).values)

    def _diverse(self, patches_BPC: Tensor, left_BN: Tensor) -> Tensor:
        """Of the patches left those that stay after all rounds. Each pair is compared once, before the rounds."""
        closeness_BPP = cosine(patches_BPC, patches_BPC)
        for _, n_gone in self.rounds():
            even_BE, odd_BO = left_BN[:, ::2], left_BN[:, 1::2]
            of_even_BEP = take(closeness_BPP, even_BE)
            nearest_BE = of_even_BEP.gather(2, odd_BO.unsqueeze(1).expand(-1, even_BE.shape[1], -1)).amax(dim=2)
            stays_BE = nearest_BE.argsort(dim=1, descending=True, stable=True)[:, n_gone:]
            left_BN = torch.cat([even_BE.gather(1, stays_BE), odd_BO], dim=1)
        return left_BN


class Scope(TrainingFree):
    """The V patches that cover the image best, weighed by the class token's attention (SCOPE, Deng et al. 2025).

    arXiv 2510.24214, as released: greedily the patch j of greatest a_j^alpha sum_i max(0, cos(x_i, x_j) - c_i), where
    c_i is the greatest cosine of patch i and a chosen one, 0 at first; x is taken before the projector, a is the
    attention averaged over heads. V rounds of P^2 comparisons, for a few images at once as DivPrune's.

    >>> from vlmlaw.compressors import build_compressor
    >>> patches = torch.eye(2).repeat_interleave(2, dim=0).unsqueeze(0)  # two pairs of equal patches
    >>> importance = torch.tensor([[0.4, 0.3, 0.2, 0.1]])
    >>> build_compressor("scope", 2, 2, 2)(patches, importance_BP=importance).tolist()  # one of each pair
    [[[1.0, 0.0], [0.0, 1.0]]]
    """

    name = "scope"
    needs_importance = True

    def __init__(self, shape: Shape, *, alpha: float = 1.0) -> None:
        super().__init__(shape)
        if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 <= alpha < math.inf:
            raise UserError(f"compressor scope: alpha is {alpha!r}; expected a number, 0 (coverage alone) or more.")
        self.alpha = alpha

    def reduction_flops(self, n_question_tokens: int) -> int:
        return 2 * self.n_patches**2 * self.width

    def reduce(self, inputs: Inputs, places_BP2: Tensor) -> tuple[Tensor, Tensor]:
        assert inputs.importance_BP is not None
        weight_BP = inputs.importance_BP.float() ** self.alpha
        n_at_once = max(1, MOST_PAIRS // self.n_patches**2)
        parts = zip(inputs.patches_BPC.split(n_at_once), weight_BP.split(n_at_once), strict=True)
        order_BV = torch.cat([largest_coverage(*part, self.n_visual_tokens) for part in parts])
        return keep(inputs, places_BP2, order_BV.sort(dim=1).values)


def largest_coverage(patches_BPC: Tensor, weight_BP: Tensor, n_chosen: int) -> Tensor:
    """(B, n_chosen) patches in the order in which SCOPE chooses them."""
    closeness_BPP = cosine(patches_BPC, patches_BPC)
    covered_BP = torch.zeros_like(weight_BP)
    is_chosen_BP = torch.zeros_like(weight_BP, dtype=torch.bool)
    rows, chosen = torch.arange(len(weight_BP), device=weight_BP.device), []
    for _ in range(n_chosen):
        gain_BP = (closeness_BPP - covered_BP.unsqueeze(2)).clamp(min=0).sum(dim=1) * weight_BP
        best_B = gain_BP.masked_fill(is_chosen_BP, -math.inf).argmax(dim=1)
        chosen.append(best_B)
        is_chosen_BP[rows, best_B] = True
        covered_BP = torch.maximum(covered_BP, closeness_BPP[rows, best_B])
    return torch.stack(chosen, dim=1)


class CDPruner(Comparing):
    """The V patches of greatest determinant: unlike each other, and relevant (CDPruner, Zhang et al. 2025, 2506.10967).

    As released: the kernel of patches i and j is r_i r_j cos(x_i, x_j), x behind the projector, r the relevance, scaled
    to its least and greatest in the image; greedily the patch that adds most to the determinant. As released r is made
    of CLIP's embeddings: with `relevance: given` it is the importance, see `clip_relevance`. Departure, since our
    models have no text tower: unless given, r is the mean cosine of the question's embeddings and the projected
    patches, as in OpenVINO GenAI's form.

    >>> from vlmlaw.compressors import build_compressor
    >>> patches = torch.tensor([[[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]]])
    >>> compressor = build_compressor("cdpruner", 2, 2, 2, question_width=2, relevance="given")
    >>> compressor(patches, torch.ones(1, 1, 2), importance_BP=torch.tensor([[0.9, 0.1, 0.8, 0.2]])).tolist()
    [[[1.0, 0.0], [0.0, 1.0]]]
    """

    name = "cdpruner"
    needs_question = True
    question_from = EMBEDDING
    keys_from = PROJECTED

    def __init__(self, shape: Shape, *, key_width: int | None = None, relevance: str = "question") -> None:
        super().__init__(shape, key_width=key_width)
        if relevance not in ("question", "given"):
            raise UserError(f"compressor cdpruner: relevance is {relevance!r}; expected question or given.")
        self._shares_space_with_question()
        self.is_given = relevance == "given"

    def reduction_flops(self, n_question_tokens: int) -> int:
        n_question_tokens = 0 if self.is_given else n_question_tokens
        return 2 * (self.n_patches + n_question_tokens) * self.n_patches * self.compared_width

    def reduce(self, inputs: Inputs, places_BP2: Tensor) -> tuple[Tensor, Tensor]:
        compared_BPH = self.compared(inputs)
        if self.is_given:
            self._expect("importance", inputs.importance_BP, (len(compared_BPH), self.n_patches))
            assert inputs.importance_BP is not None
            relevance_BP = inputs.importance_BP
        else:
            assert inputs.question_BTD is not None
            closeness_BPT = cosine(compared_BPH, inputs.question_BTD)
            own_BT = inputs.question_mask_BT
            if own_BT is not None:
                closeness_BPT = closeness_BPT.masked_fill(~own_BT.unsqueeze(1), 0)
            relevance_BP = closeness_BPT.sum(dim=2)  # a mean but for a factor, which the scaling takes out
        n_at_once = max(1, MOST_PAIRS // self.n_patches**2)
        parts = zip(compared_BPH.split(n_at_once), relevance_BP.split(n_at_once), strict=True)
        index_BV = torch.cat([largest_determinant(*part, self.n_visual_tokens) for part in parts])
        return keep(inputs, places_BP2, index_BV.sort(dim=1).values)


def clip_relevance(image_BPE: Tensor, text_BME: Tensor) -> Tensor:
    """(B, P) relevance of patches to M texts by CLIP's embeddings: the mean of the negated cosines, as CDPruner's.

    >>> clip_relevance(torch.tensor([[[1.0, 0.0], [0.0, 2.0]]]), torch.tensor([[[3.0, 0.0]]])).int().tolist()
    [[-1, 0]]
    """
    return -cosine(image_BPE, text_BME).mean(dim=2)


def largest_determinant(compared_BPH: Tensor, relevance_BP: Tensor, n_chosen: int) -> Tensor:
    """(B, n_chosen) patches in the order in which a determinantal point process takes them greedily."""
    relevance_BP = relevance_BP.float()
    least_B1, most_B1 = relevance_BP.amin(dim=1, keepdim=True), relevance_BP.amax(dim=1, keepdim=True)
    weight_BP = (relevance_BP - least_B1 + 1e-6) / (most_B1 - least_B1).clamp(min=1e-12)
    kernel_BPP = cosine(compared_BPH, compared_BPH)
    kernel_BPP = kernel_BPP * weight_BP.unsqueeze(2) * weight_BP.unsqueeze(1)
    gain_BP = kernel_BPP.diagonal(dim1=1, dim2=2).clone()
    explained_BVP = kernel_BPP.new_zeros(len(kernel_BPP), n_chosen, kernel_BPP.shape[1])
    rows, chosen = torch.arange(len(kernel_BPP), device=kernel_BPP.device), []
    for turn in range(n_chosen):
        best_B = gain_BP.argmax(dim=1)
        chosen.append(best_B)
        before_BVP = explained_BVP[:, :turn]
        known_BP = (before_BVP[rows, :, best_B].unsqueeze(2) * before_BVP).sum(dim=1)
        root_B1 = gain_BP[rows, best_B].clamp(min=1e-12).sqrt().unsqueeze(1)
        new_BP = (kernel_BPP[rows, best_B] - known_BP) / root_B1
        explained_BVP[:, turn] = new_BP
        gain_BP = (gain_BP - new_BP.square()).scatter(1, best_B.unsqueeze(1), -math.inf)
    return torch.stack(chosen, dim=1)


class TextGuided(Comparing):
    """The V patches that the question's telling tokens attend to most.

    After SparseVLM (Zhang et al. 2024, arXiv 2410.04417, section 3.2), outside the LLM: raters are the question tokens
    whose share r_t = mean_p softmax_t(q_t . k_p) is above the mean share, as released; score_p = sum over raters of
    softmax_p(q_t . k_p / sqrt(D)), where SparseVLM has the attention of an LLM layer. Questions and keys must share a
    space: give the patches projected to the LLM's width as keys (key_width = question_width), unless that is the vision
    width.
    No token recycling and no adaptive V, so that V is what the cell says.

    >>> from vlmlaw.compressors import build_compressor
    >>> patches = torch.arange(16.0).reshape(1, 16, 1)  # a 4 x 4 grid of width 1, in raster order
    >>> compressor = build_compressor("text_guided", 4, 1, 4, question_width=1)
    >>> compressor(patches, question_BTD=torch.ones(1, 2, 1)).flatten().tolist()
    [12.0, 13.0, 14.0, 15.0]
    """

    name = "text_guided"
    needs_question = True
    question_from = EMBEDDING
    keys_from = PROJECTED

    def __init__(self, shape: Shape, *, key_width: int | None = None) -> None:
        super().__init__(shape, key_width=key_width)
        self._shares_space_with_question()

    def reduction_flops(self, n_question_tokens: int) -> int:
        return 2 * n_question_tokens * self.n_patches * self.compared_width

    def reduce(self, inputs: Inputs, places_BP2: Tensor) -> tuple[Tensor, Tensor]:
        assert inputs.question_BTD is not None
        question_BTD, keys_BPD = inputs.question_BTD, self.compared(inputs)
        with without_autocast(keys_BPD.device):
            scores_BTP = question_BTD.float() @ keys_BPD.float().transpose(1, 2)
        own_BT = inputs.question_mask_BT
        if own_BT is None:
            own_BT = torch.ones(scores_BTP.shape[:2], dtype=torch.bool, device=scores_BTP.device)
        raters_BT = above_mean(text_relevance(scores_BTP, own_BT), own_BT)
        attention_BTP = (scores_BTP / math.sqrt(self.compared_width)).softmax(dim=2)
        rated_BP = attention_BTP.masked_fill(~raters_BT.unsqueeze(2), 0).sum(dim=1)
        return keep(inputs, places_BP2, best(rated_BP, self.n_visual_tokens))


def text_relevance(scores_BTP: Tensor, own_BT: Tensor) -> Tensor:
    """(B, T) how much the image speaks of each text token: the mean over patches of softmax over the text.

    As SparseVLM's released code rates text: by the products of embeddings, without a scale. Zero where `own_BT` is not.
    """
    shares_BTP = scores_BTP.masked_fill(~own_BT.unsqueeze(2), -math.inf).softmax(dim=1)
    return shares_BTP.mean(dim=2).nan_to_num(0)  # a text without tokens has no shares


def above_mean(relevance_BT: Tensor, own_BT: Tensor) -> Tensor:
    """(B, T) the text tokens that rate the patches: strictly above the mean, or all where none is."""
    mean_B1 = relevance_BT.sum(dim=1, keepdim=True) / own_BT.sum(dim=1, keepdim=True).clamp(min=1)
    raters_BT = own_BT & (relevance_BT > mean_B1 * (1 + 1e-6))
    return raters_BT | (own_BT & ~raters_BT.any(dim=1, keepdim=True))
