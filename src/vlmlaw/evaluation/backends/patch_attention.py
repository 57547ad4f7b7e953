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

from vlmlaw.vlm.towers.attention import Watched, watched


@dataclass
class Attended:
    """What was recorded; of a model that was not watched, nothing."""

    watch: Watched | None = None
    patches_IPC: Tensor | None = None

    def of(self, start: int, n: int) -> tuple[Tensor | None, Tensor | None]:
        """(n, C) patches and their (n,) importance, of the features that begin at `start`."""
        if self.watch is None or self.patches_IPC is None:
            return None, None
        importance_IP, _ = self.watch.read(self.patches_IPC.shape[1])
        return self.patches_IPC.flatten(0, 1)[start : start + n], importance_IP.flatten()[start : start + n]


@contextmanager
def attended(base: Any, *, on: bool) -> Iterator[Attended]:
    """Record the tower of a model of transformers in this block, where `on`; the connector reads its patches."""
    found = Attended()
    if not on:
        yield found
        return

    def keep(_module: Any, inputs: tuple[Any, ...]) -> None:
        found.patches_IPC = inputs[0]

    layer = getattr(base.config, "vision_feature_layer", None)
    hook = base.multi_modal_projector.register_forward_pre_hook(keep)
    try:
        with watched(base.vision_tower, layer=layer if isinstance(layer, int) else -1) as found.watch:
            yield found
    finally:
        hook.remove()
