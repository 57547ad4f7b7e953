"""The ONE table of released families: by `model_type`, which knob of the processor makes fewer visual tokens.

A row reads the numbers from the checkpoint's own files, so that two releases of one family may differ. A type that is
not here can be shown an image as its processor would by itself, or not at all.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmlaw.errors import UserError
from vlmlaw.evaluation.backends.tile_rules import AspectTiles, NativeOrTiles, PanAndScan, Pinpoints, SplitTiles
from vlmlaw.evaluation.backends.token_rules import (
    FixedBesidePatches,
    FixedTokens,
    LongestEdge,
    NativeGrid,
    SoftTokens,
    TokenRule,
)

PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")


@dataclass(frozen=True)
class Release:
    """A checkpoint's files, as read: config.json, the image processor's part, and the processor's own."""

    config: Mapping[str, Any]
    image: Mapping[str, Any]
    processor: Mapping[str, Any]

    @property
    def vision(self) -> Mapping[str, Any]:
        return self.config.get("vision_config") or {}

    @property
    def patches_px(self) -> tuple[int, int]:
        """Side of an image and of a patch, of a vision transformer with a square input."""
        return self.vision.get("image_size", 224), self.vision.get("patch_size", 16)


def read_release(folder: Path) -> Release:
    """Read a checkpoint's folder. Raises UserError where a file is missing that says how images are prepared."""
    config = _json(folder / "config.json")
    if not config:
        raise UserError(f"{folder} holds no checkpoint; expected a folder with config.json and its processor's files.")
    preprocessor, processor = (_json(folder / name) for name in PROCESSOR_FILES)
    if not preprocessor and not processor:
        raise UserError(
            f"{folder} has neither {' nor '.join(PROCESSOR_FILES)}, which say how an image becomes visual tokens; "
            "expected a vision-language checkpoint as released."
        )
    return Release(config, {**preprocessor, **processor.get("image_processor", {})}, processor)


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise UserError(f"{path} is no JSON ({error}); download the checkpoint again.") from error
    return found


def rule_of(release: Release) -> TokenRule | None:
    """The family's rule with this release's numbers; None for a family that the table has not."""
    make = FAMILIES.get(str(release.config.get("model_type", "")))
    return make(release) if make else None


def _size(release: Release, key: str, default: int) -> int:
    size = release.image.get("size") or {}
    return int(size.get(key) or default)


def _clip_side(release: Release) -> tuple[int, int]:
    """Patches along a view's side, and its pixels."""
    px, patch = release.patches_px
    crop = release.image.get("crop_size") or {}
    return int(crop.get("height") or px) // patch, px


def _beside_patches(release: Release) -> int:
    """How many tokens a view has more than patches: its strategy is to leave the first out, or to keep them all.

    The first is CLIP's class token; SigLIP, LLaVA-Interleave's tower, has none.
    """
    has_class_token = not str(release.vision.get("model_type", "clip")).startswith("siglip")
    return int(has_class_token) - int(release.config.get("vision_feature_select_strategy", "default") == "default")


def _llava(release: Release) -> TokenRule:
    if release.vision.get("model_type") == "pixtral":
        return _pixtral(release)
    beside, n_patches = _beside_patches(release), _clip_side(release)[0] ** 2
    return (FixedBesidePatches if beside else FixedTokens)(n_patches + beside)


def _llava_next(release: Release) -> TokenRule:
    side, px = _clip_side(release)
    return Pinpoints(side, px, _pinpoints(release), extra=_beside_patches(release))


