"""Check that compressors can be built, with their classes, which need torch; a positive result is cached on disk.

The cache is keyed by the request and by the fingerprint of the code of the compressors, so that planning a workflow
starts without torch, and a changed class is checked again.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vlmlaw.errors import UserError
from vlmlaw.runtime.fingerprint import code_version
from vlmlaw.runtime.memo import recall, remember


@dataclass(frozen=True)
class Request:
    """A compressor as an experiment requests it. `where` is the place in the file, for messages."""

    where: str
    compressor: str
    options: Mapping[str, Any]
    visual_tokens: tuple[int, ...]
    grid_side: int
    vision_width: int
    question_widths: tuple[int, ...]
    n_llm_layers: int  # of the shallowest
    n_levels: int
    n_multi_levels: int
    has_tower: bool = True  # False: compressors read the pixels of patches


@dataclass(frozen=True)
class Traits:
    """The properties of a compressor that planning a workflow needs."""

    reads_all_levels: bool
    elastic: bool  # one training for every V
    trained_with: str  # the compressor of the training whose weights it uses: its own, or that of all patches
    before_tower: bool = False  # it makes the image smaller, so that no cached features serve it


def check_compressors(requests: Sequence[Request]) -> dict[str, Traits]:
    """The traits of each compressor by name.

    Raises UserError: unknown name or option, a V that it cannot make (naming those that it can).
    """
    question = json.dumps([asdict(request) for request in requests], sort_keys=True, default=str)
    asked = ("compressors", code_version("vlmlaw.compressors", __name__), question)
    answer = recall(*asked)
    if answer is None:
        answer = {request.compressor: asdict(_check(request)) for request in requests}
        remember(answer, *asked)
    return {name: Traits(**traits) for name, traits in answer.items()}


def _check(request: Request) -> Traits:
    import torch

    from vlmlaw.compressors import ALL_PATCHES, InsideLlm, build_compressor, compressor_class
    from vlmlaw.compressors.base import ATTENTION, WHOLE_ATTENTION

    try:
        kind = compressor_class(request.compressor)
        clashing = sorted(set(request.options) - set(kind.option_names()))
        if clashing:
            raise UserError(
                f"compressor {kind.name}: unknown option(s) {', '.join(clashing)}; its options: {kind.options_text()}."
            )
        if not request.has_tower and (kind.needs_importance or kind.keys_from in (ATTENTION, WHOLE_ATTENTION)):
            raise UserError(
                f"compressor {kind.name}: reads the attention of a vision tower, and vision.source patches has none; "
                "take another compressor, or a tower."
            )
        n_levels = request.n_multi_levels if kind.reads_all_levels else request.n_levels
        with torch.device("meta"):
            for n_visual_tokens in request.visual_tokens:
                for width in request.question_widths:
                    built = build_compressor(
                        request.compressor,
                        request.grid_side,
                        request.vision_width,
                        n_visual_tokens,
                        question_width=width,
                        n_levels=n_levels,
                        **kind.key_options(projected=width, attention=None) | dict(request.options),
                    )
                    if isinstance(built, InsideLlm):
                        built.stages(request.n_llm_layers)  # an LLM too shallow for them is an error
    except UserError as error:
        raise UserError(f"{request.where}: {error}") from error
    except (TypeError, ValueError) as error:
        options = dict(request.options)
        raise UserError(f"{request.where}: compressor {request.compressor} refuses {options}: {error}") from error
    trained_with = ALL_PATCHES if kind.training_free else kind.name
    return Traits(kind.reads_all_levels, kind.elastic, trained_with, kind.before_tower)
