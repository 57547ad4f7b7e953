"""Analytic parameter counts and FLOPs of a cell, in inference and in training.

FLOPs count products of matrices, convolutions and attention, a multiply-add being 2, as torch's FlopCounterMode does.
The law's own cost is the usual 2N(Q + V) (Kaplan et al. 2020, arXiv 2001.08361, 2.1; Li et al. 2024, 3.1), which leaves
out attention's products, the vision encoder and the compressor; here they are counted and kept apart.
N parameters, Q text tokens, V visual tokens, D width, T = Q + V.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from torch import nn

from vlmlaw.compressors.base import AFTER, ATTENTION, LLM, PROJECTED, WHOLE_ATTENTION
from vlmlaw.errors import UserError
from vlmlaw.vlm.towers import attention

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from vlmlaw.compressors import Compressor
    from vlmlaw.vlm.model import VlmForConditionalGeneration


@dataclass(frozen=True)
class Parameters:
    """Parameter counts by part. `llm_active` is the law's N, to which the FLOPs of a token are proportional.

    It is `llm_non_embedding`, of a mixture of experts without those experts that a token does not pass.
    """

    llm: int
    llm_non_embedding: int
    llm_active: int
    vision: int
    compressor: int
    projector: int


def count_parameters(model: VlmForConditionalGeneration) -> Parameters:
    """Count the parameters of a model. Tied weights count once, and an untied output head counts as embedding."""
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


EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
EXPERTS_OF_A_TOKEN = ("num_experts_per_tok", "num_experts_per_token", "moe_k", "moe_topk", "top_k_experts")


def experts_of(config: PreTrainedConfig) -> tuple[int, int]:
    """How many experts a layer of this language model has, and how many of them a token passes; (1, 1) without any.

    >>> from transformers import Qwen2Config, Qwen3MoeConfig
    >>> experts_of(Qwen3MoeConfig(num_experts=8, num_experts_per_tok=2)), experts_of(Qwen2Config())
    ((8, 2), (1, 1))
    """
    found = [
        next((n for name in names if isinstance(n := getattr(config, name, None), int) and n > 0), 1)
        for names in (EXPERTS, EXPERTS_OF_A_TOKEN)
    ]
    return found[0], min(found)


def idle_parameters(llm: nn.Module) -> int:
    """Parameters of experts that a token does not pass. Raises UserError where the configuration does not say how many.

    Shared experts, which every token passes, are not among the `experts` of transformers' layers.
    """
    n_experts, n_of_token = experts_of(llm.config.get_text_config())  # type: ignore[operator,union-attr]
    in_experts = sum(p.numel() for name, p in llm.named_parameters() if "experts" in name.split("."))
    if in_experts and n_experts == 1:
        raise UserError(
            f"{type(llm).__name__} has experts, but its configuration says none of {', '.join(EXPERTS)}; its active "
            "parameters, the law's N, cannot be counted. Take another language model."
        )
    return in_experts - in_experts * n_of_token // n_experts


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@dataclass(frozen=True)
class InferenceFlops:
    """FLOPs to read one image with one question (prefill), by part. `llm_2nt` is the law's 2N(Q + V), V averaged."""

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
    """Prefill of V visual and Q = n_text_tokens text tokens, the output head at the last token only.

    A question that the LLM itself reads for the compressor (QueCC) is its `question_pass`; one of embeddings is free.
    It is the question alone, `question_tokens` long (None: as long as the whole prompt, the most that it can be).
    Where the LLM's own layers choose the tokens (FastV), each counts with those that it reads.
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
    by_layer = compressor.tokens_by_layer(text.num_hidden_layers)
    read = sum(n_layers * layer_flops(text, n_tokens=n + n_text_tokens) for n, n_layers in Counter(by_layer).items())
    return InferenceFlops(
        llm=read + head_flops(text, n_predicted=1),
        llm_2nt=round(2 * n_params * (mean_visual_tokens(model) + n_text_tokens)),
        vision=vision_flops(config.vision_config, side=compressor.tower_side),
        compressor=compressor.flops(n_question) + importance_flops(compressor, config.vision_config),
        projector=n_projected * projector_per_token,
        question_pass=llm_flops(config.text_config, n_tokens=n_read_by_llm, n_predicted=0),
    )


def mean_visual_tokens(model: VlmForConditionalGeneration) -> float:
    """V of the law and of 2N(Q + V): visual tokens that the LLM reads, averaged over its layers.

    As the field counts (FastV, arXiv 2403.06764; PyramidDrop, arXiv 2410.17247): of 576 patches, 16 kept after layer 2
    of 32 are 51. For a compressor before the LLM it is what the compressor makes.
    """
    by_layer = model.compressor.tokens_by_layer(model.config.text_config.num_hidden_layers)
    return sum(by_layer) / len(by_layer)


def importance_flops(compressor: Compressor, vision_config: PreTrainedConfig) -> int:
    """FLOPs of rating the patches, beside the tower's own: its attention again, or `received_attention` without one."""
    n_patches = compressor.n_patches
    if compressor.inside_llm:
        return 0
    if attention.has_attention(vision_config):
        wanted = compressor.needs_importance or compressor.keys_from in (ATTENTION, WHOLE_ATTENTION)
        n_tokens = n_patches + class_tokens(vision_config)
        return attention.attention_flops(vision_config, n_patches=n_patches, n_tokens=n_tokens) if wanted else 0
    return 2 * n_patches**2 * compressor.width if compressor.needs_importance else 0


