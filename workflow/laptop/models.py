"""The two networks of the laptop experiment as folders of transformers: of a GGUF file, and of EfficientNet-Lite0's.

After this they are models like any others: config.json, safetensors, tokenizer or preprocessor.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from vlmlaw.vlm.towers.feature_map import feature_map_tower

LITE0 = {  # Lite: no squeeze-and-excitation, ReLU6, stem and head of a fixed width; else EfficientNet-B0
    "width_coefficient": 1.0,
    "depth_coefficient": 1.0,
    "image_size": 224,
    "hidden_dim": 1280,
    "hidden_act": "relu6",
    "batch_norm_eps": 1e-3,
}
# What the released weights were converted with (efficientnet-lite-pytorch's own example).
PIXELS = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
OPEN = 100.0  # sigmoid(100) is 1 in every type: the gate that EfficientNet has and Lite has not stands open
NAMES = {
    "_expand_conv": "expansion.expand_conv",
    "_bn0": "expansion.expand_bn",
    "_depthwise_conv": "depthwise_conv.depthwise_conv",
    "_bn1": "depthwise_conv.depthwise_norm",
    "_project_conv": "projection.project_conv",
    "_bn2": "projection.project_bn",
}
ENDS = {
    "_conv_stem": "embeddings.convolution",
    "_bn0": "embeddings.batchnorm",
    "_conv_head": "encoder.top_conv",
    "_bn1": "encoder.top_bn",
}


def write_language_model(gguf: Path, out: Path) -> None:
    """A language model and its tokenizer, of a GGUF file, in float32: config.json, safetensors, tokenizer.json."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    # Its weights are read to float32, but transformers still takes the model for a quantized one, which it cannot save.
    model.hf_quantizer, model.is_quantized = None, False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(out)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(out)


def write_tower(weights: Path, out: Path, *, scratch: Path, image_px: int = 224) -> None:
    """EfficientNet-Lite0's last feature map as a tower of patches of 32 pixels: 7 x 7 of them at 224 pixels."""
    efficientnet(torch.load(weights, map_location="cpu", weights_only=True)).save_pretrained(scratch)
    feature_map_tower(scratch, image_px=image_px).save_pretrained(out)
    (out / "preprocessor_config.json").write_text(json.dumps(PIXELS, indent=1), encoding="utf-8")


def efficientnet(released: dict[str, torch.Tensor]) -> Any:
    """transformers' EfficientNet with the weights of EfficientNet-Lite0 in its released layout.

    Raises KeyError or RuntimeError where these are of another layout.
    """
    from transformers import EfficientNetConfig, EfficientNetModel

    model = EfficientNetModel(EfficientNetConfig(**LITE0)).eval()
    wanted = model.state_dict()
    found = {_name(name): value for name, value in released.items() if not name.startswith("_fc.")}
    for name, value in wanted.items():
        if ".squeeze_excite." in name:
            is_gate = name.endswith(".expand.bias")
            found[name] = torch.full_like(value, OPEN) if is_gate else torch.zeros_like(value)
    model.load_state_dict(found)
    return model


def _name(name: str) -> str:
    """What transformers calls one of the released weights."""
    first, *rest = name.split(".")
    if first != "_blocks":
        return ".".join([ENDS[first], *rest])
    number, part, *rest = rest
    return ".".join(["encoder.blocks", number, NAMES[part], *rest])
