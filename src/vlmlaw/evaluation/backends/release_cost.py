"""What a released model costs for an image, from its configuration alone: tower FLOPs, N, KV cache.

The model's own class is built on torch's meta device, where weights have shapes and no bytes. A matrix that T tokens
pass costs 2 T times its entries, and an attention of width W over n patches 4 n^2 W in each layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmlaw.errors import UserError
from vlmlaw.evaluation.backends.token_rules import NativeGrid, Setting, TokenRule
from vlmlaw.vlm.memory import kept_numbers

NOT_SEEING = ("language_model", "text_model", "audio_tower", "embed_audio")
OF_CELLS = ("merger", "projector", "connector", "embed_vision")  # parts that read cells, after patches were merged
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# Kinds of layers in configurations, by what they keep of the tokens: all, a window, a state that does not grow.
KEEPS_ALL = ("full_attention", "attention", "minimax_m3_sparse")
KEEPS_A_WINDOW = ("sliding_attention", "chunked_attention")
KEEPS_A_STATE = ("linear_attention", "conv", "mamba", "moe", "mlp", "recurrent")
# One head for all queries, a prompt of its own, layers of different heads.
KEEPS_OTHERWISE = ("falcon", "gpt_bigcode", "cpmant", "mimo_v2_flash")


@dataclass(frozen=True)
class TowerCost:
    """Matrix entries that a patch passes when it is embedded, in the blocks, and that a cell passes; attention."""

    embedding: int
    blocks: int
    cells: int
    full_width: int  # of attention over a whole view, summed over layers
    windowed_width: int = 0  # over windows
    window_cells: int = 0  # along a window's side
    class_tokens: int = 0
    patches_of_view: int | None = None  # of a square input; else each cell has its own
    patches_of_cell: int = 1

    def flops(self, rule: TokenRule, height: int, width: int, setting: Setting) -> int:
        """FLOPs of tower and connector for an image under a setting."""
        total = 0
        for cells in rule.views(height, width, setting):
            patches = self.patches_of_view or cells * self.patches_of_cell
            n = patches + self.class_tokens
            total += 2 * (self.embedding * patches + self.blocks * n + self.cells * cells) + 4 * n**2 * self.full_width
        if self.windowed_width and isinstance(rule, NativeGrid):
            rows, columns = (_parts(n, self.window_cells) for n in rule.grid(height, width, setting))
            pairs = sum((r * c * self.patches_of_cell) ** 2 for r in rows for c in columns)
            total += 4 * pairs * self.windowed_width
        return total


def _parts(n: int, size: int) -> list[int]:
    return [size] * (n // size) + ([n % size] if n % size else [])


@dataclass(frozen=True)
class KvCache:
    """Bytes of keys and values: of a token in layers that keep all, and in those that keep a window."""

    full: int
    windowed: int = 0
    window: int = 0

    def bytes_of(self, n_tokens: int) -> int:
        return self.full * n_tokens + self.windowed * min(n_tokens, self.window)

    @classmethod
    def of_config(cls, config: Any, *, dtype: str) -> KvCache | None:
        """Of a language model's configuration; None where it does not tell what a layer keeps (see `kept_numbers`)."""
        if not hasattr(config, "num_attention_heads") or config.model_type in KEEPS_OTHERWISE:
            return None
        layers = getattr(config, "per_layer_config", None) or [config] * config.num_hidden_layers
        kinds = getattr(config, "layer_types", None)
        if kinds is None:
            kinds = [
                "sliding_attention" if getattr(own, "sliding_window", None) else "full_attention" for own in layers
            ]
        if not set(kinds) <= {*KEEPS_ALL, *KEEPS_A_WINDOW, *KEEPS_A_STATE}:
            return None
        kept = len(layers) - (getattr(config, "num_kv_shared_layers", None) or 0)  # the rest read those of earlier ones
        full = windowed = 0
        for kind, own in [*zip(kinds, layers, strict=True)][:kept]:
            size = BYTES[dtype] * kept_numbers(own) if kind not in KEEPS_A_STATE else 0
            full += size if kind in KEEPS_ALL else 0
            windowed += size if kind in KEEPS_A_WINDOW else 0
        window = getattr(config, "sliding_window", None) or getattr(config, "attention_chunk_size", None) or 0
        return cls(full, windowed, window)


@dataclass(frozen=True)
class ReleaseCost:
    """N as the law counts it, the tower, and the cache of a model."""

    n_params: float
    tower: TowerCost
    kv_cache: KvCache | None
    dtype: str


