"""FLOPs of a decoder's layers and head, by a formula where it is plain and else as torch counts its own class.

A Llama-like decoder is told by five numbers of its configuration. Mixtures of experts, latent attention, state spaces
and their hybrids differ in ways for which configurations have no common words (which layers are dense, how many experts
are shared, what is projected to what). Of those the class of transformers reads a few tokens on torch's fake tensors,
which have shapes and no numbers, under FlopCounterMode; each token passes as many experts as it is routed to.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

from vlmlaw.errors import UserError
from vlmlaw.runtime.fingerprint import code_version
from vlmlaw.runtime.memo import recall, remember

# Plain decoders: attention with queries, keys, values and output, and an MLP in every layer; how many matrices it has.
MLP_MATRICES = {
    **dict.fromkeys(("bitnet", "cohere", "cohere2", "cwm", "ernie4_5", "exaone4", "gemma", "gemma2", "gemma3_text"), 3),
    **dict.fromkeys(("glm", "glm4", "granite", "helium", "hunyuan_v1_dense", "hyperclovax", "internlm3", "llama"), 3),
    **dict.fromkeys(("ministral", "ministral3", "mistral", "olmo", "olmo2", "olmo3", "phi3", "qwen2", "qwen3"), 3),
    **dict.fromkeys(("seed_oss", "smollm3", "stablelm", "vaultgemma"), 3),
    **dict.fromkeys(("apertus", "arcee", "bloom", "gpt2", "gpt_neox", "jais2", "nanochat", "nemotron"), 2),
    **dict.fromkeys(("persimmon", "phi", "starcoder2"), 2),
}
MLP_WIDTH_NAMES = ("intermediate_size", "n_inner")  # of Llama and most others, of GPT-2
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
EXPERTS_OF_A_TOKEN = ("num_experts_per_tok", "num_experts_per_token", "moe_k", "moe_topk", "top_k_experts")
CHUNK_NAMES = ("mamba_chunk_size", "chunk_size")
LIMIT_NAMES = ("max_position_embeddings", "max_seq_len")
CHUNK = 64  # tokens that linear attention computes at once
TOLERANCE = 0.01  # of a decoder's FLOPs, for what grows with T neither linearly nor with its square
NOT_READ = ("quantization_config", "auto_map", "architectures", "torch_dtype", "dtype", "transformers_version")


@dataclass(frozen=True)
class Flops:
    """FLOPs to read T tokens: start + per_token T + per_pair T^2."""

    start: float
    per_token: float
    per_pair: float

    def of(self, n_tokens: int) -> int:
        """FLOPs for T = n_tokens; 0 for none."""
        return round(self.start + self.per_token * n_tokens + self.per_pair * n_tokens**2) if n_tokens else 0


@dataclass(frozen=True)
class DecoderFlops:
    """FLOPs of a decoder: of each layer, of what stands beside its layers, and of the head for a token's logits.

    `n_params` are the parameters of all layers, with all experts, and those of all else.
    """

    layers: tuple[Flops, ...]
    beside: Flops
    head: int
    n_params: tuple[int, int]

    @property
    def whole(self) -> Flops:
        """Of all layers and what stands beside them, without the head."""
        parts = [*self.layers, self.beside]
        return Flops(*(sum(getattr(part, name) for part in parts) for name in ("start", "per_token", "per_pair")))


def decoder_flops(config: Any) -> DecoderFlops:
    """Count a language model from its configuration, or from an object with the values of its config.json.

    Attention counts the whole square of its T x T products, without regard to masks and windows, as eager attention
    computes it. Of state spaces and linear attention, transformers' implementation in torch is counted, at whole
    chunks.

    Raises UserError for an architecture whose FLOPs depend on what it reads or cannot be counted otherwise.
    """
    if is_plain(config):
        return _by_formula(config)
    return _counted(json.dumps(_values(config), sort_keys=True, default=str))


def is_plain(config: Any) -> bool:
    """Whether the formula holds: a known architecture without experts."""
    return getattr(config, "model_type", "") in MLP_MATRICES


def attention_widths(config: Any) -> tuple[int, int, int]:
    """Return D, the width of all heads of the queries, and that of all heads of the keys.

    Those of latent attention (DeepSeek's) are as it expands them from the latents.
    """
    n_heads = config.num_attention_heads
    if getattr(config, "kv_lora_rank", None):
        heads = n_heads * (config.qk_nope_head_dim + config.qk_rope_head_dim)
        return config.hidden_size, heads, heads
    head = getattr(config, "head_dim", None) or config.hidden_size // n_heads
    return config.hidden_size, n_heads * head, (getattr(config, "num_key_value_heads", None) or n_heads) * head


def experts_of(config: Any) -> tuple[int, int]:
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


def dense_width(config: Any) -> int:
    """Return M, the width of an MLP without experts."""
    return next((n for name in MLP_WIDTH_NAMES if (n := getattr(config, name, None))), 4 * config.hidden_size)


def _by_formula(config: Any) -> DecoderFlops:
    """Count a plain decoder.

    With H = heads * head width: 2 D H each for a token's query and output projections, 2 D H_kv each for key and value,
    3 * 2 D M for a gated MLP or 2 * 2 D M for one without a gate, and 2 * 2 T^2 H for both of attention's products.
    """
    width, heads, kv_heads = attention_widths(config)
    mlp = MLP_MATRICES[config.model_type] * width * dense_width(config)
    matrices = width * (2 * heads + 2 * kv_heads) + mlp
    layer, n_layers = Flops(0, 2 * matrices, 2 * 2 * heads), config.num_hidden_layers
    n_embedded = config.vocab_size * width
    n_ends = n_embedded * (1 if getattr(config, "tie_word_embeddings", False) else 2)
    return DecoderFlops((layer,) * n_layers, Flops(0, 0, 0), 2 * n_embedded, (n_layers * matrices, n_ends))


def _values(config: Any) -> dict[str, Any]:
    values = config.to_dict() if hasattr(config, "to_dict") else vars(config)
    return {name: value for name, value in values.items() if name not in NOT_READ and not name.startswith("_")}


@cache
def _counted(values: str) -> DecoderFlops:
    """Count an architecture by its own class; remembered between processes, since that takes seconds."""
    import torch
    import transformers

    asked = ("FLOPs", code_version("vlmlaw.vlm.decoder_flops"), torch.__version__, transformers.__version__, values)
    answer = recall(*asked)
    if answer is None:
        answer = _count_apart(values) if torch.cuda.is_available() else asdict(_count(json.loads(values)))
        remember(answer, *asked)
    layers = tuple(Flops(**layer) for layer in answer["layers"])
    return DecoderFlops(layers, Flops(**answer["beside"]), answer["head"], tuple(answer["n_params"]))


def _count_apart(values: str) -> dict[str, Any]:
    """Count in a process that sees no GPU: where there is one, classes take kernels that fake tensors cannot pass."""
    script = f"from {__name__} import _answer; _answer()"
    sees_none = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", script], input=values, capture_output=True, text=True, check=False, env=sees_none
    )
    last = (done.stdout.strip().splitlines() or ["{}"])[-1]
    answer: dict[str, Any] = json.loads(last) if done.returncode == 0 else {}
    if "layers" not in answer:
        said = answer.get("error") or f"the FLOPs could not be counted: {done.stderr.strip()[-300:]}"
        raise UserError(said)
    return answer


def _answer() -> None:
    """The other end of `_count_apart`: from standard input to the last line of standard output."""
    try:
        answer = asdict(_count(json.loads(sys.stdin.read())))
    except UserError as error:
        answer = {"error": str(error)}
    print(json.dumps(answer))


def _count(values: dict[str, Any]) -> DecoderFlops:
    """Read 1, 2 and 3 times a number of tokens, and a fourth time where FLOPs are no polynomial without a start."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.for_model(**values)
        if getattr(config, "attention_type", "") == "block_sparse":
            raise ValueError("attention is sparse from some length on")
        chunk = next((n for name in CHUNK_NAMES if isinstance(n := getattr(config, name, None), int)), CHUNK)
        step = min(chunk, *(n // 4 for name in LIMIT_NAMES if isinstance(n := getattr(config, name, None), int)), chunk)
        model, fake = _fake_decoder(config)
        head = 2 * model.get_output_embeddings().weight.numel()
        runs = [_layers_and_rest(model, fake, n * step) for n in (1, 2, 3)]
        layers = [_fit(at, step) for at in zip(*(of_layers for of_layers, _ in runs), strict=True)]
        rest = _fit([of_rest for _, of_rest in runs], step)
        beside = Flops(rest.start, rest.per_token - head, rest.per_pair)
        found = DecoderFlops(tuple(layers), beside, head, _parameters(model))
        if any(part.start for part in (*layers, rest)):
            of_layers, of_rest = _layers_and_rest(model, fake, 4 * step)
            expected = found.whole.of(4 * step) + 4 * step * head
            if abs(expected / (sum(of_layers) + of_rest) - 1) > TOLERANCE:
                raise ValueError("they grow with the number of tokens in steps, not as a T + b T^2")
    except Exception as error:  # whatever one of 190 classes raises on tensors without numbers
        raise UserError(
            f"the FLOPs of {values.get('model_type')} cannot be counted from its configuration ("
            f"{type(error).__name__}: {' '.join(str(error).split())[:200]}). Take another language model."
        ) from error
    return found


def _fake_decoder(config: Any) -> tuple[Any, Any]:
    """The model of a configuration, built without numbers, and the mode of torch under which it runs."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from transformers import AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    fake = FakeTensorMode()
    with fake, no_init_weights():
        # "batched_mm" computes the experts of each token, whichever they are, by products of a fixed shape.
        model = AutoModelForCausalLM.from_config(
            config,
            dtype=torch.float32,
            attn_implementation="eager",
            experts_implementation="batched_mm",
        )
    model.tie_weights()
    return model.eval(), fake


def _parameters(model: Any) -> tuple[int, int]:
    """Parameters of all layers, and of all else."""
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    names = tuple(f"{name}." for name in _layer_names(model))
    of_layers = sum(size for name, size in sizes.items() if name.startswith(names))
    return of_layers, sum(sizes.values()) - of_layers


def _layers_and_rest(model: Any, fake: Any, n_tokens: int) -> tuple[list[int], int]:
    """FLOPs of each layer, and of all else, for T = n_tokens with logits of each."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with fake, torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(input_ids=torch.zeros(1, n_tokens, dtype=torch.long), use_cache=False)
    by_module = {name.partition(".")[2]: sum(flops.values()) for name, flops in counter.get_flop_counts().items()}
    layers = {name: by_module.get(name, 0) for name in _layer_names(model)}
    rest = counter.get_total_flops() - sum(layers.values())
    n_experts, n_of_token = experts_of(model.config)
    for layer, (name, module) in itertools.product(layers, model.named_modules()):
        if name.startswith(f"{layer}.") and name.endswith(".experts"):
            of_all = 2 * n_tokens * sum(p.numel() for p in module.parameters() if p.ndim == 3)
            if by_module.get(name) == of_all:  # Llama 4's class computes all experts for each token
                layers[layer] -= of_all * (n_experts - n_of_token) // n_experts
    return list(layers.values()), rest


def _layer_names(model: Any) -> list[str]:
    """Names of the modules that are the decoder's layers. Raises ValueError if there is no list of them."""
    from torch import nn

    n_layers = model.config.num_hidden_layers
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == n_layers and not isinstance(module[0], nn.Linear):
            return [f"{name}.{i}" for i in range(n_layers)]
    raise ValueError(f"it has no list of {n_layers} layers")


def _fit(counts: Iterable[int], step: int) -> Flops:
    """The polynomial through FLOPs at 1, 2 and 3 steps."""
    one, two, three = counts
    per_pair = (three - 2 * two + one) / (2 * step**2)
    per_token = (two - one) / step - 3 * step * per_pair
    start = one - per_token * step - per_pair * step**2
    return Flops(*(_near_whole(x) for x in (start, per_token, per_pair)))


def _near_whole(x: float) -> float:
    return float(round(x)) if abs(x - round(x)) < 1e-3 else x
