"""C-Abstractor against a reference with real 1 x 1 convolutions, image by image."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from .cases import GRID, N_PATCHES, WIDTH, fill_with_noise, make, make_inputs


def norm(image_Css: Tensor, layer) -> Tensor:
    """Layer normalisation over the channels of each place."""
    centred = image_Css - image_Css.mean(dim=0, keepdim=True)
    scaled = centred / torch.sqrt((centred**2).mean(dim=0, keepdim=True) + layer.eps)
    return scaled * layer.weight[:, None, None] + layer.bias[:, None, None]


def block_by_convolutions(block, image_Css: Tensor) -> Tensor:
    hidden = F.silu(norm(F.conv2d(image_Css, block.expand.weight[:, :, None, None]), block.expand_norm))
    padded = F.pad(hidden, (1, 1, 1, 1))
    mixed = torch.zeros_like(hidden)
    for i in range(3):
        for j in range(3):
            shifted = padded[:, i : i + hidden.shape[1], j : j + hidden.shape[2]]
            mixed = mixed + block.depthwise.weight[:, 0, i, j, None, None] * shifted
    hidden = F.silu(norm(mixed, block.depthwise_norm))
    squeezed = F.silu(block.squeeze.weight @ hidden.mean(dim=(1, 2)) + block.squeeze.bias)
    gate = torch.sigmoid(block.excite.weight @ squeezed + block.excite.bias)
    hidden = F.conv2d(hidden * gate[:, None, None], block.project.weight[:, :, None, None])
    return F.silu(image_Css + norm(hidden, block.project_norm))


@pytest.mark.parametrize("n_tokens", [1, 4, 9, 36])
def test_conv_equals_convolutions(n_tokens):
    compressor, inputs = fill_with_noise(make("conv", n_tokens, depth=2)), make_inputs()
    visual_BVC = compressor(**inputs)
    for image in range(3):
        placed_PC = inputs["patches_BPK"][image, :, -WIDTH:] + compressor.position
        x = placed_PC.T.reshape(WIDTH, GRID, GRID)
        for block in compressor.before:
            x = block_by_convolutions(block, x)
        x = F.avg_pool2d(x, kernel_size=GRID // round(n_tokens**0.5))
        for block in compressor.after:
            x = block_by_convolutions(block, x)
        torch.testing.assert_close(visual_BVC[image], x.reshape(WIDTH, -1).T, rtol=1e-4, atol=1e-5)


def test_conv_parameters():
    c, s = WIDTH, WIDTH // 4
    block = 2 * c * c + 9 * c + (c * s + s) + (s * c + c) + 3 * 2 * c
    assert make("conv", 4).n_params() == N_PATCHES * c + 2 * 3 * block
    assert make("conv", 4, depth=1).n_params() == N_PATCHES * c + 2 * block