def cost_of_release(folder: Path, rule: TokenRule, *, dtype: str = "") -> ReleaseCost:
    """Count a model from config.json in its folder. dtype: of keys and values; "" as released.

    Raises UserError where transformers has no class for it.
    """
    model = bare_model(folder)
    config = model.config
    own = str(config.dtype or config.get_text_config().dtype or "bfloat16").removeprefix("torch.")
    dtype = dtype or (own if own in BYTES else "bfloat16")
    cache = KvCache.of_config(config.get_text_config(), dtype=dtype)
    return ReleaseCost(float(language_parameters(model)), tower_of(model, rule), cache, dtype)


def bare_model(folder: Path) -> Any:
    """The model of config.json in a folder, on the meta device: modules and shapes, no weights.

    Raises UserError where transformers has no class for it.
    """
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    try:
        config = AutoConfig.from_pretrained(folder)
        with torch.device("meta"):
            return AutoModelForImageTextToText.from_config(config)
    except (ValueError, KeyError) as error:
        raise UserError(
            f"{folder} is no model that answers questions about images, as this release of transformers reads its "
            f"config.json: {' '.join(str(error).split())[:300]}"
        ) from error


def language_parameters(model: Any) -> int:
    """The law's N: parameters of the language model that a token passes, its embeddings not among them."""
    from vlmlaw.vlm.cost import idle_parameters

    decoder = model.get_decoder()
    skipped = {id(weight) for weight in decoder.get_input_embeddings().parameters()}
    n_all = sum(weight.numel() for weight in decoder.parameters() if id(weight) not in skipped)
    return n_all - idle_parameters(decoder)


def image_token_id(config: Any) -> int:
    """The id that stands for a visual token in a prompt. Raises UserError where a configuration names none."""
    for name in ("image_token_id", "image_token_index"):
        found = getattr(config, name, None)
        if isinstance(found, int):
            return found
    raise UserError(
        f"the configuration of {config.model_type} names no image_token_id, so its visual tokens cannot be counted; "
        "ask it through a server with --endpoint."
    )


def tower_of(model: Any, rule: TokenRule) -> TowerCost:
    """Count the tower and connector of a model of transformers, from its modules; its weights may be without bytes."""
    from vlmlaw.vlm.cost import class_tokens

    sums = {"embedding": 0, "blocks": 0, "cells": 0, "full_width": 0, "windowed_width": 0}
    vision = model.config.vision_config
    whole = getattr(vision, "fullatt_block_indexes", None)  # Qwen2.5-VL: layers that see the whole image
    for name, module in model.model.named_modules():
        path = name.split(".")
        if path[0] in NOT_SEEING or "head" in path:  # a pooling head, whose output no language model reads
            continue
        if (n_entries := _entries(module)) and not any(word in part for part in path for word in OF_CELLS):
            sums["embedding" if "patch" in name else "blocks"] += n_entries
        elif n_entries:
            sums["cells"] += n_entries
        elif width := _attention_width(module):
            layer = next(int(part) for part in path if part.isdecimal())
            sums["full_width" if whole is None or layer in whole else "windowed_width"] += width
    patch = _side(vision.patch_size)
    cell_px = getattr(rule, "cell_px", None)
    return TowerCost(
        **sums,
        window_cells=vision.window_size // cell_px if sums["windowed_width"] and cell_px else 0,
        class_tokens=1 if vision.model_type == "internvl_vision" else class_tokens(vision),
        patches_of_view=None if cell_px else (_side(vision.image_size) // patch) ** 2,
        patches_of_cell=(cell_px // patch) ** 2 if cell_px else 1,
    )


def _side(size: Any) -> int:
    return int(size if isinstance(size, int) else size[0])


def _entries(module: Any) -> int:
    """Entries of a matrix that tokens pass; 0 of what is none."""
    from torch import nn

    if isinstance(module, (nn.Linear, nn.Conv2d, nn.Conv3d)):
        return int(module.weight.numel())
    own = getattr(module, "mm_input_projection_weight", None)  # Gemma 3's connector
    return 0 if own is None else int(own.numel())


def _attention_width(module: Any) -> int:
    """Width of all heads of an attention; 0 of what is none."""
    from torch import nn

    for name, times in (("q_proj", 1), ("qkv", 3)):
        part = getattr(module, name, None)
        if part is not None:
            linear = next(inner for inner in part.modules() if isinstance(inner, nn.Linear))
            return int(linear.out_features // times)
    return 0
