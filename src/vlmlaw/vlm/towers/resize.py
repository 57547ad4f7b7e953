"""Adapt a vision tower to another image size: its position embeddings are interpolated as its own class does it.

C width, N tokens of the tower (patches, and class tokens before them).
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from vlmlaw.errors import UserError

# Names of position embeddings: the weight of an nn.Embedding (CLIP, SigLIP), or a parameter (DINO, ViT).
TABLES = ("position_embedding.weight", "position_embeddings")


@torch.no_grad()
def resized(tower: PreTrainedModel, image_px: int) -> PreTrainedModel:
    """Return the tower for squares of `image_px`; the same one if that is its own size.

    The table of positions is computed once, by the class's own `interpolate_pos_encoding` in the tower's dtype, so that
    features are those that the class computes for such images. Raises UserError for a tower that cannot be
    interpolated, or whose patches do not fill the square.

    >>> from transformers import CLIPVisionConfig, CLIPVisionModel
    >>> shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    >>> larger = resized(CLIPVisionModel(CLIPVisionConfig(image_size=32, patch_size=8, **shape)), 48)
    >>> larger.config.image_size, larger(torch.zeros(1, 3, 48, 48)).last_hidden_state.shape
    (48, torch.Size([1, 37, 8]))
    """
    own = tower.config
    if image_px == own.image_size:
        return tower
    if image_px % own.patch_size:
        raise UserError(f"image_size {image_px} is no multiple of the tower's patches of {own.patch_size} pixels.")
    name, part = _positions(tower)
    state = tower.state_dict()
    key = next(f"{name}.{table}".lstrip(".") for table in TABLES if f"{name}.{table}".lstrip(".") in state)
    n_extra = state[key].numel() // own.hidden_size - (own.image_size // own.patch_size) ** 2  # such as a class token
    n_tokens = (image_px // own.patch_size) ** 2 + n_extra
    blank = torch.zeros(1, n_tokens, own.hidden_size, dtype=tower.dtype, device=tower.device)
    table_1NC: Tensor = part.interpolate_pos_encoding(blank, image_px, image_px)
    config = copy.deepcopy(own)
    config.image_size = image_px
    larger: Any = nn.Module.to(type(tower)(config), tower.device, tower.dtype)
    state[key] = table_1NC.reshape(larger.state_dict()[key].shape)
    larger.load_state_dict(state)
    return larger.train(tower.training).requires_grad_(any(p.requires_grad for p in tower.parameters()))


def _positions(tower: PreTrainedModel) -> tuple[str, Any]:
    """Find the module, with its name, that holds the tower's table of positions and can interpolate it."""
    found: list[tuple[str, nn.Module]] = [
        (name, part)
        for name, part in tower.named_modules()
        if callable(getattr(part, "interpolate_pos_encoding", None))
        and any(f"{table.split('.')[0]}" in {**part._parameters, **part._modules} for table in TABLES)
    ]
    if len(found) != 1:
        raise UserError(
            f"a tower of the type {tower.config.model_type} has no position embeddings that its class interpolates "
            f"(interpolate_pos_encoding), so it reads squares of {tower.config.image_size} only; leave out "
            "vision.image_size, or take a CLIP, SigLIP, ViT or DINOv2."
        )
    return found[0]


@torch.no_grad()
def require_own_features(tower: PreTrainedModel, larger: PreTrainedModel) -> None:
    """Raise UserError unless a resized tower's features are, bit for bit, those of its class for such an image."""
    side = larger.config.image_size
    pixels = torch.linspace(-1, 1, 3 * side * side, dtype=tower.dtype, device=tower.device).view(1, 3, side, side)
    found = larger(pixel_values=pixels).last_hidden_state
    try:
        expected = tower(pixel_values=pixels, interpolate_pos_encoding=True).last_hidden_state
    except TypeError:  # it has no such option, and interpolates by itself
        expected = tower(pixel_values=pixels).last_hidden_state
    if not torch.equal(found, expected):
        most = (found - expected).abs().max().item() if found.shape == expected.shape else float("nan")
        raise UserError(
            f"a tower of the type {tower.config.model_type} with vision.image_size {side} gives features that differ "
            f"by {most:.2g} from its class's own; leave out vision.image_size, or take another tower."
        )
