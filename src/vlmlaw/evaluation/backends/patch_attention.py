"""A released tower's patches before the connector, and its attention to each, recorded while features are made.

Read from queries and keys of the layer whose output becomes the features, as for cells that are trained here
(vlm/towers/attention.py): the class token's attention, or what a patch receives where the tower has none.
Shapes: I images, P patches of one, C width of the tower.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from vlmlaw.evaluation.backends.feature_compressor import NOTHING, Beside
from vlmlaw.vlm.towers.attention import Watched, watched


@dataclass
class Attended:
    """What was recorded; of a model that was not watched, nothing."""

    watch: Watched | None = None
    patches_IPC: Tensor | None = None
    connector: Any = None
    class_IC: Tensor | None = None

    def of(self, start: int, n: int) -> Beside:
        """Of the n features that begin at `start`: patches, importance, keys; the class token of their image."""
        if self.watch is None or self.patches_IPC is None:
            return NOTHING
        n_patches = self.patches_IPC.shape[1]
        importance_IP, keys_IPH = self.watch.read(n_patches)
        return Beside(
            patches_PC=self.patches_IPC.flatten(0, 1)[start : start + n],
            importance_P=importance_IP.flatten()[start : start + n],
            keys_PH=keys_IPH.flatten(0, 1)[start : start + n],
            class_C=None if self.class_IC is None else self.class_IC[start // n_patches],
            connector=self.connector,
        )


@contextmanager
def attended(base: Any, *, on: bool, last_layer: bool = False) -> Iterator[Attended]:
    """Record the tower of a model of transformers in this block, where `on`; the connector reads its patches.

    last_layer: importance and keys of the tower's last layer, all channels as one head.
    """
    if not on:
        yield Attended()
        return
    found = Attended(connector=base.multi_modal_projector)
    layer = getattr(base.config, "vision_feature_layer", None)
    layer = layer if isinstance(layer, int) else -1

    def keep_patches(_module: Any, inputs: tuple[Any, ...]) -> None:
        found.patches_IPC = inputs[0]

    def keep_class(_module: Any, _inputs: Any, output: Any) -> None:
        if has_class_token(base.config.vision_config):
            found.class_IC = output.hidden_states[layer][:, 0]

    hooks = [
        base.multi_modal_projector.register_forward_pre_hook(keep_patches),
        base.vision_tower.register_forward_hook(keep_class),
    ]
    try:
        with watched(base.vision_tower, layer=layer, whole=last_layer) as found.watch:
            yield found
    finally:
        for hook in hooks:
            hook.remove()


def has_class_token(vision_config: Any) -> bool:
    """Whether a tower puts a class token before its patches: CLIP's does, SigLIP's does not."""
    return str(vision_config.model_type).startswith("clip")
