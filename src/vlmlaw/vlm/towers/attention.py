"""Importance and keys of patches, read from a vision tower's own attention.

Training-free compressors choose and merge patches by these (VisionZip, PruMerge, ToMe). They are read from the query
and key projections of the layer whose output the patches are, in the same pass; a tower without attention, such as the
miniature's, has neither, and `received_attention` of the patches stands in. B images, P patches, N tokens of the tower
(P, or more with class tokens before the patches), H heads, W width of a head.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from torch import Tensor, nn

from vlmlaw.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

QUERIES, KEYS = ("q_proj", "query"), ("k_proj", "key")  # what CLIP and SigLIP call them, and what ViT and DINO do


def has_attention(config: PreTrainedConfig) -> bool:
    """Whether a tower of this configuration is a transformer."""
    return getattr(config, "num_attention_heads", None) is not None


def key_widths(config: PreTrainedConfig) -> dict[str, int | None]:
    """Widths of the keys that `watched` reads: of one head (`attention`) and of all (`tower`); None without attention.

    >>> from transformers import CLIPVisionConfig
    >>> key_widths(CLIPVisionConfig(hidden_size=32, num_attention_heads=4))
    {'attention': 8, 'tower': 32}
    """
    if not has_attention(config):
        return {"attention": None, "tower": None}
    return {"attention": config.hidden_size // config.num_attention_heads, "tower": config.hidden_size}


class Watched:
    """The queries and keys of one layer, recorded during a pass of the tower inside `watched`.

    With one head (`n_heads` = 1) all channels together are the attention's, as PruMerge's released code has it.
    """

    def __init__(self, n_heads: int) -> None:
        self.n_heads = n_heads
        self.seen: dict[str, Tensor] = {}

    def read(self, n_patches: int) -> tuple[Tensor, Tensor]:
        """importance_BP and keys_BPW.

        importance is the class token's attention to each patch where there is one, else the mean attention that the
        patch receives from all (as VisionZip, arXiv 2412.04467, section 3.1); heads are averaged in both, and in the
        keys (as ToMe, arXiv 2210.09461, section 3).
        """
        q_BHNW, k_BHNW = (self._by_head(self.seen[which]) for which in ("q", "k"))
        has_class_token = q_BHNW.shape[2] > n_patches
        asking_BHNW = q_BHNW[:, :, :1] if has_class_token else q_BHNW
        scores_BHNN = asking_BHNW @ k_BHNW.transpose(-1, -2) / k_BHNW.shape[-1] ** 0.5
        importance_BN = scores_BHNN.float().softmax(dim=-1).mean(dim=(1, 2))
        return importance_BN[:, -n_patches:], k_BHNW.mean(dim=1)[:, -n_patches:]

    def _by_head(self, tokens_BND: Tensor) -> Tensor:
        return tokens_BND.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)


@contextmanager
def watched(tower: PreTrainedModel, *, layer: int, whole: bool = False) -> Iterator[Watched]:
    """Passes of the tower inside are watched at the layer that makes hidden state `layer` (negative: from the end).

    `whole` watches the tower's last layer instead, all channels as one head.
    Raises UserError for a tower whose layers name no query and key projections.
    """
    queries, keys = (_projections(tower, names) for names in (QUERIES, KEYS))
    if not queries or len(queries) != len(keys):
        raise UserError(
            f"{tower.config.model_type}: found no query and key projections ({', '.join((*QUERIES, *KEYS))}) in its "
            "layers; take a compressor that needs no attention of the tower, or a CLIP or SigLIP tower."
        )
    # Of the configured layers: those behind the last that is read may be left out of the pass.
    n_layers = tower.config.num_hidden_layers
    place = n_layers - 1 if whole else max(layer % (n_layers + 1) - 1, 0)
    if place >= len(queries):
        raise UserError(
            f"{tower.config.model_type}: found {len(queries)} layers, expected the attention of layer {place + 1}; "
            "load the tower with all its layers."
        )
    watch = Watched(1 if whole else tower.config.num_attention_heads)
    thread = threading.get_ident()

    def keep(name: str, output: Tensor) -> None:
        if threading.get_ident() == thread:  # another thread's pass is another watch's
            watch.seen[name] = output

    hooks = [
        part[place].register_forward_hook(lambda _module, _inputs, output, name=name: keep(name, output))
        for name, part in (("q", queries), ("k", keys))
    ]
    try:
        yield watch
    finally:
        for hook in hooks:
            hook.remove()


def _projections(tower: PreTrainedModel, names: tuple[str, ...]) -> list[nn.Module]:
    """The projection modules of this name in all layers, shallow to deep."""
    return [module for name, module in tower.named_modules() if name.rpartition(".")[2] in names]


def attention_flops(config: PreTrainedConfig, *, n_patches: int, n_tokens: int) -> int:
    """FLOPs of `Watched.read` for one image: one query or N of them over N keys."""
    n_queries = 1 if n_tokens > n_patches else n_tokens
    return 2 * n_queries * n_tokens * config.hidden_size


def received_importance(patches_BPC: Tensor) -> Tensor:
    """The stand-in for a tower without attention: see `compressors.received_attention`."""
    from vlmlaw.compressors import received_attention
    from vlmlaw.compressors.base import without_autocast

    with without_autocast(patches_BPC.device):
        return received_attention(patches_BPC.float())
