"""The configuration of a VLM; importing this module registers it with transformers' AutoConfig."""

from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from vlmlaw.vlm.auto_files import AUTO_MAP
from vlmlaw.vlm.towers import conv_tower, feature_map  # noqa: F401  registers the project's own towers


class VlmConfig(PreTrainedConfig):
    """Configuration of a VLM. `feature_layers` index the tower's hidden states, shallow to deep.

    `projector_norm`: whether a LayerNorm stands before the projector; released LLaVA models have none.
    `vision_dtype` is the dtype of the tower's weights and arithmetic; None: that of the rest of the model.
    `visual_span` is how many positions an image's tokens share (see positions.py); None: one each, as is usual.

    >>> config = VlmConfig(compressor="m3", n_visual_tokens=4, vision_dtype="float32")
    >>> config.vision_config.model_type, config.text_config.model_type, config.vision_dtype
    ('clip_vision_model', 'qwen2', 'float32')
    """

    model_type = "vlmlaw"
    sub_configs = {"vision_config": AutoConfig, "text_config": AutoConfig}  # noqa: RUF012 transformers' own convention

    def __init__(
        self,
        vision_config: dict[str, Any] | PreTrainedConfig | None = None,
        text_config: dict[str, Any] | PreTrainedConfig | None = None,
        compressor: str = "average",
        compressor_options: dict[str, Any] | None = None,
        n_visual_tokens: int = 1,
        feature_layers: list[int] | None = None,
        position_embedding: bool = False,
        image_token_id: int = 0,
        image_mean: list[float] | None = None,
        image_std: list[float] | None = None,
        image_fit: str = "stretch",
        pad_color: list[int] | None = None,
        vision_dtype: str | None = None,
        visual_span: float | None = None,
        projector_norm: bool = True,
        **kwargs: Any,
    ):
        self.vision_config = _as_config(vision_config or {"model_type": "clip_vision_model"})
        self.text_config = _as_config(text_config or {"model_type": "qwen2"})
        self.compressor = compressor
        self.compressor_options = compressor_options or {}
        self.n_visual_tokens = n_visual_tokens
        self.feature_layers = feature_layers or [-2]
        self.position_embedding = position_embedding
        self.image_token_id = image_token_id
        self.image_mean = image_mean or [0.5] * 3
        self.image_std = image_std or [0.5] * 3
        self.image_fit = image_fit
        self.pad_color = pad_color or [0, 0, 0]
        self.vision_dtype = vision_dtype
        self.visual_span = visual_span
        self.projector_norm = projector_norm
        self.auto_map = AUTO_MAP
        kwargs.pop("auto_map", None)
        kwargs.setdefault("tie_word_embeddings", getattr(self.text_config, "tie_word_embeddings", False))
        super().__init__(**kwargs)


def _as_config(config: dict[str, Any] | PreTrainedConfig) -> PreTrainedConfig:
    return config if isinstance(config, PreTrainedConfig) else AutoConfig.for_model(**config)


AutoConfig.register(VlmConfig.model_type, VlmConfig, exist_ok=True)
