"""Small instances of every compressor in the table, and inputs for them."""

from typing import Any

import torch
from torch import Tensor

from vlmlaw.compressors import COMPRESSORS, Compressor, build_compressor

GRID, WIDTH, QUESTION_WIDTH, N_QUESTION_TOKENS = 6, 8, 12, 5
N_PATCHES = GRID**2
ALL_NAMES = sorted(COMPRESSORS)
NAMES = [name for name in ALL_NAMES if not COMPRESSORS[name].before_tower]  # those that all read the same patches
OPTIONS = {name: {"key_width": QUESTION_WIDTH} for name in ("text_guided", "cdpruner")}  # what a name cannot do without


def some_allowed(name: str, grid_side: int = GRID) -> list[int]:
    """The least, the most, and two numbers of tokens in between."""
    allowed = COMPRESSORS[name].allowed_tokens(grid_side)
    last = len(allowed) - 1
    return sorted({allowed[0], allowed[last // 3], allowed[2 * last // 3], allowed[last]})


CASES = [(name, n_tokens) for name in NAMES for n_tokens in some_allowed(name)]


def make(name: str, n_visual_tokens: int, *, n_levels: int = 2, seed: int = 0, **options: Any) -> Compressor:
    torch.manual_seed(seed)
    options = OPTIONS.get(name, {}) | options
    return build_compressor(
        name, GRID, WIDTH, n_visual_tokens, question_width=QUESTION_WIDTH, n_levels=n_levels, **options
    )


def make_inputs(n_images: int = 3, *, n_levels: int = 2, seed: int = 1) -> dict[str, Tensor]:
    """Everything that any compressor reads; the masks leave 5, 3, 1, 5, ... question tokens."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    lengths = torch.tensor([(5, 3, 1)[i % 3] for i in range(n_images)])
    return {
        "patches_BPK": draw(n_images, N_PATCHES, n_levels * WIDTH),
        "question_BTD": draw(n_images, N_QUESTION_TOKENS, QUESTION_WIDTH),
        "question_mask_BT": torch.arange(N_QUESTION_TOKENS) < lengths[:, None],
        "importance_BP": draw(n_images, N_PATCHES).softmax(dim=1),
        "keys_BPH": draw(n_images, N_PATCHES, QUESTION_WIDTH),
    }


def fill_with_noise(compressor: Compressor, seed: int = 2) -> Compressor:
    """So that nothing is hidden by zero or unit initial weights."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in compressor.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return compressor
