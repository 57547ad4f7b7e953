"""Training-free compressors on what a released model's tower and connector make of an image: any number of features.

Shapes: B = 1, P features of one view in the order of the prompt, V of them that are left, D the language model's width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from vlmlaw.compressors import COMPRESSORS, Compressor, Inputs, compressor_class
from vlmlaw.compressors.base import Shape
from vlmlaw.compressors.grids import SquareCompressor
from vlmlaw.compressors.pooling import RandomSelection
from vlmlaw.compressors.selection import CDPruner, DivPrune, FasterVLM, Scope, TextGuided, TrainingFree, VisPruner
from vlmlaw.errors import UserError

BY_QUESTION = (CDPruner, TextGuided)  # compare features with the embeddings of the question's tokens
BY_TOWER = (FasterVLM, Scope, VisPruner)  # choose patches by the tower's attention, before the connector
SELECTIONS = (DivPrune, RandomSelection, *BY_QUESTION, *BY_TOWER)  # keep features as they are


@dataclass(frozen=True)
class Beside:
    """What a compressor may read of a view beside its features: the question, the tower's patches and attention."""

    question_TD: Tensor | None = None  # rows of the language model's embedding, one for each token of the question
    patches_PC: Tensor | None = None  # before the connector, where each becomes a feature
    importance_P: Tensor | None = None


NOTHING = Beside()


def problem(name: str) -> str:
    """Why a compressor cannot be put between a released tower and its language model; "" where it can.

    Raises UserError for a name that no compressor has.

    >>> problem("divprune"), problem("fastv")
    ('', 'it chooses inside the language model, layer by layer')
    """
    kind = compressor_class(name)
    if not kind.training_free:
        free = f"{name}_at_inference"
        return "it has to be trained with its model" + (f"; without a training there is {free}" * (free in COMPRESSORS))
    if kind.inside_llm:
        return "it chooses inside the language model, layer by layer"
    if kind.needs_importance and not issubclass(kind, BY_TOWER):
        return "it merges patches before the connector, and a released model gives its features behind it"
    if kind.before_tower:
        return "it makes the image smaller before the tower, as the processor's own knob does (`own`)"
    return ""


def possible() -> list[str]:
    """The compressors that can be.

    >>> possible()
    ['average_at_inference', 'bilinear_at_inference', 'cdpruner', 'divprune', 'fastervlm', 'random_at_inference', \
'scope', 'stride_at_inference', 'text_guided', 'tome', 'vispruner']
    """
    return sorted(name for name in COMPRESSORS if not problem(name))


def shares(sizes: Sequence[int], budget: int) -> list[int]:
    """How many of `budget` tokens each view gets: one, and of the rest as many as it has features, in proportion.

    Raises ValueError where there are more views than tokens.

    >>> shares([64, 64, 64], 10), shares([64, 16], 40), shares([4, 4], 99)
    ([3, 3, 4], [31, 9], [4, 4])
    """
    if budget < len(sizes):
        raise ValueError(f"{budget} visual tokens are fewer than the {len(sizes)} views that its processor makes of it")
    budget, total = min(budget, sum(sizes)), sum(sizes)
    ends, before = [0], 0
    for size in sizes:
        before += size - 1
        ends.append((budget - len(sizes)) * before // max(total - len(sizes), 1))
    return [1 + end - start for start, end in pairwise(ends)]


class _AnyNumber:
    """Mixed into a compressor: the number of patches need not be that of a square grid."""

    n_given: int

    @property
    def n_patches(self) -> int:
        return self.n_given


class FeatureCompressor:
    """A compressor by name, for views of any number of features. Raises UserError for one that cannot be."""

    def __init__(self, name: str):
        if why := problem(name):
            raise UserError(
                f"compressor {name} cannot be put into a released model: {why}. These can: {', '.join(possible())}."
            )
        self.name = name
        self._kind = compressor_class(name)
        self.needs_square = issubclass(self._kind, SquareCompressor)  # a view's features must be a square grid
        self.is_selection = issubclass(self._kind, SELECTIONS)
        self.needs_question = issubclass(self._kind, BY_QUESTION)
        self.needs_tower = issubclass(self._kind, BY_TOWER)

    def most_of(self, budget: int) -> int:
        """The most tokens within a budget that it can make of a view with more features."""
        return math.isqrt(budget) ** 2 if self.needs_square else budget

    def __call__(self, features_PD: Tensor, budget: int, beside: Beside = NOTHING) -> tuple[Tensor, Tensor | None]:
        """(V, D) tokens with V <= budget, and which features they are where they are some of them, else None."""
        n = len(features_PD)
        v = self.most_of(budget)
        if v >= n:
            return features_PD, torch.arange(n, device=features_PD.device)
        compared_BPC = (features_PD if beside.patches_PC is None else beside.patches_PC).unsqueeze(0)
        question_BTD, importance_BP = (
            None if x is None else x.unsqueeze(0) for x in (beside.question_TD, beside.importance_P)
        )
        inputs = Inputs(compared_BPC, compared_BPC, question_BTD, None, importance_BP, None, None)
        compressor = self._build(n, compared_BPC.shape[2], v)
        if not isinstance(compressor, TrainingFree):
            kept = torch.tensor(compressor.kept) if isinstance(compressor, RandomSelection) else None
            return compressor.compress(inputs)[0], None if kept is None else kept.to(features_PD.device)
        order_BP2 = torch.arange(n, device=features_PD.device).float().expand(1, 2, n).transpose(1, 2)
        tokens_BVD, places_BV2 = compressor.reduce(inputs, order_BP2)
        if not self.is_selection:
            return tokens_BVD[0], None
        kept_V = places_BV2[0, :, 0].long()
        return features_PD[kept_V], kept_V

    def _build(self, n: int, width: int, v: int) -> Compressor:
        side = math.ceil(math.sqrt(n))
        if self.needs_square:
            return self._kind(Shape(side, width, v))
        shape = Shape(side, width, v, question_width=width if self.needs_question else None)
        built: Compressor = type(self._kind.__name__, (_AnyNumber, self._kind), {})(shape)
        built.n_given = n  # type: ignore[assignment]
        return built