@dataclass(frozen=True)
class TrainingFlops:
    """FLOPs of training steps, by what `vlmlaw.training.throughput.Work` counts.

    A backward pass costs its forward pass twice, and where gradients only pass through frozen weights, once.
    Attention counts the pairs that see each other, a causal model's half of the square. Left out: the pass over the
    question of compressors that read it.
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
    """Training FLOPs of a token, a pair, a target and an image; `with_tower` where features are not cached."""
    from vlmlaw.vlm.towers.features import layers_read

    text = model.config.text_config
    times = 3 if any(p.requires_grad for p in model.language_model.parameters()) else 2
    one = llm_flops(text, n_tokens=1, n_predicted=0)
    pair = (llm_flops(text, n_tokens=2, n_predicted=0) - 2 * one) / 2  # 4 - 1 - 1 pairs more than of two single tokens
    image = inference_flops(model, n_text_tokens=0)
    n_read = layers_read(model.config.vision_config, model.config.feature_layers)
    tower = image.vision * n_read / model.config.vision_config.num_hidden_layers
    return TrainingFlops(
        per_token=times * (one - pair),
        per_pair=3 * pair,  # both factors of attention's products are activations
        per_target=times * 2 * text.hidden_size * text.vocab_size,
        per_image=3 * (image.compressor + image.projector) + (tower if with_tower else 0),
    )


def llm_flops(config: PreTrainedConfig, *, n_tokens: int, n_predicted: int) -> int:
    """Prefill of T = n_tokens through a Llama-like decoder (Qwen2 and others), logits for n_predicted of them."""
    layers = config.num_hidden_layers * layer_flops(config, n_tokens=n_tokens)
    return layers + head_flops(config, n_predicted=n_predicted)


def head_flops(config: PreTrainedConfig, *, n_predicted: int) -> int:
    """The logits of so many tokens."""
    return n_predicted * 2 * config.hidden_size * config.vocab_size


def layer_flops(config: PreTrainedConfig, *, n_tokens: int) -> int:
    """One layer of such a decoder on T = n_tokens.

    Query and output projections 2 T D H each (H = heads * head width), key and value 2 T D H_kv each, a
    gated MLP 3 * 2 T D M, and attention's two products 2 * 2 T^2 H (the whole square, as kernels count it). Of a
    mixture of experts, M is that of the experts that a token passes, shared ones included, and the router is added.
    """
    width, n_heads = config.hidden_size, config.num_attention_heads
    head_width = getattr(config, "head_dim", None) or width // n_heads
    heads, kv_heads = n_heads * head_width, config.num_key_value_heads * head_width
    per_token = 2 * width * (2 * heads + 2 * kv_heads) + 3 * 2 * width * _mlp_width(config)
    n_experts, _ = experts_of(config)
    per_token += 2 * width * n_experts if n_experts > 1 else 0
    return n_tokens * per_token + 2 * 2 * n_tokens**2 * heads


def _mlp_width(config: PreTrainedConfig) -> int:
    n_experts, n_of_token = experts_of(config)
    own: int = config.intermediate_size
    if n_experts == 1:
        return own
    of_expert = getattr(config, "moe_intermediate_size", None) or own
    shared = getattr(config, "shared_expert_intermediate_size", None) or 0
    return n_of_token * of_expert + shared + (getattr(config, "n_shared_experts", None) or 0) * of_expert


HAVE_CLASS_TOKEN = ("clip", "dinov2", "dinov3_vit", "vit", "deit", "beit", "data2vec-vision", "altclip", "chinese_clip")


def class_tokens(config: PreTrainedConfig) -> int:
    """Number of the tower's tokens that are not patches: a class token, registers.

    >>> from transformers import Dinov2WithRegistersConfig, SiglipVisionConfig
    >>> class_tokens(Dinov2WithRegistersConfig(num_register_tokens=4)), class_tokens(SiglipVisionConfig())
    (5, 0)
    """
    has_class_token = config.model_type.startswith(HAVE_CLASS_TOKEN)
    return int(has_class_token) + int(getattr(config, "num_register_tokens", None) or 0)


def vision_flops(config: PreTrainedConfig, *, side: int | None = None) -> int:
    """One image through the tower, ours or a vision transformer of the CLIP kind; `side` patches a side, not its own.

    >>> from transformers import CLIPVisionConfig
    >>> shape = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 24}
    >>> clip = CLIPVisionConfig(image_size=336, patch_size=14, **shape)
    >>> round(vision_flops(clip, side=12) / vision_flops(clip), 2)
    0.24
    """
    side, width = side or config.image_size // config.patch_size, config.hidden_size
    if config.model_type == "vlmlaw_conv_tower":
        return _conv_tower_flops(config, side * config.patch_size)
    n_tokens = side**2 + class_tokens(config)
    embedding = 2 * side**2 * 3 * config.patch_size**2 * width
    per_token = 2 * width * 4 * width + 2 * width * _tower_mlp(config)
    layer = n_tokens * per_token + 2 * 2 * n_tokens**2 * width
    return embedding + config.num_hidden_layers * layer


def _tower_mlp(config: Any) -> int:
    """Widths of the matrices of a tower's MLP, summed: two of them, or three where it is gated (DINOv2's SwiGLU)."""
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
