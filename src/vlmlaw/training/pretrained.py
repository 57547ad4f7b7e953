"""Fetch a vision tower or a language model, and refuse one that a training could not use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmlaw.errors import UserError
from vlmlaw.hub.fetch import TOKENIZER_PATTERNS, fetch_files
from vlmlaw.hub.pins import CONFIG_FILES, WEIGHT_FILES, Opened, pin_of, write_pin
from vlmlaw.hub.shapes import config_of, read_config, text_config, vision_config
from vlmlaw.runtime.whole_files import whole_folder

if TYPE_CHECKING:
    from vlmlaw.hub.settings import ModelSettings, TowerSettings


def fetch_vision(out: Path, *, settings: ModelSettings | TowerSettings) -> None:
    """Fetch a vision tower and write its pin to `out`. Raises UserError if it cannot be used or lacks weights."""
    from vlmlaw.vlm.cost import vision_flops
    from vlmlaw.vlm.towers.features import require_usable
    from vlmlaw.vlm.towers.load import load_tower, pixel_statistics
    from vlmlaw.vlm.towers.resize import require_own_features

    planned = config_of(settings.source, settings.revision)
    folder, commit = fetch_files(settings, (*CONFIG_FILES, *WEIGHT_FILES))
    _require_same_shape(settings.source, vision_config(planned), vision_config(read_config(folder)))
    mean, std = pixel_statistics(folder)
    pin = pin_of(folder, settings, commit=commit, image_mean=mean, image_std=std)
    tower = load_tower(Opened(folder, pin))
    require_usable(tower)
    if (image_size := getattr(settings, "image_size", None)) not in (None, tower.config.image_size):
        pin = replace(pin, image_size=image_size)
        larger = load_tower(Opened(folder, pin))
        require_own_features(tower, larger)
        tower = larger
    vision_flops(tower.config)
    with whole_folder(out) as partial:
        write_pin(pin, partial)


def fetch_language_model(tokenizer: Path, out: Path, *, settings: ModelSettings) -> None:
    """Fetch a language model and write its pin to `out`, with the tokenizer that all sizes share.

    Raises UserError if its own tokenizer differs from that.
    """
    import shutil

    from vlmlaw.tokens.tokenizer import require_same_tokens

    patterns = (*CONFIG_FILES, *WEIGHT_FILES, *TOKENIZER_PATTERNS)
    planned = config_of(settings.source, settings.revision)
    folder, commit = fetch_files(settings, patterns)
    _require_same_shape(settings.source, text_config(planned), text_config(read_config(folder)))
    require_same_tokens(folder, tokenizer, settings=settings)
    with whole_folder(out) as partial:
        write_pin(pin_of(folder, settings, commit=commit), partial)
        for file in tokenizer.iterdir():
            shutil.copyfile(file, partial / file.name)


def _require_same_shape(source: str, planned: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Raise UserError if the model does not have the shape that the experiment was planned with."""
    wrong = {key: value for key, value in planned.items() if key in found and found[key] != value}
    if wrong:
        told = ", ".join(f"{key} {value} but has {found[key]}" for key, value in wrong.items())
        raise UserError(
            f"{source} was planned with {told}: the table of shapes (models.json) is wrong, or the revision "
            "is another. The model's own config.json is here now and goes before the table; start again."
        )
