"""Families whose releases of every size prepare images alike, so that a family's name says V without any file.

Numbers are those of the released configurations and processors; where sizes of a family differ (SmolVLM, LFM2-VL,
LLaVA-OneVision, Mistral 3), its name says nothing, and a checkpoint's own files are asked for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from vlmlaw.errors import UserError
from vlmlaw.evaluation.backends.released_families import FAMILIES, Release

CLIP_336: Mapping[str, Any] = {"image_size": 336, "patch_size": 14}
NEXT_PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]


def _qwen(patch_px: int, least: int, most: int) -> dict[str, Any]:
    return {"image": {"patch_size": patch_px, "merge_size": 2, "size": {"shortest_edge": least, "longest_edge": most}}}


STATED: dict[str, dict[str, Any]] = {
    "llava": {"vision": CLIP_336},
    "llava_next": {"vision": CLIP_336, "image": {"image_grid_pinpoints": NEXT_PINPOINTS}},
    "idefics3": {
        "vision": {"image_size": 364, "patch_size": 14},
        "image": {"size": {"longest_edge": 4 * 364}, "max_image_size": {"longest_edge": 364}},
    },
    "gemma3": {"vision": {"image_size": 896, "patch_size": 14}},
    "gemma4": {"vision": {}},
    "internvl": {"vision": {"image_size": 448, "patch_size": 14}, "image": {"size": {"height": 448, "width": 448}}},
    "qwen2_vl": _qwen(14, 56 * 56, 16384 * 28**2),
    "qwen2_5_vl": _qwen(14, 56 * 56, 16384 * 28**2),
    "qwen3_vl": _qwen(16, 256 * 256, 16384 * 32**2),
    "qwen3_vl_moe": _qwen(16, 256 * 256, 16384 * 32**2),
}


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def stated_release(name: str) -> Release:
    """The release of a family's name, as qwen2.5-vl or qwen2_5_vl. Raises UserError, which names those known."""
    family = next((known for known in FAMILIES if _letters(known) == _letters(name)), "")
    if family and family not in STATED:
        raise UserError(
            f"{family}: its sizes prepare images in ways of their own; give a checkpoint's folder, or an id of the hub."
        )
    if not family:
        raise UserError(
            f"{name!r} is no folder, no id of the hub (OWNER/NAME) and no family; known by name: {', '.join(STATED)}; "
            f"from a checkpoint's files also {', '.join(known for known in FAMILIES if known not in STATED)}."
        )
    own = STATED[family]
    return Release({"model_type": family, "vision_config": own.get("vision", {})}, own.get("image", {}), {})
