"""Parameter counts and FLOPs of a cell, for inference and for training, computed from its configuration.

FLOPs count matrix products, convolutions and attention, with 2 for a multiply-add, as torch's FlopCounterMode does.
The law uses 2N(Q + V) (Kaplan et al. 2020, arXiv 2001.08361, 2.1; Li et al. 2024, 3.1), which leaves out attention's
products, the vision encoder and the compressor; here each of these is counted separately.
N parameters, Q text tokens, V visual tokens, D width, T = Q + V.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from torch import nn

from vlmlaw.compressors.base import AFTER, ATTENTION, LLM, PROJECTED, WHOLE_ATTENTION
from vlmlaw.compressors.inside_llm import InsideLlm
from vlmlaw.errors import UserError
from vlmlaw.vlm.decoder_flops import EXPERTS, attention_widths, decoder_flops, experts_of, is_plain
from vlmlaw.vlm.towers import attention

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from vlmlaw.compressors import Compressor
    from vlmlaw.vlm.model import VlmForConditionalGeneration


@dataclass(frozen=True)
class Parameters:
    """Parameter counts by part. `llm_active` is the law's N: the FLOPs of a token are proportional to it.

    It equals `llm_non_embedding`, minus the experts that a token is not routed to in a mixture of experts.
    """

    llm: int
    llm_non_embedding: int
    llm_active: int
    vision: int
    compressor: int
    projector: int


def count_parameters(model: VlmForConditionalGeneration) -> Parameters:
    """Count the parameters of a model: tied weights once, an untied output head as part of the embedding."""
    llm = model.language_model
    embeddings = {*llm.get_input_embeddings().parameters(), *llm.get_output_embeddings().parameters()}
    n_llm = _count(llm)
    return Parameters(
        llm=n_llm,
        llm_non_embedding=n_llm - sum(p.numel() for p in embeddings),
        llm_active=n_llm - sum(p.numel() for p in embeddings) - idle_parameters(llm),
        vision=_count(model.vision_tower),
        compressor=model.compressor.n_params(),
        projector=_count(model.projector) + (_count(model.places) if model.places is not None else 0),
    )


MIXTURES = ("MoE", "Moe")  # how the names of layers with experts end


def idle_parameters(llm: nn.Module) -> int:
    """Parameters of experts that a token is not routed to, in the layers that have experts.

    Experts are what transformers' layers name so, or tensors of three dimensions with one slice for each expert. Shared
    experts, which process every token, and routers are not among them.

    Raises UserError if that is not a fixed number, or if the configuration does not tell it.
    """
    config: Any = llm.config.get_text_config()  # type: ignore[operator,union-attr]
    n_experts, n_of_token = experts_of(config)
    in_experts = sum(p.numel() for name, p in llm.named_parameters() if _of_experts(name, p, n_experts))
    problem = ""
    if in_experts and n_experts == 1:
        problem = f"has experts, but its configuration sets none of {', '.join(EXPERTS)}"
    elif getattr(config, "zero_expert_num", None):
        problem = "routes tokens to experts without parameters, to some more often than to others"
    elif n_experts > 1 and not in_experts and any(type(part).__name__.endswith(MIXTURES) for part in llm.modules()):
        problem = "has experts under a name that is not known"
    if problem:
        raise UserError(
            f"{type(llm).__name__} {problem}; its active parameters, the law's N, cannot be counted. Take another "
            "language model."
        )
    return in_experts - in_experts * n_of_token // n_experts


def _of_experts(name: str, parameter: nn.Parameter, n_experts: int) -> bool:
    parts = name.split(".")
    has_slices = n_experts > 1 and parameter.ndim == 3 and parameter.shape[0] == n_experts
    return ("experts" in parts or has_slices) and "router" not in parts and parameter.ndim > 1


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@dataclass(frozen=True)
class InferenceFlops:
    """FLOPs to read one image and one question (prefill), by part. `llm_2nt` is the law's 2N(Q + V)."""

    llm: int
    llm_2nt: int
    vision: int
    compressor: int
    projector: int
    question_pass: int

    @property
    def all(self) -> int:
        return self.llm + self.vision + self.compressor + self.projector + self.question_pass


