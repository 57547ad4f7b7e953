"""Choices that the LLM makes while it reads: after some of its layers, only part of the image tokens goes on.

A class says after which layers, how many stay (`stages`) and which (`choose`); `vlmlaw.vlm.pruning` runs the LLM by it.
V is what stays after the last stage. The mean over layers (`tokens_by_layer`) is what the LLM's cost depends on.
Shapes: B sequences, S tokens of a sequence now, N image tokens left in each, V that stay, D the LLM's width.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from vlmlaw.compressors.base import Inputs, Shape
from vlmlaw.compressors.selection import TrainingFree, best, cosine, keep
from vlmlaw.errors import UserError


class Stage(NamedTuple):
    """After the LLM's first `after` layers `n_kept` image tokens go on."""

    after: int
    n_kept: int


class Reading(Protocol):
    """What the LLM shows when a stage is due: tokens of the sequences as they are now."""

    @property
    def image_BN(self) -> Tensor:
        """Places of the image tokens, ascending."""

    @property
    def first_B(self) -> Tensor:
        """The place of each sequence's first token, behind its padding."""

    @property
    def text_BS(self) -> Tensor:
        """True at the text behind the image."""

    def attention(self) -> Tensor:
        """(B, N) attention of the question's last token to the image in the layer just read, heads averaged."""

    def next_attention(self) -> Tensor:
        """(B, N) the same in the layer that comes next, as if nothing were dropped before it."""

    def rated_attention(self) -> Tensor:
        """(B, N) attention of SparseVLM's raters to the image in the layer just read, heads and raters averaged."""

    def scores(self) -> Tensor:
        """(B, S) scaled products of the question's last token with those before it in the layer just read; else 0.

        Padding is among what is 0.
        """

    def relevance(self) -> Tensor:
        """(B, N) how much each image token counts for the answer's first token, before anything is dropped."""

    def states(self) -> Tensor:
        """(B, S, D) the states after the layer just read, behind the LLM's final norm."""

    def keys(self) -> Tensor:
        """(B, S, keys' width) the keys of the layer just read, with rotary places, heads side by side."""


class InsideLlm(TrainingFree):
    """Reads all P patches into the LLM and drops image tokens between its layers."""

    inside_llm = True
    explains = False  # whether it rates tokens by a pass of its own through the LLM, and that pass's gradient
    renumbers = False  # whether the tokens that stay are numbered anew, or keep their positions

    def stages(self, n_layers: int) -> list[Stage]:
        """What is dropped in an LLM of so many layers. Raises UserError where it has too few."""
        raise NotImplementedError

    def choose(self, reading: Reading, n_kept: int) -> Tensor:
        """(B, n_kept) which of the N image tokens left stay."""
        raise NotImplementedError

    def tokens_by_layer(self, n_layers: int) -> list[int]:
        """The image tokens that each layer reads."""
        counts, n_tokens = [], self.n_patches
        due = dict(self.stages(n_layers)) if self.n_visual_tokens < self.n_patches else {}
        for layer in range(n_layers):
            n_tokens = due.get(layer, n_tokens)
            counts.append(n_tokens)
        return counts

    def _require(self, n_layers: int, *, after: int) -> None:
        if after >= n_layers:
            raise UserError(
                f"compressor {self.name}: layer is {after} and the LLM has {n_layers} layers, so that none is left to "
                f"read fewer tokens; set it to {n_layers - 1} or less, or leave this size out."
            )


class FastV(InsideLlm):
    """The V patches of highest importance.

    FastV (Chen et al. 2024, arXiv 2403.06764, section 4.1): the LLM's first K = `layer` layers read all P patches;
    those that the last question token attends to most in layer K, its heads averaged, are kept for the layers after it.
    They keep their positions. As a function of tensors it is this choice by a given importance.

    >>> from vlmlaw.compressors import build_compressor
    >>> patches = torch.arange(16.0).reshape(1, 16, 1)  # a 4 x 4 grid of width 1, in raster order
    >>> importance = torch.arange(16.0).reshape(1, 16) / 120  # of each patch; it sums to 1
    >>> build_compressor("fastv", 4, 1, 4)(patches, importance_BP=importance).flatten().tolist()
    [12.0, 13.0, 14.0, 15.0]
    >>> build_compressor("fastv", 4, 1, 4, layer=2).tokens_by_layer(4)
    [16, 16, 4, 4]
    """

    name = "fastv"
    needs_importance = True

    def __init__(self, shape: Shape, *, layer: int = 2) -> None:
        super().__init__(shape)
        self._at_least_one(layer=layer)
        self.layer = layer

    def stages(self, n_layers: int) -> list[Stage]:
        self._require(n_layers, after=self.layer)
        return [Stage(self.layer, self.n_visual_tokens)]

    def choose(self, reading: Reading, n_kept: int) -> Tensor:
        return best(reading.attention(), n_kept)

    def reduce(self, inputs: Inputs, places_BP2: Tensor) -> tuple[Tensor, Tensor]:
        assert inputs.importance_BP is not None
        return keep(inputs, places_BP2, best(inputs.importance_BP, self.n_visual_tokens))


