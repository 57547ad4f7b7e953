"""Bytes of a device's memory that a training or an evaluation needs, from shapes alone.

What a decoder layer keeps of each token for its backward pass is counted tensor by tensor as transformers' Llama-like
layers make them (each norm its input in float32; queries, keys, values and the attention's output; four vectors of the
MLP's width), and held against torch's own count in tests/vlm/test_memory.py. Where `torch.compile` computes a layer,
what is cheap to compute again is not kept. Weights, gradients and AdamW's moments are float32 and shared out over
processes (FSDP2), which gather a layer at a time in the arithmetic's type.
T tokens, D width, H heads x head width, M width of the MLP.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vlmlaw.vlm.cost import class_tokens
from vlmlaw.vlm.decoder_flops import attention_widths, decoder_flops, dense_width, experts_of
from vlmlaw.vlm.loss import LOGITS_AT_ONCE

FLOAT = 4
SHARE_TO_FILL = 0.9  # of a device's memory: the estimate is within about 20 %, and errs upward
MOST_REPLIES = 256
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
STATES = 16  # bytes of a trained parameter in float32: itself, its gradient, AdamW's two moments
SHARED_EXPERTS = ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts")
CONTEXT = 1.5e9  # bytes of CUDA's context, its libraries and what the allocator cannot use


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """Low-rank adapters (LoRA) of a decoder layer; `layers` are the widths (in, out) of the linear layers with one."""

    rank: int
    layers: tuple[tuple[int, int], ...]
    drops: bool
    n_unread: int = 0  # numbers of a token that neither frozen layers nor adapters keep
    n_unread_heads: int = 0  # numbers of a token that only attention keeps, on a GPU

    @property
    def n_params(self) -> int:
        """Parameters in one decoder layer."""
        return self.rank * sum(n_in + n_out for n_in, n_out in self.layers)

    def kept(self, size: int, *, on_gpu: bool) -> int:
        """Return the bytes that a layer keeps of each token beyond those for training the layer's own weights."""
        of_input = size + (1 if on_gpu else size) if self.drops else 0  # the input after dropout, and dropout's mask
        unread = self.n_unread + (0 if on_gpu else self.n_unread_heads)
        return sum(of_input * n_in + size * self.rank for n_in, _ in self.layers) - size * unread


def adapter_of(config: Any, *, rank: int, target_modules: Sequence[str], drops: bool) -> Adapter:
    """Return the adapters of the named linear layers of a Llama-like decoder; an unknown name counts as D x D.

    Experts are tensors in transformers' layers, which `all-linear` leaves out.
    """
    width, heads, kv_heads = attention_widths(config)
    known = {"q_proj": (width, heads), "k_proj": (width, kv_heads), "v_proj": (width, kv_heads)}
    known["o_proj"] = (heads, width)
    if experts_of(config)[0] == 1:
        mlp = mlp_width(config)
        known |= {"gate_proj": (width, mlp), "up_proj": (width, mlp), "down_proj": (mlp, width)}
    names = list(known) if list(target_modules) == ["all-linear"] else [name.split(".")[-1] for name in target_modules]
    # A frozen layer does not keep its input for its weights; an adapter without dropout does.
    inputs = {
        ("q_proj", "k_proj", "v_proj"): width,
        ("gate_proj", "up_proj"): width,
        ("down_proj",): mlp_width(config),
    }
    read: set[str] = set() if drops else set(names)
    unread = 2 * width + sum(n for layers, n in inputs.items() if not read.intersection(layers))  # both norms, too
    return Adapter(
        rank=rank,
        layers=tuple(known.get(name, (width, width)) for name in names),
        drops=drops,
        n_unread=unread,
        n_unread_heads=0 if "o_proj" in read else heads,
    )


@dataclass(frozen=True, kw_only=True)
class MemoryLoad:
    """What one process of a training holds. `text` and `vision` are configurations; None: there is no tower."""

    text: Any
    vision: Any
    dtype: str
    n_tokens: int  # of a pass, visual ones included
    n_targets: int  # how many of them have a label
    n_images: int  # of a pass
    longest: int  # tokens of the longest document
    n_levels: int = 1  # hidden states of the tower that are read
    n_processes: int = 1
    trains_language_model: bool = True
    trains_tower: bool = False
    adapter: Adapter | None = None  # beside frozen weights
    recompute: bool = False
    compile: bool = False
    on_gpu: bool = True


@dataclass(frozen=True)
class Memory:
    """Bytes of one process by purpose; `all` is the expected peak."""

    states: float  # this process's part of weights, gradients and moments
    gathered: float  # whole weights and gradients of the layers that are computing
    activations: float  # kept from the forward pass to the backward pass
    layer: float  # of the layer whose gradient is computed
    logits: float
    tower: float

    @property
    def all(self) -> float:
        """The expected peak. Tower, head and the last layer's gradient follow each other, so the largest counts."""
        return self.states + self.gathered + max(self.tower, self.activations + max(self.layer, self.logits))


