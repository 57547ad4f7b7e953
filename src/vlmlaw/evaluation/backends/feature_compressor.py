"""Training-free compressors on what a released model's tower and connector make of an image: any number of features.

Most work on the features behind the connector. Those that merge patches before it, as published, have the model's own
connector make a token of each merged patch.
Shapes: B = 1, P features of one view in the order of the prompt, V of them that are left, D the language model's width,
C the tower's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from vlmlaw.compressors import COMPRESSORS, Compressor, Inputs, compressor_class
from vlmlaw.compressors.base import WHOLE_ATTENTION, Shape
from vlmlaw.compressors.grids import SquareCompressor
from vlmlaw.compressors.merging import PruMerge, VisionZip
from vlmlaw.compressors.pooling import RandomSelection
from vlmlaw.compressors.selection import CDPruner, DivPrune, FasterVLM, Scope, TextGuided, TrainingFree, VisPruner
from vlmlaw.errors import UserError

BY_QUESTION = (CDPruner, TextGuided)  # compare features with the embeddings of the question's tokens
BY_TOWER = (FasterVLM, Scope, VisPruner)  # choose patches by the tower's attention, before the connector
SELECTIONS = (DivPrune, RandomSelection, *BY_QUESTION, *BY_TOWER)  # keep features as they are
BEFORE_CONNECTOR = (PruMerge, VisionZip)  # merge the tower's patches; the connector makes a token of each that is left


@dataclass(frozen=True)
class Beside:
    """What a compressor may read of a view beside its features: the question, the tower's patches and attention."""

    question_TD: Tensor | None = None  # rows of the language model's embedding, one for each token of the question
    patches_PC: Tensor | None = None  # before the connector, where each becomes a feature
    importance_P: Tensor | None = None
    keys_PH: Tensor | None = None
    class_C: Tensor | None = None  # the tower's class token, where it has one
    connector: Callable[[Tensor], Tensor] | None = None  # (1, V, C) patches to (1, V, D), each by itself


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
    if kind.before_tower:
        return "it makes the image smaller before the tower, as the processor's own knob does (`own`)"
    return ""


def possible() -> list[str]:
    """The compressors that can be.

    >>> possible()
    ['average_at_inference', 'bilinear_at_inference', 'cdpruner', 'divprune', 'fastervlm', 'prumerge', \
'prumerge_plus', 'random_at_inference', 'scope', 'stride_at_inference', 'text_guided', 'tome', 'visionzip', 'vispruner']
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
        self.is_before_connector = issubclass(self._kind, BEFORE_CONNECTOR)
        self.needs_tower = self.is_before_connector or issubclass(self._kind, BY_TOWER)
        self.needs_class_token = issubclass(self._kind, PruMerge)  # released code has no other importance
        self.reads_last_layer = self._kind.keys_from == WHOLE_ATTENTION  # all channels as one head

    def most_of(self, budget: int) -> int:
        """The most tokens within a budget that it can make of a view with more features."""
        return math.isqrt(budget) ** 2 if self.needs_square else budget

    def __call__(self, features_PD: Tensor, budget: int, beside: Beside = NOTHING) -> tuple[Tensor, Tensor | None]:
        """(V, D) tokens with V <= budget, and which features they are where they are some of them, else None."""
        n = len(features_PD)
        v = self.most_of(budget)
        compared_BPC = (features_PD if beside.patches_PC is None else beside.patches_PC).unsqueeze(0)
        if self.is_before_connector:
            assert beside.connector is not None
            merged_BVC = compared_BPC if v >= n else self._merged(compared_BPC, v, beside)
            return beside.connector(merged_BVC)[0], None
        if v >= n:
            return features_PD, torch.arange(n, device=features_PD.device)
        question_BTD, importance_BP = (_batched(x) for x in (beside.question_TD, beside.importance_P))
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

    def _merged(self, patches_BPC: Tensor, v: int, beside: Beside) -> Tensor:
        """(1, V, C) what the connector reads in place of the patches."""
        importance_BP, keys_BPH, class_BC = map(_batched, (beside.importance_P, beside.keys_PH, beside.class_C))
        inputs = Inputs(patches_BPC, patches_BPC, None, None, importance_BP, keys_BPH, None, class_BC)
        keys = {"key_width": keys_BPH.shape[2]} if keys_BPH is not None else {}
        return self._build(patches_BPC.shape[1], patches_BPC.shape[2], v, **keys).compress(inputs)

    def _build(self, n: int, width: int, v: int, **options: int) -> Compressor:
        side = math.ceil(math.sqrt(n))
        if self.needs_square:
            return self._kind(Shape(side, width, v))
        shape = Shape(side, width, v, question_width=width if self.needs_question else None)
        built: Compressor = type(self._kind.__name__, (_AnyNumber, self._kind), {})(shape, **options)
        built.n_given = n  # type: ignore[assignment]
        return built


def _batched(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.unsqueeze(0)
