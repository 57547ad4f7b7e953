"""Visual-token compressors: tensors in, tensors out.

Build one by name, `build_compressor("quecc", grid_side, width, n_visual_tokens, question_width=d, n_levels=4)`,
and call it:

    visual_BVC = compressor(patches_BPK, question_BTD, question_mask_BT, importance_BP=..., keys_BPH=...)

patches_BPK: B images x P = grid_side^2 patches in raster order x K = n_levels * width: the levels concatenated,
    shallow to deep (with one level, B x P x width). All read the last `width` columns, the deepest level; those that
    read more say so.
question_BTD, question_mask_BT: B x T x question_width, for those with `needs_question`. The mask is True at the
    question's own tokens, padding on either side; without it all T count, so a lone vector goes in as B x 1 x D.
importance_BP: how much each patch matters, from outside, for those with `needs_importance`: attention of the
    encoder's class token or of an LLM layer; `received_attention` makes one for a tower without a class token.
keys_BPH: what the `training_free` ones compare patches by if built with the option key_width = H (the encoder's
    attention keys; for text guidance the patches projected to the LLM's width); without it they compare patches.

B counts image-question pairs: for several questions on one image repeat its patches. What a compressor does not
need it ignores, so that a model may pass everything it has. `forward_with_positions` returns the tokens and the
(row, column) in patch units that each stands for (B x V x 2); where that does not depend on the sample it is also the
property `positions` (V x 2), and learned queries have None in both.

What a workflow asks of a class before building it: `allowed_tokens(grid_side)`, `option_names()`, and the flags
`elastic` (one set of weights serves every V; `with_n_visual_tokens(v)` is the compressor at another),
`training_free` (applied at inference to a model trained on all patches; also elastic), `needs_question`,
`needs_importance`, `moves_with_content`, `reads_all_levels`, `before_tower` (the patches that it is given are those of
a smaller image, `tower_side` along a side).
Of an instance: `out_width` (the vision width: the MLP projector to the LLM is the model's), `n_params()`, `flops()`.
A model with an initialisation of its own must call `reset_parameters()` after it, since zero-initialised maps matter;
a PreTrainedModel does so in `initialize_weights`, under `transformers.initialization.guard_torch_init_functions`.
"""

from typing import Any

from vlmlaw.compressors.base import Compressor, Inputs, Shape
from vlmlaw.compressors.blocks import BlockLinear, MlpShuffle
from vlmlaw.compressors.connectors import InternVLShuffle, Qwen2VLMerger, SmolVLMShuffle
from vlmlaw.compressors.convolution import CAbstractor
from vlmlaw.compressors.explained import Explained
from vlmlaw.compressors.frequencies import Fourier
from vlmlaw.compressors.inside_llm import (
    Dart,
    FastV,
    InsideLlm,
    PromptDistill,
    PyramidDrop,
    SparseVLM,
    VisualTokensWithdrawal,
)
from vlmlaw.compressors.merging import PruMerge, PruMergePlus, ToMe, VisionZip
from vlmlaw.compressors.pooling import (
    AllPatches,
    AverageAtInference,
    AveragePooling,
    BilinearAtInference,
    BilinearResize,
    Downsample,
    DownsampleAtInference,
    ElasticAverage,
    MatryoshkaPooling,
    RandomAtInference,
    RandomSelection,
    StrideAtInference,
    StridedSampling,
)
from vlmlaw.compressors.pruned_shuffle import InternVLDivPrune, InternVLFasterVLM
from vlmlaw.compressors.published import split_published
from vlmlaw.compressors.queries import MatryoshkaQueries, Resampler
from vlmlaw.compressors.region_attention import QueCC, TokenPacker
from vlmlaw.compressors.selection import (
    CDPruner,
    DivPrune,
    FasterVLM,
    Scope,
    TextGuided,
    VisPruner,
    received_attention,
)
from vlmlaw.errors import UserError

ALL_PATCHES = AllPatches.name  # what training-free compressors are applied to a training of

__all__ = [
    "ALL_PATCHES",
    "COMPRESSORS",
    "Compressor",
    "Inputs",
    "InsideLlm",
    "build_compressor",
    "compressor_class",
    "received_attention",
    "split_published",
]

_WITHOUT_WEIGHTS = (AllPatches, AveragePooling, StridedSampling, BilinearResize, RandomSelection, Fourier, Downsample)
_ELASTIC = (MatryoshkaPooling, ElasticAverage)
_LEARNED = (BlockLinear, MlpShuffle, CAbstractor, Resampler, MatryoshkaQueries, TokenPacker, QueCC)
_CONNECTORS = (InternVLShuffle, Qwen2VLMerger, SmolVLMShuffle, InternVLDivPrune, InternVLFasterVLM)
_BASELINES_AT_INFERENCE = (
    AverageAtInference,
    StrideAtInference,
    BilinearAtInference,
    RandomAtInference,
    DownsampleAtInference,
)
_INSIDE_LLM = (FastV, PyramidDrop, SparseVLM, VisualTokensWithdrawal, Dart, PromptDistill, Explained)
_BEFORE_LLM = (ToMe, PruMerge, PruMergePlus, VisionZip, FasterVLM, VisPruner, Scope, DivPrune, CDPruner, TextGuided)
_TRAINING_FREE = (*_BASELINES_AT_INFERENCE, *_BEFORE_LLM, *_INSIDE_LLM)

_ALL = (*_WITHOUT_WEIGHTS, *_ELASTIC, *_LEARNED, *_CONNECTORS, *_TRAINING_FREE)
COMPRESSORS: dict[str, type[Compressor]] = {kind.name: kind for kind in _ALL}


def compressor_class(name: str) -> type[Compressor]:
    """The class of that name. Raises UserError with the names there are.

    >>> compressor_class("quecc").needs_question, compressor_class("average").allowed_tokens(grid_side=6)
    (True, [1, 4, 9, 16, 25, 36])
    """
    if name not in COMPRESSORS:
        raise UserError(f"no compressor is called {name!r}; there are {', '.join(sorted(COMPRESSORS))}.")
    return COMPRESSORS[name]


def build_compressor(
    name: str,
    grid_side: int,
    width: int,
    n_visual_tokens: int,
    *,
    question_width: int | None = None,
    n_levels: int = 1,
    **options: Any,
) -> Compressor:
    """A compressor with its initial weights. Raises UserError: unknown name, unknown option, impossible V.

    >>> import torch
    >>> compressor = build_compressor("average", grid_side=24, width=1024, n_visual_tokens=36)
    >>> compressor(torch.zeros(2, 576, 1024)).shape
    torch.Size([2, 36, 1024])
    """
    kind = compressor_class(name)
    unknown = sorted(set(options) - set(kind.option_names()))
    if unknown:
        raise UserError(
            f"compressor {name}: unknown option(s) {', '.join(unknown)}; its options: {kind.options_text()}."
        )
    place = kind.place_of(options)
    own = {key: value for key, value in options.items() if key != "place" or "place" not in kind.option_names()}
    built = kind(Shape(grid_side, width, n_visual_tokens, question_width, n_levels), **own)
    built.place = place
    return built
