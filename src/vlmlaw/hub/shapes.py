"""The architecture of a pretrained model, from its config.json, without its weights.

It lets an experiment be checked, and its cost be estimated, without a download: a config that is neither in a local
folder nor in the hub's cache comes from a table of well-known models (models.json). When a model is fetched, its config
is compared with the table; sizes and costs in the results are counted on the loaded model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from vlmlaw.errors import UserError
from vlmlaw.hub.download import download

TABLE = Path(__file__).parent / "models.json"
VISION_DEFAULTS = {  # transformers does not write a key to config.json that has its class's default
    "clip_vision_model": {"hidden_size": 768, "num_hidden_layers": 12, "image_size": 224, "patch_size": 32},
    "siglip_vision_model": {"hidden_size": 768, "num_hidden_layers": 12, "image_size": 224, "patch_size": 16},
}


@dataclass(frozen=True)
class Tower:
    """Shape of a vision tower. Its hidden states are numbered 0 (the embedding) to num_hidden_layers."""

    hidden_size: int
    num_hidden_layers: int
    image_px: int
    patch_px: int

    @classmethod
    def of_config(cls, config: Mapping[str, Any], *, image_size: int | None = None) -> Tower:
        """Read the shape from a config.json; `image_size` replaces the config's own."""
        own = vision_config(config, image_size=image_size)
        return cls(own["hidden_size"], own["num_hidden_layers"], own["image_size"], own["patch_size"])

    @property
    def grid_side(self) -> int:
        """Number of patches along one side of the image."""
        return self.image_px // self.patch_px


def config_of(source: str, revision: str = "main") -> Mapping[str, Any]:
    """Return a model's config.json from a folder, the hub's cache, the table or the hub.

    Raises UserError if none has it.
    """
    folder = Path(source)
    return _config_in(folder.resolve()) if folder.is_dir() else _config_from_hub(source, revision)


@cache
def _config_in(folder: Path) -> Mapping[str, Any]:
    return read_config(folder)


@cache
def _config_from_hub(source: str, revision: str) -> Mapping[str, Any]:
    from huggingface_hub import try_to_load_from_cache

    try:
        cached = try_to_load_from_cache(source, "config.json", revision=revision)
    except ValueError:  # not a valid name on the hub; the download reports that
        cached = None
    if isinstance(cached, str):
        return read_config(Path(cached).parent)
    known = known_shape(source)
    return known if known is not None else read_config(download(source, revision, ["config.json"]))


def known_shape(source: str) -> Mapping[str, Any] | None:
    """Return the model's entry in the table of well-known models; None if it has none."""
    return json.loads(TABLE.read_text(encoding="utf-8")).get(source)


def vision_config(config: Mapping[str, Any], *, image_size: int | None = None) -> Mapping[str, Any]:
    """Return the vision tower's part of a config (CLIP's and SigLIP's configs also describe a text model).

    `image_size` replaces the config's own. Raises UserError if the tower has no square grid of patches of a fixed size,
    or if its patches do not fill images of that size.
    """
    own = config.get("vision_config", config)
    kind = own.get("model_type") or f"{config.get('model_type')}_vision_model"
    own = {**VISION_DEFAULTS.get(kind, {}), **own, "model_type": kind}
    sizes = [own.get(key) for key in ("hidden_size", "num_hidden_layers", "image_size", "patch_size")]
    if not all(isinstance(size, int) for size in sizes):
        raise UserError(
            f"a vision tower of the type {kind} does not say hidden_size, num_hidden_layers, image_size and patch_size "
            "as numbers; expected one with a square grid of a fixed size, such as CLIP, SigLIP or DINOv2. Of a network "
            "that ends in a feature map (ResNet), `vlmlaw.vlm.towers.feature_map.feature_map_tower` makes one."
        )
    if image_size is None:
        return own
    if image_size % (patch := own["patch_size"]):
        fitting = f"{image_size // patch * patch or patch} or {(image_size // patch + 1) * patch}"
        raise UserError(
            f"vision.image_size {image_size} is no multiple of the tower's patch of {patch}; take {fitting}."
        )
    return {**own, "image_size": image_size}


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the language model's part of a config. Raises UserError if it lacks a hidden size or number of layers."""
    own = config.get("text_config", config)
    if not isinstance(own.get("hidden_size"), int) or not isinstance(own.get("num_hidden_layers"), int):
        raise UserError(f"{own.get('model_type')} is not a language model that AutoModelForCausalLM can load.")
    return own


def shape_of(config: Mapping[str, Any]) -> Any:
    """Return the config as an object with attributes, which the functions that count FLOPs and memory expect."""
    return SimpleNamespace(**{"num_key_value_heads": config.get("num_attention_heads"), **config})


def text_shape(config: Mapping[str, Any]) -> Any:
    """Return the language model's part of a config, with its class's defaults for what it leaves out.

    A multimodal model's config.json leaves out what its language model has as its class's default, such as the number
    of heads. Of an architecture that transformers does not know, the values alone are returned.
    """
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    own = text_config(config)
    return AutoConfig.for_model(**own) if own.get("model_type") in CONFIG_MAPPING else shape_of(own)


def read_config(folder: Path) -> Mapping[str, Any]:
    """Read a model's config.json. Raises UserError if it cannot be read."""
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} holds no pretrained model: its config.json cannot be read ({error}).") from error
