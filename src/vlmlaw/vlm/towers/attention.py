"""Importance and keys of patches, read from the attention of a vision tower.

Training-free compressors use them to select and merge patches (VisionZip, PruMerge, ToMe). Forward hooks record the
query and key projections of the layer whose output the patches are, so no second pass is needed. A tower without
attention, such as the miniature's, falls back to `received_attention` of the patches. B images, P patches, N tokens of
the tower (P, plus class tokens in front of the patches), H heads, W width of a head.
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

QUERIES, KEYS = ("q_proj", "query"), ("k_proj", "key")  # names in CLIP and SigLIP, and in ViT and DINO


def has_attention(config: PreTrainedConfig) -> bool:
    """Whether a tower of this configuration is a transformer."""
    return getattr(config, "num_attention_heads", None) is not None


def key_widths(config: PreTrainedConfig) -> dict[str, int | None]:
    """Widths of the keys that `watched` records: of one head (`attention`), of all (`tower`); None without attention.

    >>> from transformers import CLIPVisionConfig
    >>> key_widths(CLIPVisionConfig(hidden_size=32, num_attention_heads=4))
    {'attention': 8, 'tower': 32}
    """
    if not has_attention(config):
        return {"attention": None, "tower": None}
    return {"attention": config.hidden_size // config.num_attention_heads, "tower": config.hidden_size}


class Watched:
    """Queries and keys of one layer, recorded during a forward pass of the tower inside `watched`.

    With `n_heads` = 1, attention is computed over all channels at once, as in PruMerge's released code.
    """

    def __init__(self, n_heads: int) -> None:
        self.n_heads = n_heads
        self.seen: dict[str, Tensor] = {}

    def read(self, n_patches: int) -> tuple[Tensor, Tensor]:
        """Return importance_BP and keys_BPW.

        Importance is the class token's attention to each patch or, without a class token, the mean attention that the
        patch receives from all tokens (VisionZip, arXiv 2412.04467, section 3.1), averaged over heads; keys are also
        averaged over heads (ToMe, arXiv 2210.09461, section 3).
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
    """Record queries and keys of the layer that outputs hidden state `layer` (negative: from the end) in this block.

    `whole` records the tower's last layer instead, with all channels as one head.
    Raises UserError if no query and key projections are found in the tower's layers.
    """
    queries, keys = (_projections(tower, names) for names in (QUERIES, KEYS))
    if not queries or len(queries) != len(keys):
        raise UserError(
            f"{tower.config.model_type}: found no query and key projections ({', '.join((*QUERIES, *KEYS))}) in its "
            "layers; take a compressor that needs no attention of the tower, or a CLIP or SigLIP tower."
        )
    # Counted over the configured layers: the tower may have been loaded without those after the last that is read.
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
        if threading.get_ident() == thread:  # a pass in another thread is recorded by that thread's own block
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
    """Projection modules with one of these names, from the first layer to the last."""
    return [module for name, module in tower.named_modules() if name.rpartition(".")[2] in names]


def attention_flops(config: PreTrainedConfig, *, n_patches: int, n_tokens: int) -> int:
    """FLOPs of `Watched.read` for one image: one query (class token) or N queries over N keys."""
    n_queries = 1 if n_tokens > n_patches else n_tokens
    return 2 * n_queries * n_tokens * config.hidden_size


def received_importance(patches_BPC: Tensor) -> Tensor:
    """Importance for a tower without attention: see `compressors.received_attention`."""
    from vlmlaw.compressors import received_attention
    from vlmlaw.compressors.base import without_autocast

    with without_autocast(patches_BPC.device):
        return received_attention(patches_BPC.float())
