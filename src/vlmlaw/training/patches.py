"""Give the pixels of each patch in place of a vision encoder's features.

Compressors can then be trained without a tower, as in encoder-free models: Fuyu maps flattened patches by a matrix,
BREEN (Li et al. 2025, arXiv 2503.12446) gathers patches into learned queries.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import SiglipVisionConfig, SiglipVisionModel

from vlmlaw.runtime.whole_files import whole_folder
from vlmlaw.training.workspace import account

if TYPE_CHECKING:
    from vlmlaw.training.settings import PatchSettings


@torch.no_grad()
def patch_tower(image_px: int, patch_px: int) -> SiglipVisionModel:
    """Make a SigLIP whose patch embedding is the identity: color by color in raster order, with zero positions.

    It is loaded and cached like any other tower, and its first hidden state is the patches. It has one layer of zeros,
    which is not read, because transformers' towers have at least one. The FLOPs of the tower count that layer, as it is
    computed.

    >>> pixels = torch.arange(48.0).reshape(1, 3, 4, 4)
    >>> states = patch_tower(4, 2)(pixels, output_hidden_states=True).hidden_states
    >>> states[0][0, 1].tolist()  # the upper right patch
    [2.0, 3.0, 6.0, 7.0, 18.0, 19.0, 22.0, 23.0, 34.0, 35.0, 38.0, 39.0]
    """
    width = 3 * patch_px**2
    config = SiglipVisionConfig(
        image_size=image_px,
        patch_size=patch_px,
        hidden_size=width,
        intermediate_size=1,
        num_attention_heads=1,
        num_hidden_layers=1,
        vision_use_head=False,
    )
    tower = SiglipVisionModel(config)
    for name, parameter in tower.named_parameters():
        parameter.zero_()
        if name.endswith("patch_embedding.weight"):
            parameter.copy_(torch.eye(width).reshape(parameter.shape))
    return tower.eval()


def write_patch_tower(out: Path, *, settings: PatchSettings) -> None:
    """Write the tower to `out`, with the `training.json` of a training without steps."""
    start, start_cpu = time.perf_counter(), time.process_time()
    with whole_folder(out) as folder:
        patch_tower(settings.image_px, settings.patch_px).save_pretrained(folder)
        spent = {"wall_seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - start_cpu}
        nothing = {"steps": 0, "last_loss": 0.0, "peak_memory_mib": 0.0}
        (folder / "training.json").write_text(json.dumps(account(settings, spent | nothing), indent=2))
