"""The miniature's vision tower: a small convolutional network, registered with transformers' Auto classes.

It is loaded like any other tower, so replacing it by a CLIP changes one line of the experiment file.
B images, P patches in raster order, C tower width, L levels, K = L * C.
"""

from itertools import pairwise
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput


class ConvTowerConfig(PreTrainedConfig):
    """Shape of a `ConvTower`. The stem halves the image until each patch is one place, so patches of 8 pixels
    take three halvings.
    """

    model_type = "vlmlaw_conv_tower"

    def __init__(
        self,
        hidden_size: int = 64,
        num_hidden_layers: int = 4,
        image_size: int = 96,
        patch_size: int = 8,
        **kwargs: Any,
    ):
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.image_size = image_size
        self.patch_size = patch_size
        super().__init__(**kwargs)


def stem_widths(config: ConvTowerConfig) -> list[int]:
    """Channels before and after each halving of the stem: from 3 to the tower's width.

    Raises ValueError unless the patch size is a power of 2.
    """
    halvings = config.patch_size.bit_length() - 1
    if config.patch_size != 2**halvings or halvings < 1:
        raise ValueError(f"a ConvTower's stem halves the image; patch_size {config.patch_size} is no power of 2")
    return [3, *(config.hidden_size * 3 // 8 * 2**i for i in range(halvings - 1)), config.hidden_size]


class ConvTower(PreTrainedModel):
    """A convolutional stem (its stride is a patch) and residual 3x3 convolutions over the grid of patches.

    `hidden_states` are the stem's output and each residual block's, as in a transformer; there is no class token.
    """

    config_class = ConvTowerConfig
    main_input_name = "pixel_values"

    def __init__(self, config: ConvTowerConfig):
        super().__init__(config)
        width = config.hidden_size
        widths = pairwise(stem_widths(config))
        self.stem = nn.ModuleList(nn.Conv2d(w_in, w_out, 3, stride=2, padding=1) for w_in, w_out in widths)
        self.norms = nn.ModuleList(nn.GroupNorm(1, width) for _ in range(config.num_hidden_layers))
        self.blocks = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(config.num_hidden_layers))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            # torch's own initialisation: the transformer's fixed 0.02 leaves narrow convolutions nearly silent.
            nn.init.kaiming_uniform_(module.weight, a=5**0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, pixel_values: Tensor, **_: Any) -> BaseModelOutput:
        """Patch features (B, P, C) of pixel_values (B, 3, H, W), and those of each level."""
        x_BCHW = pixel_values
        for index, conv in enumerate(self.stem):
            x_BCHW = conv(F.gelu(x_BCHW) if index else x_BCHW)
        levels = [x_BCHW]
        for norm, conv in zip(self.norms, self.blocks, strict=True):
            levels.append(levels[-1] + conv(F.gelu(norm(levels[-1]))))
        states = tuple(level.flatten(2).transpose(1, 2) for level in levels)
        return BaseModelOutput(last_hidden_state=states[-1], hidden_states=states)


AutoConfig.register(ConvTowerConfig.model_type, ConvTowerConfig, exist_ok=True)
AutoModel.register(ConvTowerConfig, ConvTower, exist_ok=True)