def text_parameters(config: Any) -> tuple[int, int]:
    """Return the parameters of a decoder layer, on average and with all experts, and those of embedding and head."""
    of_layers, of_ends = decoder_flops(config).n_params
    return of_layers // config.num_hidden_layers, of_ends


def mlp_width(config: Any) -> int:
    """Return M, the width of a layer's MLP: in a mixture, of the shared experts and those that a token is routed to.

    Of layers that differ, it is that of those with experts.
    """
    n_experts, n_of_token = experts_of(config)
    if n_experts == 1:
        return dense_width(config)
    of_expert = getattr(config, "moe_intermediate_size", None) or dense_width(config)
    n_shared = next((n for name in SHARED_EXPERTS if isinstance(n := getattr(config, name, None), int)), 0)
    shared = getattr(config, "shared_expert_intermediate_size", None) or 0
    return (n_of_token + n_shared) * of_expert + shared


def kept_numbers(config: Any) -> int:
    """Return how many numbers a layer of attention keeps of a token in generation.

    Latent attention (DeepSeek's) keeps kv_lora_rank + qk_rope_head_dim, in transformers as in serving engines.
    """
    if getattr(config, "kv_lora_rank", None):
        return int(config.kv_lora_rank + config.qk_rope_head_dim)
    return 2 * attention_widths(config)[2]


def vision_parameters(config: Any) -> int:
    """Return the parameters of a vision transformer's layers: 4 C^2 and the MLP, whose default width is 4 C."""
    width = config.hidden_size
    mlp = getattr(config, "intermediate_size", None) or 4 * width
    return config.num_hidden_layers * width * (4 * width + 2 * mlp)


def kept_by_layer(config: Any, *, size: int, longest: int, compiled: bool = False, on_gpu: bool = True) -> float:
    """Return the bytes that a decoder layer keeps of each token for its backward pass; `size` is bytes of a number.

    >>> from transformers import Qwen2Config
    >>> shape = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 1}
    >>> kept_by_layer(Qwen2Config(**shape), size=2, longest=150, on_gpu=False)  # as counted by torch
    2264
    """
    width, heads, kv_heads = attention_widths(config)
    n_heads, mlp = config.num_attention_heads, mlp_width(config)
    kind = str(getattr(config, "model_type", ""))
    has_inner_norms = kind.startswith(("qwen3", "gemma3", "olmo2"))  # of queries and keys
    if compiled:  # torch.compile keeps the factors of matrix products, and recomputes the activation
        inner = size * (heads + kv_heads) if has_inner_norms else 0
        return inner + size * (4 * width + 2 * heads + 2 * kv_heads + 3 * mlp) + FLOAT * (n_heads + 2)
    n_norms = 4 if kind.startswith(("gemma2", "gemma3")) else 2
    norms = n_norms * ((FLOAT + 2 * size) * width + FLOAT)
    if kind.startswith("gemma"):  # their norms scale in float32
        norms += n_norms * (FLOAT - size) * width - (n_norms - 2) * size * width
    if has_inner_norms:
        norms += (FLOAT + size) * (heads + kv_heads) + FLOAT * (heads + kv_heads) // (heads // n_heads)
    if not on_gpu and heads > kv_heads > heads // n_heads:  # without the kernel, shared keys are repeated
        kv_heads = heads
    attention = size * ((2 if on_gpu else 3) * heads + 2 * kv_heads) + FLOAT * n_heads
    # The scores of all pairs are computed, as capped scores, as weights, and cast.
    if getattr(config, "attn_logit_softcapping", None):
        attention += n_heads * longest * (2 * FLOAT + size)
    return norms + attention + 4 * size * mlp


def training_memory(load: MemoryLoad) -> Memory:
    """Estimate the peak of one process."""
    text, size = load.text, BYTES[load.dtype]
    n_layers = text.num_hidden_layers
    of_layer, of_ends = text_parameters(text)
    n_all = n_layers * of_layer + of_ends
    trained = load.trains_language_model and load.adapter is None
    sharded = load.n_processes > 1 or load.dtype != "float32"
    of_adapter = load.adapter.n_params if load.adapter else 0  # in a layer
    states = ((STATES if trained else size) * n_all + STATES * n_layers * of_adapter) / load.n_processes
    gathered = 0.0
    if sharded:
        # A single process keeps layers gathered from the forward to the backward pass; several processes hold two at
        # a time. A layer's gradient is there whole, and in float32 to be sharded. Embedding and head stay gathered.
        n_there = n_layers if load.n_processes == 1 else min(2, n_layers)
        gradients = (size + FLOAT) if trained else 0
        gathered = size * n_there * (of_layer + of_adapter) + size * of_ends + gradients * max(of_ends, 2 * of_layer)
        gathered += (size + FLOAT) * 2 * of_adapter
    tower, kept_of_images = _tower(load, size)
    states, gathered = states + tower["states"], gathered + tower["gathered"]
    kept = kept_by_layer(text, size=size, longest=load.longest, compiled=load.compile, on_gpu=load.on_gpu)
    kept += load.adapter.kept(size, on_gpu=load.on_gpu) if load.adapter else 0
    passing = size * (text.hidden_size + 3 * mlp_width(text))  # gradients while they pass through a layer
    if load.recompute:
        of_token, of_one = n_layers * size * text.hidden_size, kept + passing
    else:
        of_token, of_one = n_layers * kept, passing
    ends = (FLOAT + 3 * size) * text.hidden_size  # input embeddings, the last norm
    activations = load.n_tokens * (of_token + ends) + kept_of_images
    return Memory(states, gathered, activations, load.n_tokens * of_one, _logits(load, size), tower["passing"])


