"""Cell description: identity, parameters, FLOPs and training time, which stand beside the scores."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmlaw.errors import UserError
from vlmlaw.vlm import cost
from vlmlaw.vlm.cell_name import CELL_KEYS, cell_named_in

if TYPE_CHECKING:
    from vlmlaw.vlm.model import VlmForConditionalGeneration


def describe_cell(
    vlm: VlmForConditionalGeneration, folder: Path, *, n_text_tokens: int, question_tokens: int
) -> dict[str, Any]:
    """Cell, parameters, FLOPs with Q text tokens, and training time; `folder` is the cell's model/.

    `question_tokens` is the length of the question alone, which QueCC's pass reads. `visual_tokens` is V as the LLM
    reads it, averaged over its layers; the cell's own `n_visual_tokens` is what is kept.

    Raises UserError if the training.json beside the model is missing or describes something else.
    """
    path = folder.parent / "training.json"
    try:
        training = json.loads(path.read_text(encoding="utf-8"))
        trained_as = {name: training["settings"][name] for name in CELL_KEYS}
        seconds = {"train_seconds": training["wall_seconds"], "train_cpu_seconds": training["cpu_seconds"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} does not say which cell {folder} is ({error!r}); expected a cell's folder with model/ and "
            "training.json, as `vlmlaw train` makes it."
        ) from error
    flops = cost.inference_flops(vlm, n_text_tokens=n_text_tokens, question_tokens=question_tokens)
    # The weights may be those of many cells: the model itself says which of them it is.
    own = {name: getattr(vlm.config, name) for name in ("n_visual_tokens", "compressor", "compressor_options")}
    return {
        "cell": trained_as | own,
        "training": cell_named_in(trained_as),
        "parameters": asdict(cost.count_parameters(vlm)),
        "n_text_tokens": n_text_tokens,
        "question_tokens": question_tokens,
        "visual_tokens": round(cost.mean_visual_tokens(vlm), 3),
        "flops": asdict(flops) | {"all": flops.all},
        **seconds,
    }
