"""Can these compressors be built? Asked of the classes themselves, which takes torch; a yes is remembered on disk.

The memory is keyed by the question and by the fingerprint of the compressors' code, so that planning a workflow
starts without torch, and a changed class is asked again.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vlmlaw.errors import UserError
from vlmlaw.memory import recall, remember
from vlmlaw.provenance import code_version


@dataclass(frozen=True)
class Request:
    """One compressor as an experiment wants it. `where` is the place in the file, for messages."""

    where: str
    compressor: str
    options: Mapping[str, Any]
    visual_tokens: tuple[int, ...]
    grid_side: int
    vision_width: int
    question_widths: tuple[int, ...]
    n_levels: int
    n_multi_levels: int


def check_compressors(requests: Sequence[Request]) -> dict[str, bool]:
    """For each compressor's name whether it reads several levels of the tower.

    Raises UserError: unknown name or option, a V that it cannot make (naming those that it can), not trainable.
    """
    question = json.dumps([asdict(request) for request in requests], sort_keys=True, default=str)
    asked = ("compressors", code_version("vlmlaw.compressors", __name__), question)
    answer = recall(*asked)
    if answer is None:
        answer = {request.compressor: _check(request) for request in requests}
        remember(answer, *asked)
    return answer


def _check(request: Request) -> bool:
    import torch

    from vlmlaw.compressors import build_compressor, compressor_class

    try:
        kind = compressor_class(request.compressor)
        if kind.training_free or kind.needs_importance:
            raise UserError(
                f"compressor {kind.name} is applied to a trained model; a grid trains each cell. Take another one."
            )
        clashing = sorted(set(request.options) - set(kind.option_names()))
        if clashing:
            known = ", ".join(kind.option_names()) or "none"
            raise UserError(f"compressor {kind.name}: unknown option(s) {', '.join(clashing)}; its options: {known}.")
        n_levels = request.n_multi_levels if kind.reads_all_levels else request.n_levels
        with torch.device("meta"):
            for n_visual_tokens in request.visual_tokens:
                for width in request.question_widths:
                    build_compressor(
                        request.compressor,
                        request.grid_side,
                        request.vision_width,
                        n_visual_tokens,
                        question_width=width,
                        n_levels=n_levels,
                        **request.options,
                    )
    except UserError as error:
        raise UserError(f"{request.where}: {error}") from error
    except (TypeError, ValueError) as error:
        options = dict(request.options)
        raise UserError(f"{request.where}: compressor {request.compressor} refuses {options}: {error}") from error
    return kind.reads_all_levels