class SeveralStages(FastV):
    """Drops in several stages, by attention; the counts fall geometrically from P to V unless `kept` gives them.

    `layers` are the layers read before each drop; unless given, the published shares of the LLM's depth.
    """

    shares: tuple[float, ...]

    def __init__(self, shape: Shape, *, layers: Sequence[int] | None = None, kept: Sequence[int] | None = None) -> None:
        TrainingFree.__init__(self, shape)
        for key, values in (("layers", layers), ("kept", kept)):
            if values is not None and not (isinstance(values, (list, tuple)) and values and min(values) >= 1):
                raise UserError(
                    f"compressor {self.name}: {key} is {values!r}; expected a list of whole numbers from 1."
                )
        layers, kept = (None if values is None else list(values) for values in (layers, kept))
        if layers is not None and sorted(set(layers)) != list(layers):
            raise UserError(f"compressor {self.name}: layers are {layers}; expected them in ascending order.")
        if kept is not None and len(kept) + 1 != len(layers or self.shares):
            raise UserError(
                f"compressor {self.name}: kept has {len(kept)} numbers; expected one for each of the "
                f"{len(layers or self.shares)} stages but the last, which keeps V."
            )
        self.layers, self.kept = layers, kept

    def stages(self, n_layers: int) -> list[Stage]:
        rounded = {max(1, round(share * n_layers)) for share in self.shares}
        layers = self.layers or sorted(after for after in rounded if after < n_layers) or [1]
        self._require(n_layers, after=layers[-1])
        ratio = self.n_visual_tokens / self.n_patches
        n_stages = len(layers)
        falling = [round(self.n_patches * ratio ** (stage / n_stages)) for stage in range(1, n_stages)]
        kept = self.kept[-(n_stages - 1) :] if self.kept and n_stages > 1 else falling
        return [Stage(after, n) for after, n in zip(layers, [*kept, self.n_visual_tokens], strict=True)]


class PyramidDrop(SeveralStages):
    """PyramidDrop (Xing et al. 2024, arXiv 2410.17247): at a quarter, half and three quarters of the LLM's depth.

    As released: the tokens are ranked by the attention that the question's last token would give them in the layer that
    comes next, heads averaged; those that stay are numbered anew. With V = P / 8 the shares are the published 1/2, 1/4
    and 1/8.

    >>> from vlmlaw.compressors import build_compressor
    >>> build_compressor("pyramiddrop", 24, 8, 72).stages(32)
    [Stage(after=8, n_kept=288), Stage(after=16, n_kept=144), Stage(after=24, n_kept=72)]
    """

    name = "pyramiddrop"
    renumbers = True
    shares = (1 / 4, 1 / 2, 3 / 4)

    def choose(self, reading: Reading, n_kept: int) -> Tensor:
        return best(reading.next_attention(), n_kept)


class SparseVLM(SeveralStages):
    """SparseVLM (Zhang et al. 2024, arXiv 2410.04417): by the attention of the text that the image speaks of.

    As released: raters are the tokens behind the image that are above the mean (`selection.text_relevance` of what
    enters the LLM); patches are ranked by the raters' attention in layers 3, 7 and 16 of 32. Departure: dropped tokens
    are not recycled into new ones, and counts are given (`kept`, V), where released lists are for three budgets.

    >>> from vlmlaw.compressors import build_compressor
    >>> build_compressor("sparsevlm", 24, 8, 17, kept=[66, 30]).stages(32)
    [Stage(after=3, n_kept=66), Stage(after=7, n_kept=30), Stage(after=16, n_kept=17)]
    """

    name = "sparsevlm"
    shares = (3 / 32, 7 / 32, 16 / 32)

    def choose(self, reading: Reading, n_kept: int) -> Tensor:
        return best(reading.rated_attention(), n_kept)


