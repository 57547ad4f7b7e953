"""A convolutional network as a vision tower: its last feature map is the grid of patches.

ResNets, ConvNeXts, EfficientNets and the like give a map (B, C, H, W) where a vision transformer gives tokens, and
their configurations say neither width nor patch. `feature_map_tower` measures both once and writes them down, so that
the folder it is saved to is a tower like any other, also before its weights are read. B images, P patches, C width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoBackbone, AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from vlmlaw.errors import UserError
from vlmlaw.runtime.whole_files import refused_if_damaged


class FeatureMapConfig(PreTrainedConfig):
    """A network's own configuration, and the shape of its last map: a square of `patch_size` pixels is a patch.

    `as_backbone`: whether the map is that of the network's AutoBackbone, or of its AutoModel.
    """

    model_type = "vlmlaw_feature_map"
    sub_configs = {"backbone_config": AutoConfig}  # noqa: RUF012 transformers' own convention

    def __init__(
        self,
        backbone_config: dict[str, Any] | PreTrainedConfig | None = None,
        as_backbone: bool = False,
        hidden_size: int = 2048,
        image_size: int = 224,
        patch_size: int = 32,
        num_hidden_layers: int = 1,
        **kwargs: Any,
    ):
        own = backbone_config or {"model_type": "resnet"}
        self.backbone_config = own if isinstance(own, PreTrainedConfig) else AutoConfig.for_model(**own)
        self.as_backbone = as_backbone
        self.hidden_size = hidden_size
        self.image_size = image_size
        self.patch_size = patch_size
        self.num_hidden_layers = num_hidden_layers
        super().__init__(**kwargs)


class FeatureMapTower(PreTrainedModel):
    """Any network whose `AutoModel` ends in a map, or that `AutoBackbone` has, read as patches in raster order.

    Its hidden states 0 and 1 are the same: the last map. It has no class token and no attention.
    """

    config_class = FeatureMapConfig
    main_input_name = "pixel_values"

    def __init__(self, config: FeatureMapConfig):
        super().__init__(config)
        kind = AutoBackbone if config.as_backbone else AutoModel
        self.backbone = kind.from_config(config.backbone_config)
        self.post_init()

    def forward(self, pixel_values: Tensor, **_: Any) -> BaseModelOutput:
        """Patch features (B, P, C) of pixel_values (B, 3, H, W)."""
        patches_BPC = _last_map(self.backbone, pixel_values).flatten(2).transpose(1, 2)
        return BaseModelOutput(last_hidden_state=patches_BPC, hidden_states=(patches_BPC, patches_BPC))


def _last_map(network: PreTrainedModel, pixel_values: Tensor) -> Tensor:
    """Return the last feature map (B, C, H, W), or an output of another shape if the network has no map."""
    outputs = network(pixel_values=pixel_values, return_dict=True)
    maps = getattr(outputs, "feature_maps", None)
    last: Tensor = maps[-1] if maps else outputs.last_hidden_state
    return last


@torch.no_grad()
def feature_map_tower(folder: Path, *, image_px: int) -> FeatureMapTower:
    """Make the network of a folder (config.json and safetensors) a tower for squares of `image_px`.

    Raises UserError for a network whose last output is no square map, or that lacks weights.
    """
    with refused_if_damaged(folder, "a network"):
        own = AutoConfig.from_pretrained(folder)
    network, missing = _loaded(AutoModel, folder)
    shape = tuple(_last_map(network, torch.zeros(1, 3, image_px, image_px)).shape)
    as_backbone = len(shape) != 4 and type(own) in AutoBackbone._model_mapping
    if as_backbone:
        network, missing = _loaded(AutoBackbone._model_mapping[type(own)], folder)  # AutoBackbone itself asks the hub
        shape = tuple(_last_map(network, torch.zeros(1, 3, image_px, image_px)).shape)
    if missing:
        raise UserError(
            f"{folder}: the weights lack {len(missing)} of {own.model_type}, such as {missing[0]}, left random; take a "
            "complete checkpoint of that kind."
        )
    if len(shape) != 4 or shape[2] != shape[3] or image_px % shape[2]:
        raise UserError(
            f"{folder}: a {own.model_type} makes {shape} of an image of {image_px} pixels; expected a map (1, width, "
            "side, side) whose side divides the image's. Take another image size, such as a multiple of 32, or another "
            "network."
        )
    patch = image_px // shape[2]
    config = FeatureMapConfig(own, as_backbone, hidden_size=shape[1], image_size=image_px, patch_size=patch)
    with torch.device("meta"):
        tower = FeatureMapTower(config)
    tower.backbone = network
    return tower.eval()


def _loaded(kind: Any, folder: Path) -> tuple[Any, list[str]]:
    """Load a network in evaluation mode; also return the names of weights that the folder lacks."""
    with refused_if_damaged(folder, "a network"):
        network, info = kind.from_pretrained(folder, use_safetensors=True, output_loading_info=True)
    return network.eval(), sorted(info["missing_keys"])


def feature_map_flops(config: Any, *, image_px: int) -> int:
    """FLOPs of one image, as torch's FlopCounterMode counts them on the network without its weights."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        tower, pixels = FeatureMapTower(config).eval(), torch.zeros(1, 3, image_px, image_px)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        tower(pixels)
    return int(counter.get_total_flops())


AutoConfig.register(FeatureMapConfig.model_type, FeatureMapConfig, exist_ok=True)
AutoModel.register(FeatureMapConfig, FeatureMapTower, exist_ok=True)