def _logits(load: MemoryLoad, size: int) -> float:
    """Return the bytes of logits, their float32 copy, log-probabilities and gradients, in parts beyond a limit."""
    n_at_once = min(load.n_targets * load.text.vocab_size, LOGITS_AT_ONCE)
    copies = 3 * FLOAT + (size if size != FLOAT else 0)
    return n_at_once * copies + 2 * size * load.n_targets * load.text.hidden_size


def _tower(load: MemoryLoad, size: int) -> tuple[dict[str, float], float]:
    """Return the tower's bytes by purpose, and those that tower, compressor and projector keep of the images."""
    vision = load.vision
    if vision is None or getattr(vision, "patch_size", None) is None:
        return {"states": 0.0, "gathered": 0.0, "passing": 0.0}, 0.0
    width, n_patches = vision.hidden_size, (vision.image_size // vision.patch_size) ** 2
    n_tokens = load.n_images * (n_patches + class_tokens(vision))
    mlp = getattr(vision, "intermediate_size", None) or 4 * width
    n_params, n_layers = vision_parameters(vision), vision.num_hidden_layers
    # Patches as the compressor reads them, and its queries, keys, values and norms.
    kept = load.n_images * n_patches * size * (load.n_levels + 8) * width
    if not load.trains_tower:
        # The tower returns all hidden states; one layer's vectors are there beside them.
        passing = n_tokens * size * ((n_layers + 5) * width + 2 * mlp)
        return {"states": float(size * n_params), "gathered": 0.0, "passing": passing}, kept
    of_token = kept_by_tower_layer(vision, size=size, on_gpu=load.on_gpu)
    again = of_token if load.recompute else 0  # of one layer at a time
    kept += n_tokens * n_layers * (size * width if load.recompute else of_token)
    gathered = 0.0
    if load.n_processes > 1 or load.dtype != "float32":
        n_there = n_layers if load.n_processes == 1 else min(2, n_layers)
        gathered = (size * n_there + 2 * (size + FLOAT)) * n_params / n_layers
    passing = kept + n_tokens * (again + size * (width + 2 * mlp))
    return {"states": STATES * n_params / load.n_processes, "gathered": gathered, "passing": passing}, kept


def kept_by_tower_layer(vision: Any, *, size: int, on_gpu: bool = True) -> float:
    """Return the bytes that one layer of a trained tower keeps of each token for its backward pass.

    `size` is the bytes of a number. Kept are inputs and outputs of the norms, queries, keys, values and the attention's
    output (twice on a CPU); two vectors of the MLP's width, three with CLIP's activation; and with layer scales, as in
    DINOv2, what each of them scales.
    """
    mlp = getattr(vision, "intermediate_size", None) or vision.hidden_size * getattr(vision, "mlp_ratio", 4)
    n_vectors = (7 if on_gpu else 8) + (2 if hasattr(vision, "layerscale_value") else 0)
    n_wide = 3 if getattr(vision, "hidden_act", "quick_gelu") == "quick_gelu" else 2
    numbers = n_vectors * vision.hidden_size + n_wide * int(mlp)
    return size * numbers + FLOAT * (getattr(vision, "num_attention_heads", 0) + 4)


def reply_memory(text: Any, *, size: int, n_prompt: int, n_new: int) -> float:
    """Return the bytes of one reply in generation: its key-value cache, a layer's vectors, its logits."""
    width, heads, kv_heads = attention_widths(text)
    n_tokens = n_prompt + n_new
    cache = size * text.num_hidden_layers * kept_numbers(text) * n_tokens
    layer = n_prompt * size * (4 * width + 2 * heads + 2 * kv_heads + 3 * mlp_width(text))
    return 2 * cache + layer + (FLOAT + size) * text.vocab_size  # twice, because a cache is copied when it grows


def replies_at_once(text: Any, vision: Any, *, size: int, n_prompt: int, n_new: int, memory: float) -> int:
    """Return how many replies fit beside the model into `memory` bytes: a power of two up to MOST_REPLIES."""
    left = SHARE_TO_FILL * memory - CONTEXT - weights_memory(text, vision, size=size)
    fitting = max(1.0, left / reply_memory(text, size=size, n_prompt=n_prompt, n_new=n_new))
    return int(min(MOST_REPLIES, 2 ** math.floor(math.log2(fitting))))


def weights_memory(text: Any, vision: Any, *, size: int) -> float:
    """Return the bytes of a model's weights, without gradients."""
    of_layer, of_ends = text_parameters(text)
    of_tower = vision_parameters(vision) if getattr(vision, "patch_size", None) else 0
    return float(size * (text.num_hidden_layers * of_layer + of_ends + of_tower))