def inference_flops(
    model: VlmForConditionalGeneration, *, n_text_tokens: int, question_tokens: int | None = None
) -> InferenceFlops:
    """FLOPs to prefill V visual and Q = n_text_tokens text tokens, with logits for the last token only.

    `question_pass` is the LLM's extra pass over the question for a compressor that needs its state (QueCC); one that
    takes the question's embeddings has none. The pass reads the question alone, of `question_tokens` tokens (None: as
    many as the whole prompt, an upper bound). Where the LLM's layers drop tokens (FastV), each layer counts with the
    tokens that it reads.
    """
    config, compressor = model.config, model.compressor
    n_question = (n_text_tokens if question_tokens is None else question_tokens) if compressor.needs_question else 0
    n_read_by_llm = n_question if compressor.question_from == LLM else 0
    n_params = count_parameters(model).llm_active
    n_all = compressor.n_input_tokens
    projector_per_token = sum(
        2 * m.in_features * m.out_features for m in model.projector.mlp if isinstance(m, nn.Linear)
    )
    reads_all = compressor.place == AFTER
    n_projected = compressor.n_patches if reads_all else n_all
    n_projected += compressor.n_patches if compressor.keys_from == PROJECTED else 0
    text = config.text_config
    decoder, by_layer = decoder_flops(text), compressor.tokens_by_layer(text.num_hidden_layers)
    read = sum(
        n_layers * layer.of(n + n_text_tokens)
        for (layer, n), n_layers in Counter(zip(decoder.layers, by_layer, strict=True)).items()
    )
    return InferenceFlops(
        llm=read + decoder.beside.of(n_all + n_text_tokens) + decoder.head,
        llm_2nt=round(2 * n_params * (mean_visual_tokens(model) + n_text_tokens)),
        vision=vision_flops(config.vision_config, side=compressor.tower_side),
        compressor=compressor.flops(n_question)
        + importance_flops(compressor, config.vision_config)
        + explanation_flops(compressor, text, n_tokens=n_all + n_text_tokens),
        projector=n_projected * projector_per_token,
        question_pass=llm_flops(config.text_config, n_tokens=n_read_by_llm, n_predicted=0),
    )


def mean_visual_tokens(model: VlmForConditionalGeneration) -> float:
    """The law's V, as in 2N(Q + V): the number of visual tokens that the LLM reads, averaged over its layers.

    This is the field's convention (FastV, arXiv 2403.06764; PyramidDrop, arXiv 2410.17247): keeping 16 of 576 patches
    after layer 2 of 32 gives V = 51. For a compressor in front of the LLM it is the number of tokens that it outputs.
    """
    by_layer = model.compressor.tokens_by_layer(model.config.text_config.num_hidden_layers)
    return sum(by_layer) / len(by_layer)


def importance_flops(compressor: Compressor, vision_config: PreTrainedConfig) -> int:
    """FLOPs to rate the patches beside the tower's own: its attention once more, or else `received_attention`."""
    n_patches = compressor.n_patches
    if compressor.inside_llm:
        return 0
    if attention.has_attention(vision_config):
        wanted = compressor.needs_importance or compressor.keys_from in (ATTENTION, WHOLE_ATTENTION)
        n_tokens = n_patches + class_tokens(vision_config)
        return attention.attention_flops(vision_config, n_patches=n_patches, n_tokens=n_tokens) if wanted else 0
    return 2 * n_patches**2 * compressor.width if compressor.needs_importance else 0


def explanation_flops(compressor: Compressor, config: PreTrainedConfig, *, n_tokens: int) -> int:
    """FLOPs to rate tokens by how they explain the answer (`vlm.explanation`), forward and backward; 0 for others.

    In the backward pass each linear map computes its input's gradient, and each product of attention the gradients of
    both factors; in the first layer only the attention weights need one. At the end one row is multiplied by the T x T
    shares of each layer.
    """
    explains = isinstance(compressor, InsideLlm) and compressor.explains
    if not explains or compressor.n_visual_tokens == compressor.n_patches:
        return 0
    if not is_plain(config):
        raise UserError(
            f"the FLOPs of {compressor.name} are not counted for {config.model_type}, whose layers have more than an "
            "attention and an MLP. Take another language model or compressor."
        )
    (width, heads, kv_heads), n_layers = attention_widths(config), config.num_hidden_layers
    product = 2 * n_tokens**2 * heads
    forward = llm_flops(config, n_tokens=n_tokens, n_predicted=1)
    unneeded = 3 * product + 2 * n_tokens * width * (heads + 2 * kv_heads)
    return 2 * forward + n_layers * (2 * product + 2 * n_tokens**2) - unneeded


@dataclass(frozen=True)
class TrainingFlops:
    """FLOPs of training steps per unit that `vlmlaw.training.throughput.Work` counts.

    A backward pass costs twice its forward pass, or once where gradients only flow through frozen weights.
    Attention counts the pairs of tokens that attend to each other: half of the square in a causal model. Not counted:
    the LLM's pass over the question for compressors that need it.
    """

    per_token: float
    per_pair: float
    per_target: float
    per_image: float

    def of(self, work: Any) -> float:
        return (
            self.per_token * work.n_tokens
            + self.per_pair * work.n_pairs
            + self.per_target * work.n_targets
            + self.per_image * work.n_images
        )


