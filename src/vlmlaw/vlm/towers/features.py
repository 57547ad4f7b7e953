"""Patch features of any vision tower: hidden states of chosen layers, without computing the layers behind them.

B images, P patches in raster order, C tower width, L levels, K = L * C.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from vlmlaw.errors import UserError


def patch_features(tower: PreTrainedModel, pixel_values: Tensor, *, layers: Sequence[int]) -> Tensor:
    """Features (B, P, K) of the tower's hidden states `layers`, concatenated; class tokens are left out."""
    return patch_and_class_features(tower, pixel_values, layers=layers)[0]


def patch_and_class_features(
    tower: PreTrainedModel, pixel_values: Tensor, *, layers: Sequence[int]
) -> tuple[Tensor, Tensor | None]:
    """`patch_features`, and the class token's features (B, K) of a tower that has one before its patches.

    Images smaller than the tower's own have fewer patches, at positions between those that the tower learned.
    """
    options = _options_for(tower, pixel_values.shape[-1])
    states = tower(pixel_values=pixel_values, output_hidden_states=True, return_dict=True, **options).hidden_states
    n_patches = (pixel_values.shape[-1] // tower.config.patch_size) ** 2
    read = torch.cat([states[i] for i in _from_the_start(tower.config, layers)], dim=-1)
    return read[:, -n_patches:], read[:, 0] if read.shape[1] > n_patches else None


def _options_for(tower: PreTrainedModel, image_px: int) -> dict[str, bool]:
    """Return the option with which transformers' towers accept another image size; DINOv2's and ours need none."""
    own = image_px == tower.config.image_size or "interpolate_pos_encoding" not in signature(tower.forward).parameters
    return {} if own else {"interpolate_pos_encoding": True}


def _from_the_start(vision_config: Any, layers: Sequence[int]) -> list[int]:
    """Return non-negative indices of hidden states, of which there is one more than there are layers."""
    return [layer % (vision_config.num_hidden_layers + 1) for layer in layers]


def layers_read(vision_config: Any, layers: Sequence[int]) -> int:
    """Return how many of the tower's layers must be computed for these hidden states."""
    return max(1, *_from_the_start(vision_config, layers))


def layer_stack(tower: PreTrainedModel) -> nn.ModuleList | None:
    """Return the list of the tower's layers; None if they are not in one plain list."""
    n_layers = tower.config.num_hidden_layers
    stacks = [part for part in tower.modules() if isinstance(part, nn.ModuleList) and len(part) == n_layers]
    return stacks[0] if len(stacks) == 1 else None


@contextmanager
def without_unused_layers(tower: PreTrainedModel, *, layers: Sequence[int]) -> Iterator[None]:
    """Within this block, skip the layers behind the last hidden state that is read: LLaVA reads the last but one.

    Towers whose layers are not in one plain list stay as they are.
    """
    n_needed, stack = layers_read(tower.config, layers), layer_stack(tower)
    if stack is None:
        yield
        return
    dropped = list(stack[n_needed:])
    del stack[n_needed:]
    try:
        yield
    finally:
        stack.extend(dropped)


def grid_side(vision_config: PreTrainedConfig) -> int:
    """Return the number of patches along a side of the image."""
    return vision_config.image_size // vision_config.patch_size


@torch.no_grad()
def require_usable(tower: PreTrainedModel) -> None:
    """Raise UserError unless the hidden states are tokens of a square grid, with any extra tokens before them."""
    config, kind = tower.config, tower.config.model_type
    side, n_states = grid_side(config), config.num_hidden_layers + 1
    expected = f"{n_states} hidden states of {side} x {side} patches, width {config.hidden_size}"
    try:
        pixels = torch.zeros(1, 3, config.image_size, config.image_size, dtype=tower.dtype, device=tower.device)
        states = tower(pixel_values=pixels, output_hidden_states=True, return_dict=True).hidden_states
        shapes = {tuple(state.shape) for state in states}
    except Exception as error:  # whatever a class of the hub raises on an image alone
        raise UserError(f"a tower of the type {kind} cannot read an image alone ({error!r}); {HELP}") from error
    fits = len(shapes) == 1 and all(
        len(shape) == 3 and shape[1] >= side**2 and shape[2] == config.hidden_size for shape in shapes
    )
    if len(states) != n_states or not fits:
        raise UserError(
            f"a tower of the type {kind} gives {len(states)} states of {shapes}; expected {expected}. {HELP}"
        )


HELP = "Take a tower with a square grid of patches of a fixed size, such as CLIP, SigLIP or DINOv2."
