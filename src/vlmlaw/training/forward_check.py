"""Before the first step, compare a small batch as the training reads it with the language model's own forward."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vlmlaw.errors import UserError
from vlmlaw.tokens.token_table import IGNORE_INDEX
from vlmlaw.vlm.image_inputs import ImageInputs
from vlmlaw.vlm.reference import require_layout

if TYPE_CHECKING:
    from vlmlaw.training.batches import StepPasses
    from vlmlaw.training.distributed import Machine
    from vlmlaw.vlm.model import VlmForConditionalGeneration

# Mean difference of a token's loss, of which bfloat16 rounding causes about 0.01.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.05}


def choose_layout(model: VlmForConditionalGeneration, passes_of: StepPasses, *, what: str, machine: Machine) -> None:
    """Choose the first layout that is exact for this language model, and say so if it is not the preferred one.

    The first process finds it, because it alone has the weights yet. Raises UserError if no layout is exact.
    """
    llm = model.language_model
    found = require_layout(llm, preferred=passes_of.layouts) if machine.is_first else None
    layout, why_not = machine.from_first(found)
    if layout != passes_of.layouts[0]:
        passes_of.use(layout)
        if machine.is_first:
            reason = f"since {type(llm).__name__} cannot be read exactly otherwise ({why_not})"
            print(f"{what}: trained on padded rows, a row for each question, {reason}.", file=sys.stderr)


@torch.no_grad()
def check_forward(
    model: VlmForConditionalGeneration, passes_of: StepPasses, *, what: str, machine: Machine, dtype: torch.dtype
) -> None:
    """Compare the token losses of a few records with those of the language model's own forward, record by record.

    Raises UserError with the numbers if they differ by more than rounding in `dtype`. Compressors inside the language
    model change what it reads, and are not checked.
    """
    if model.compressor.inside_llm:
        return
    model.eval()
    inputs, alone = (_moved(given, machine.device) for given in passes_of.checked_and_alone())
    with torch.compiler.set_stance("force_eager"):
        found_n = _token_losses(model(**inputs, use_cache=False).logits, inputs["targets"])
        expected_n = _token_losses(model(**alone, by_own_forward=True).logits, alone["targets"])
    by_token_n = (found_n - expected_n).abs()
    mean, most = by_token_n.mean().item(), by_token_n.max().item()
    if not mean <= TOLERANCE[dtype]:
        own = f"{type(model.language_model).__name__}'s own forward, one record at a time"
        raise UserError(
            f"{what}: on {len(passes_of.records_to_check())} records the loss is {found_n.mean():.4f} as the training "
            f"reads them and {expected_n.mean():.4f} by {own}; tokens differ by {mean:.2g} on average and {most:.2g} "
            f"at most, expected {TOLERANCE[dtype]} on average. Nothing was trained. Set `compute.layout: padded`, or "
            "take another language model."
        )


def _token_losses(logits_nV: Tensor, targets_BT: Tensor) -> Tensor:
    return F.cross_entropy(logits_nV.float(), targets_BT[targets_BT != IGNORE_INDEX], reduction="none")


def _moved(inputs: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Move the model's arguments to its device."""
    takes = (Tensor, ImageInputs)
    return {name: value.to(device) if isinstance(value, takes) else value for name, value in inputs.items()}