def training_flops(model: VlmForConditionalGeneration, *, with_tower: bool) -> TrainingFlops:
    """Training FLOPs per token, pair, target and image; `with_tower` if features are not cached."""
    from vlmlaw.vlm.towers.features import layers_read

    text = model.config.text_config
    trained = {name: p.numel() for name, p in model.language_model.named_parameters() if p.requires_grad}
    n_adapter = sum(size for name, size in trained.items() if ".lora_" in name)
    times = 3 if trained and not n_adapter else 2
    decoder = decoder_flops(text)
    image = inference_flops(model, n_text_tokens=0)
    n_read = layers_read(model.config.vision_config, model.config.feature_layers)
    tower = (3 if model.trains_tower else 1) * image.vision * n_read / model.config.vision_config.num_hidden_layers
    return TrainingFlops(
        per_token=times * decoder.whole.per_token + 3 * 2 * n_adapter,
        per_pair=3 * decoder.whole.per_pair,  # both factors are activations, so both get a gradient
        per_target=times * decoder.head,
        per_image=3 * (image.compressor + image.projector) + (tower if with_tower else 0),
    )


def llm_flops(config: PreTrainedConfig, *, n_tokens: int, n_predicted: int) -> int:
    """FLOPs to prefill T = n_tokens in a decoder, with logits for n_predicted of them (see `decoder_flops`)."""
    decoder = decoder_flops(config)
    return decoder.whole.of(n_tokens) + n_predicted * decoder.head


HAVE_CLASS_TOKEN = ("clip", "dinov2", "dinov3_vit", "vit", "deit", "beit", "data2vec-vision", "altclip", "chinese_clip")


def class_tokens(config: PreTrainedConfig) -> int:
    """Number of tokens of the tower that are not patches: a class token and registers.

    >>> from transformers import Dinov2WithRegistersConfig, SiglipVisionConfig
    >>> class_tokens(Dinov2WithRegistersConfig(num_register_tokens=4)), class_tokens(SiglipVisionConfig())
    (5, 0)
    """
    has_class_token = config.model_type.startswith(HAVE_CLASS_TOKEN)
    return int(has_class_token) + int(getattr(config, "num_register_tokens", None) or 0)


def vision_flops(config: PreTrainedConfig, *, side: int | None = None) -> int:
    """FLOPs of a tower, the miniature's or a CLIP-like one, for one image of `side` x `side` patches (None: its own).

    >>> from transformers import CLIPVisionConfig
    >>> shape = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 24}
    >>> clip = CLIPVisionConfig(image_size=336, patch_size=14, **shape)
    >>> round(vision_flops(clip, side=12) / vision_flops(clip), 2)
    0.24
    """
    side, width = side or config.image_size // config.patch_size, config.hidden_size
    if config.model_type == "vlmlaw_conv_tower":
        return _conv_tower_flops(config, side * config.patch_size)
    if config.model_type == "vlmlaw_feature_map":
        from vlmlaw.vlm.towers.feature_map import feature_map_flops

        return feature_map_flops(config, image_px=side * config.patch_size)
    n_tokens = side**2 + class_tokens(config)
    embedding = 2 * side**2 * 3 * config.patch_size**2 * width
    per_token = 2 * width * 4 * width + 2 * width * _tower_mlp(config)
    layer = n_tokens * per_token + 2 * 2 * n_tokens**2 * width
    return embedding + config.num_hidden_layers * layer


def _tower_mlp(config: Any) -> int:
    """Sum of the widths of the matrices in a tower's MLP: two, or three if it is gated (DINOv2's SwiGLU)."""
    own = getattr(config, "intermediate_size", None) or int(config.hidden_size * config.mlp_ratio)
    if getattr(config, "use_swiglu_ffn", False):
        return 3 * ((int(own * 2 / 3) + 7) // 8 * 8)  # as transformers rounds it
    return (3 if getattr(config, "use_gated_mlp", False) else 2) * int(own)


def _conv_tower_flops(config: Any, image_px: int) -> int:
    from vlmlaw.vlm.towers.conv_tower import stem_widths

    flops, side = 0, image_px
    for w_in, w_out in pairwise(stem_widths(config)):
        side //= 2
        flops += 2 * side**2 * 9 * w_in * w_out
    return flops + config.num_hidden_layers * 2 * side**2 * 9 * config.hidden_size**2
