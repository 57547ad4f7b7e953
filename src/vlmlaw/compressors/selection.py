"""Training-free selection: keep V patches of a model that was trained on all of them, choosing by content.

Kept patches stay in raster order, and equal scores go to the earlier patch on every device.
Shapes: B images (or image-question pairs), P patches, V visual tokens, C width, H key width, T question tokens.
"""

import math

import torch
from torch import Tensor

from vlmlaw.compressors.base import EMBEDDING, PROJECTED, Compressor, Inputs, Shape, patch_positions
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
    """(B, N, M) cosines of all pairs. The products are divided by the lengths, so that no tokens are copied."""
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
    compared_BPH = compared_BPH.float()
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
        if self.compared_width != shape.question_width:
            raise UserError(
                f"compressor text_guided: patches are compared at width {self.compared_width} but questions have width "
                f"{shape.question_width}; set key_width = {shape.question_width} and pass projected patches as keys."
            )

    def reduction_flops(self, n_question_tokens: int) -> int:
        return 2 * n_question_tokens * self.n_patches * self.compared_width

    def reduce(self, inputs: Inputs, places_BP2: Tensor) -> tuple[Tensor, Tensor]:
        assert inputs.question_BTD is not None
        question_BTD, keys_BPD = inputs.question_BTD, self.compared(inputs)
        scores_BTP = (question_BTD @ keys_BPD.transpose(1, 2)).float()
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