def _llava_onevision(release: Release) -> TokenRule:
    px, patch = release.patches_px
    ratio = str(release.config.get("vision_aspect_ratio", "anyres_max_9"))
    return Pinpoints(px // patch, px, _pinpoints(release), most_views=int(ratio.rpartition("_")[2]))


def _pinpoints(release: Release) -> tuple[tuple[int, int], ...]:
    found = release.image.get("image_grid_pinpoints") or release.config.get("image_grid_pinpoints")
    if not found:
        raise UserError("its files name no `image_grid_pinpoints`, which this family's processor needs.")
    return tuple((int(h), int(w)) for h, w in found)


def _qwen(release: Release) -> TokenRule:
    image = release.image
    cell = image.get("patch_size", 14) * image.get("merge_size", 2)
    return NativeGrid(
        cell,
        min_pixels=int(image.get("min_pixels") or _size(release, "shortest_edge", 56 * 56)),
        max_pixels=int(image.get("max_pixels") or _size(release, "longest_edge", 28 * 28 * 1280)),
    )


def _pixtral(release: Release) -> TokenRule:
    merge = int(release.processor.get("spatial_merge_size") or release.config.get("spatial_merge_size") or 1)
    patch = release.image.get("patch_size") or release.vision.get("patch_size", 16)
    patch = patch["height"] if isinstance(patch, Mapping) else patch
    return LongestEdge(int(patch) * merge, _size(release, "longest_edge", 1024))


def _idefics(release: Release) -> TokenRule:
    px, patch = release.patches_px
    scale = release.config.get("scale_factor", 2)
    per_tile = int(release.processor.get("image_seq_len") or (px // patch // scale) ** 2)
    tile = int((release.image.get("max_image_size") or {}).get("longest_edge", 364))
    splits = bool(release.image.get("do_image_splitting", True))
    return SplitTiles(per_tile, tile, _size(release, "longest_edge", 4 * 364), splits)


def _gemma3(release: Release) -> TokenRule:
    return PanAndScan(int(release.processor.get("image_seq_length") or release.config.get("mm_tokens_per_image", 256)))


def _gemma4(release: Release) -> TokenRule:
    image = release.image
    return SoftTokens(
        image.get("patch_size", 16) * image.get("pooling_kernel_size", 3), image.get("max_soft_tokens", 280)
    )


def _internvl(release: Release) -> TokenRule:
    per_tile = int(release.processor.get("image_seq_length") or release.config.get("image_seq_length", 256))
    return _aspect_tiles(release, per_tile)


def _aya(release: Release) -> TokenRule:
    own = release.processor
    patch = own.get("patch_size", 28) * own.get("downsample_factor", 1)
    return _aspect_tiles(release, (own.get("img_size", 364) // patch) ** 2)


def _aspect_tiles(release: Release, per_tile: int) -> TokenRule:
    """Whatever the file's `crop_to_patches` says (false, in InternVL's releases), their processors cut by default."""
    image = release.image
    least, most = image.get("min_patches", 1), image.get("max_patches", 12)
    return AspectTiles(per_tile, _size(release, "height", 384), least, most)


def _lfm2(release: Release) -> TokenRule:
    image = release.image
    return NativeOrTiles(
        cell_px=image.get("encoder_patch_size", 16) * image.get("downsample_factor", 2),
        min_tokens=image.get("min_image_tokens", 64),
        max_tokens=image.get("max_image_tokens", 256),
        tile_px=image.get("tile_size", 512),
        least_tiles=image.get("min_tiles", 2),
        most_tiles=image.get("max_tiles", 10),
        tolerance=image.get("max_pixels_tolerance", 2.0),
        splits=bool(image.get("do_image_splitting", True)),
        thumbnail=bool(image.get("use_thumbnail", True)),
    )


def _paligemma(release: Release) -> TokenRule:
    px, patch = release.patches_px
    return FixedTokens(int(release.processor.get("image_seq_length") or math.floor(px / patch) ** 2))


FAMILIES: dict[str, Callable[[Release], TokenRule]] = {
    "llava": _llava,
    "vipllava": _llava,
    "llava_next": _llava_next,
    "llava_onevision": _llava_onevision,
    "idefics3": _idefics,
    "smolvlm": _idefics,
    "gemma3": _gemma3,
    "gemma4": _gemma4,
    "internvl": _internvl,
    "aya_vision": _aya,
    "qwen2_vl": _qwen,
    "qwen2_5_vl": _qwen,
    "qwen3_vl": _qwen,
    "qwen3_vl_moe": _qwen,
    "mistral3": _pixtral,
    "lfm2_vl": _lfm2,
    "paligemma": _paligemma,
}
