"""Weights of the published QueCC and TokenPacker modules, read into ours and into the projector after them.

Names are kept, so the map is short: TokenPacker's `mlp.N.*` is the model's projector (`N.*`: linear, GELU, linear
to the LLM's width); everything else has the same name here. QueCC's projector is LLaVA's `mm_projector`, outside
the module: nothing of it is expected among these weights. A projector's weights go into the model's `projector.mlp`;
the LayerNorm before it has no counterpart in the published models, whose answers it changes until it is trained.
"""

from collections.abc import Mapping

from torch import Tensor

from vlmlaw.compressors.base import Compressor
from vlmlaw.errors import UserError

PROJECTOR_INSIDE = {"tokenpacker": "mlp."}  # by compressor; the others' modules end before the projector


def split_published(
    compressor: Compressor, weights: Mapping[str, Tensor], *, prefix: str = ""
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(state dict for this compressor, state dict for the projector) from a published checkpoint.

    Reads the names that start with `prefix` (in LLaVA checkpoints "model.mm_projector." for TokenPacker) and
    leaves the others. Raises UserError where names are missing or unknown or a shape differs.

    >>> import torch
    >>> from vlmlaw.compressors import build_compressor
    >>> compressor = build_compressor("tokenpacker", grid_side=4, width=8, n_visual_tokens=4)
    >>> weights = {f"model.mm_projector.{key}": value for key, value in compressor.state_dict().items()}
    >>> weights["model.mm_projector.mlp.0.bias"] = torch.zeros(16)
    >>> own, projector = split_published(compressor, weights, prefix="model.mm_projector.")
    >>> own.keys() == compressor.state_dict().keys(), list(projector)
    (True, ['0.bias'])
    """
    inside = PROJECTOR_INSIDE.get(compressor.name)
    own: dict[str, Tensor] = {}
    projector: dict[str, Tensor] = {}
    for key, tensor in weights.items():
        if not key.startswith(prefix):
            continue
        short = key.removeprefix(prefix)
        if inside and short.startswith(inside):
            projector[short.removeprefix(inside)] = tensor
        else:
            own[short] = tensor
    _compare(compressor, own, prefix)
    return own, projector


def _compare(compressor: Compressor, found: Mapping[str, Tensor], prefix: str) -> None:
    expected = {key: tuple(tensor.shape) for key, tensor in compressor.state_dict().items()}
    problems = [f"{key}: missing, expected shape {expected[key]}" for key in expected if key not in found]
    problems += [f"{key}: unknown" for key in found if key not in expected]
    problems += [
        f"{key}: found shape {tuple(found[key].shape)}, expected {expected[key]}"
        for key in expected
        if key in found and tuple(found[key].shape) != expected[key]
    ]
    if problems:
        raise UserError(
            f"published weights for compressor {compressor.name} (names under {prefix!r}) do not fit its width, "
            f"levels or V = {compressor.n_visual_tokens}: " + "; ".join(problems) + "."
        )