class VisualTokensWithdrawal(FastV):
    """VTW (Lin et al. 2024, arXiv 2405.05803): all patches up to layer K, none behind it.

    `layer` is K; unless given, that at which the LLM reads V tokens on the average of its layers, at least 1. As a
    function of tensors, without an LLM, it is FastV's choice.

    >>> from vlmlaw.compressors import build_compressor
    >>> build_compressor("vtw", 24, 8, 288).stages(32)  # the published half of the layers
    [Stage(after=16, n_kept=0)]
    """

    name = "vtw"

    def __init__(self, shape: Shape, *, layer: int | None = None) -> None:
        TrainingFree.__init__(self, shape)
        self._at_least_one(layer=layer)
        self.withdraws_after = layer

    def stages(self, n_layers: int) -> list[Stage]:
        share = self.n_visual_tokens / self.n_patches
        after = self.withdraws_after or min(n_layers - 1, max(1, round(share * n_layers)))
        self._require(n_layers, after=after)
        return [Stage(after, 0)]

    def choose(self, reading: Reading, n_kept: int) -> Tensor:
        return reading.image_BN[:, :0]


class Dart(FastV):
    """DART (Wen et al. 2025, arXiv 2502.11494): the patches that are least like a few pivots.

    As released: behind layer K = `layer`, the image tokens and the text tokens whose keys have the greatest L1 norm are
    pivots (`image_pivots`, `text_pivots`); each in turn takes the image tokens that are least similar to it, by cosine
    of the final-normed states, among those not yet taken. V counts the image pivots. Where V - image pivots is no
    multiple of the pivots, the first take one more. As a function of tensors, without an LLM, it is FastV's choice.

    >>> from vlmlaw.compressors import build_compressor
    >>> build_compressor("dart", 24, 8, 64).stages(32)
    [Stage(after=2, n_kept=64)]
    """

    name = "dart"

    def __init__(self, shape: Shape, *, layer: int = 2, image_pivots: int = 4, text_pivots: int = 4) -> None:
        super().__init__(shape, layer=layer)
        self._at_least_one(image_pivots=image_pivots, text_pivots=text_pivots)
        self.image_pivots, self.text_pivots = image_pivots, text_pivots

    def choose(self, reading: Reading, n_kept: int) -> Tensor:
        states_BSD, norms_BS = reading.states(), reading.keys().float().abs().sum(dim=2)
        image_BN, first_B = reading.image_BN, reading.first_B.tolist()
        n_pivots = min(self.image_pivots, n_kept)
        image_pivots = norms_BS.gather(1, image_BN).topk(n_pivots, dim=1).indices
        text_BS = norms_BS.masked_fill(~reading.text_BS, -math.inf)
        chosen = []
        for row, first in enumerate(first_B):
            n_text = min(self.text_pivots, int(reading.text_BS[row].sum()))
            places = [*image_BN[row, image_pivots[row]].tolist(), *text_BS[row].topk(n_text).indices.tolist()]
            # The released code walks a Python set of places; so does this, to take them in the same turn. They are
            # counted from the prompt's first token: padding must not change the turn.
            pivots = [first + place for place in {place - first for place in places}]
            closeness = cosine(states_BSD[row : row + 1, pivots], states_BSD[row : row + 1])[0]
            chosen.append(_least_like(closeness[:, image_BN[row]], image_pivots[row], n_kept))
        return torch.stack(chosen)


def _least_like(closeness_QN: Tensor, pivots: Tensor, n_kept: int) -> Tensor:
    """(n_kept,) the image's own pivots, and what each of the Q pivots in turn takes, ascending."""
    taken_N = torch.zeros_like(closeness_QN[0], dtype=torch.bool)
    taken_N[pivots] = True
    share, more = divmod(n_kept - len(pivots), len(closeness_QN))
    for turn, closeness_N in enumerate(closeness_QN):
        n_taken = share + (turn < more)
        least = closeness_N.masked_fill(taken_N, math.inf).topk(n_taken, largest=False).indices
        taken_N[least] = True
    return taken_N.nonzero().squeeze(1)


class PromptDistill(SeveralStages):
    """Selection in intermediate layers by the prompt (PromptDistill, Jin et al. 2025, arXiv 2503.23274).

    As released: by the scores (before the softmax, heads averaged) that the question's last token gives in the layer
    just read, averaged over 5 neighbouring tokens; after 14 of 32 layers, or in several stages (`layers`, `kept`).
    Tokens keep their positions. Departure: the paper chooses among all tokens of a long text; here the text stays, and
    only image tokens are chosen among.

    >>> from vlmlaw.compressors import build_compressor
    >>> build_compressor("promptdistill", 24, 8, 36, layers=[8, 16]).stages(32)
    [Stage(after=8, n_kept=144), Stage(after=16, n_kept=36)]
    """

    name = "promptdistill"
    shares = (14 / 32,)
    n_pooled = 5

    def choose(self, reading: Reading, n_kept: int) -> Tensor:
        scores_BS = reading.scores()
        pooled_BS = F.avg_pool1d(scores_BS, self.n_pooled, stride=1, padding=self.n_pooled // 2)
        return best(pooled_BS.gather(1, reading.image_BN), n_kept)
