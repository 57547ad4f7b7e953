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


EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
EXPERTS_OF_A_TOKEN = ("num_experts_per_tok", "num_experts_per_token", "moe_k", "moe_topk", "top_k_experts")


def experts_of(config: PreTrainedConfig) -> tuple[int, int]:
    """Experts in a layer of this language model, and those that a token is routed to; (1, 1) without experts.

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
    """Parameters of experts that a token is not routed to. Raises UserError if the configuration does not tell.

    Shared experts, which process every token, are not among the `experts` of transformers' layers.
    """
    n_experts, n_of_token = experts_of(llm.config.get_text_config())  # type: ignore[operator,union-attr]
    in_experts = sum(p.numel() for name, p in llm.named_parameters() if "experts" in name.split("."))
    if in_experts and n_experts == 1:
        raise UserError(
            f"{type(llm).__name__} has experts, but its configuration sets none of {', '.join(EXPERTS)}; its active "
            "parameters, the law's N, cannot be counted. Take another language model."
        )
    return in_experts - in_experts * n_of_token // n_experts


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
    by_layer = compressor.tokens_by_layer(text.num_hidden_layers)
    read = sum(n_layers * layer_flops(text, n_tokens=n + n_text_tokens) for n, n_layers in Counter(by_layer).items())
    return InferenceFlops(
        llm=read + head_flops(text, n_predicted=1),
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
    one = llm_flops(text, n_tokens=1, n_predicted=0)
    pair = (llm_flops(text, n_tokens=2, n_predicted=0) - 2 * one) / 2  # 4 pairs; 2 in two single tokens
    image = inference_flops(model, n_text_tokens=0)
    n_read = layers_read(model.config.vision_config, model.config.feature_layers)
    tower = (3 if model.trains_tower else 1) * image.vision * n_read / model.config.vision_config.num_hidden_layers
    return TrainingFlops(
        per_token=times * (one - pair) + 3 * 2 * n_adapter,
        per_pair=3 * pair,  # both factors are activations, so both get a gradient
        per_target=times * 2 * text.hidden_size * text.vocab_size,
        per_image=3 * (image.compressor + image.projector) + (tower if with_tower else 0),
    )


def llm_flops(config: PreTrainedConfig, *, n_tokens: int, n_predicted: int) -> int:
    """FLOPs to prefill T = n_tokens in a decoder, with logits for n_predicted of them (see `layer_flops`)."""
    layers = config.num_hidden_layers * layer_flops(config, n_tokens=n_tokens)
    return layers + head_flops(config, n_predicted=n_predicted)


def head_flops(config: PreTrainedConfig, *, n_predicted: int) -> int:
    """FLOPs of the output head for `n_predicted` tokens."""
    return n_predicted * 2 * config.hidden_size * config.vocab_size


def layer_flops(config: PreTrainedConfig, *, n_tokens: int) -> int:
    """FLOPs of one layer of a decoder for T = n_tokens.

    With H = heads * head width: 2 T D H each for the query and output projections, 2 T D H_kv each for key and value,
    3 * 2 T D M for a gated MLP or 2 * 2 T D M for one without a gate, and 2 * 2 T^2 H for both of attention's products
    (the whole square). In a mixture of experts, the router is added, and M is as `mlp_width` has it.
    """
    width, heads, kv_heads = attention_widths(config)
    per_token = 2 * width * (2 * heads + 2 * kv_heads) + 2 * mlp_matrices(config) * width * mlp_width(config)
    n_experts, _ = experts_of(config)
    per_token += 2 * width * n_experts if n_experts > 1 else 0
    return n_tokens * per_token + 2 * 2 * n_tokens**2 * heads


def attention_widths(config: Any) -> tuple[int, int, int]:
    """Return D, the width of all heads of the queries, and that of all heads of the keys."""
    n_heads = config.num_attention_heads
    head = getattr(config, "head_dim", None) or config.hidden_size // n_heads
    return config.hidden_size, n_heads * head, (getattr(config, "num_key_value_heads", None) or n_heads) * head


# Decoders whose MLP is two matrices, without a gate; others that have a Llama's layout have three.
UNGATED = (
    *("apertus", "arcee", "bloom", "gpt2", "gpt_bigcode", "gpt_neox", "jais2", "nanochat", "nemotron", "opt"),
    *("persimmon", "phi", "starcoder2"),
)
MLP_WIDTH_NAMES = ("intermediate_size", "ffn_dim", "n_inner")  # of Llama and most others, of OPT, of GPT-2


def mlp_matrices(config: Any) -> int:
    """Return how many matrices of D x M an MLP has: three with a gate, else two."""
    return 2 if getattr(config, "model_type", "") in UNGATED else 3


def mlp_width(config: Any, *, all_experts: bool = False) -> int:
    """Return M, the width of a layer's MLP.

    In a mixture of experts, M is the sum over the shared experts and those that a token is routed to, or over all.
    """
    own = next((n for name in MLP_WIDTH_NAMES if (n := getattr(config, name, None))), 4 * config.hidden_size)
    n_experts, n_of_token = experts_of(config)
    if n_experts == 1:
        return own
    of_expert = getattr(config, "moe_intermediate_size", None) or own
    shared = getattr(config, "shared_expert_intermediate_size", None) or 0
    n_read = (n_experts if all_experts else n_of_token) + (getattr(config, "n_shared_experts", None) or 0)
    return n_read * of_expert + shared


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
