"""Attention of packed documents and padded rows: every option that a model passes is honoured, or refused by name.

Documents that stand one behind the other in one row attend to themselves only: torch's variable-length attention (Flash
Attention, Dao 2023, arXiv 2307.08691) is told where each begins, so nothing is padded and no mask is made. Where that
kernel does not run (a CPU, float32) or lacks what the model asks for (soft caps, sinks, dropout), each document is a
call of its own: the same result, exactly.
B sequences, H heads, T tokens, S keys, E head width.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward

from vlmlaw.vlm.masks import AttentionRefused, mask_of_call, window_of

PACKED = "vlmlaw_packed"
# Grouped heads: since torch 2.12 (window and scale: since 2.11). Found out here, because torch.compile cannot.
TAKES_GROUPS = "enable_gqa" in inspect.signature(varlen_attn).parameters
# Flash Attention 2 (github.com/Dao-AILab/flash-attention): Ampere or later, heads of up to 256 in steps of 8.
KERNEL_CAPABILITY, KERNEL_WIDTH, KERNEL_WIDTH_STEP = (8, 0), 256, 8
_kernel = {"runs": True}
# Arguments that transformers' models pass to every attention function although they do not say which token attends to
# which, or are part of query, key and value already.
SAYS_NOTHING = {
    *("position_ids", "position_embeddings", "hidden_states", "input_ids", "past_key_value", "past_key_values"),
    *("cu_seq_lens_k", "max_length_k", "seq_idx", "cache_position", "use_cache", "return_dict", "is_causal"),
    *("output_attentions", "output_hidden_states", "output_router_logits", "logits_to_keep", "num_items_in_batch"),
    "sliding_window",  # the mask says it
    *("tokenizer", "assistant_tokenizer"),  # of `generate`, which passes them on, as for `transformers serve`
}


@dataclass(frozen=True)
class Scores:
    """How a layer's scores become weights: options of transformers' attention functions, under the same names."""

    scaling: float | None
    dropout: float = 0.0
    softcap: float | None = None  # scores pass through softcap * tanh(scores / softcap) (Gemma 2, arXiv 2408.00118)
    s_aux: Tensor | None = None  # (H,) logits of sinks, which take weight and give nothing (GPT-OSS)

    @property
    def are_plain(self) -> bool:
        """Whether torch's own kernels can compute these."""
        return self.softcap is None and self.s_aux is None


def packed_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    position_bias: Tensor | None = None,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int = 0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Return outputs (B, T, H, E) of a packed row or, without `cu_seq_lens_q` (where documents begin), of padded rows.

    This is an attention function of transformers, with the names that its arguments have there. The mask says which
    window a layer has (see `mask_of_call`). Raises AttentionRefused for options that it does not know.
    """
    if unknown := sorted(name for name in kwargs.keys() - SAYS_NOTHING if kwargs[name] is not None):
        raise AttentionRefused(f"{type(module).__name__} hands {', '.join(unknown)} to its attention")
    scores = Scores(scaling, dropout if module.training else 0.0, softcap, s_aux)
    if cu_seq_lens_q is None:
        return _padded(module, query, key, value, attention_mask, scores, position_bias, kwargs.get("is_causal")), None
    if position_bias is not None or kwargs.get("is_causal") is False:
        raise AttentionRefused(f"{type(module).__name__} hands position_bias or is_causal=False to its attention")
    window = window_of(attention_mask, module, query.shape[2])
    q, k, v = (part[0].transpose(0, 1) for part in (query, key, value))  # (T, H, E)
    if query.is_cuda and query.dtype in (torch.float16, torch.bfloat16) and kernel_serves(scores, q, v):
        out_THE = _variable_length(q, k, v, cu_seq_lens_q, max_length_q, scaling, window)
    else:
        out_THE = _document_by_document(q, k, v, cu_seq_lens_q, scores, window)
    return out_THE[None], None


def choose_kernel(device: torch.device) -> None:
    """Find out whether torch's kernel runs on this device; called outside of layers, which torch.compile compiles."""
    _kernel["runs"] = device.type != "cuda" or torch.cuda.get_device_capability(device) >= KERNEL_CAPABILITY


def kernel_serves(scores: Scores, q: Tensor, v: Tensor) -> bool:
    """Return whether torch's kernel can compute these scores of queries (T, H, E) over values on this device."""
    width = q.shape[-1]
    fits = width == v.shape[-1] and width % KERNEL_WIDTH_STEP == 0 and width <= KERNEL_WIDTH
    return _kernel["runs"] and fits and scores.are_plain and scores.dropout == 0


def _variable_length(
    q: Tensor, k: Tensor, v: Tensor, starts: Tensor, longest: int, scaling: float | None, window: int | None
) -> Tensor:
    # A token's window includes the token, the kernel's does not; (-1, 0) means all tokens before it and none behind.
    options: dict[str, Any] = {"scale": scaling, "window_size": (-1 if window is None else window - 1, 0)}
    if TAKES_GROUPS:
        options["enable_gqa"] = True
    elif q.shape[1] != k.shape[1]:
        k, v = (part.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for part in (k, v))
    out: Any = varlen_attn(q, k, v, starts, starts, longest, longest, **options)
    return out


def _document_by_document(
    q: Tensor, k: Tensor, v: Tensor, starts: Tensor, scores: Scores, window: int | None
) -> Tensor:
    lengths = starts.diff().tolist()
    outputs = []
    for own_q, own_k, own_v in zip(*(part.split(lengths) for part in (q, k, v)), strict=True):
        query, key, value = (part.transpose(0, 1)[None] for part in (own_q, own_k, own_v))
        outputs.append(attend(query, key, value, _causal(own_q, window), scores)[0].transpose(0, 1))
    return torch.cat(outputs)


def _causal(q_THE: Tensor, window: int | None) -> Tensor | None:
    """Return which token of one document sees which, (1, 1, T, T); None: itself and all tokens before."""
    if window is None or window >= len(q_THE):
        return None
    places_T = torch.arange(len(q_THE), device=q_THE.device)
    behind_TT = places_T[:, None] - places_T
    return ((behind_TT >= 0) & (behind_TT < window))[None, None]


def attend(query: Tensor, key: Tensor, value: Tensor, sees: Tensor | None, scores: Scores) -> Tensor:
    """Return outputs (B, H, T, E) of queries (B, H, T, E) over S keys that each sees where `sees` (B, 1, T, S) is True.

    Without `sees` the causal rule holds. Keys and values with fewer heads than queries are shared in groups.

    >>> x = torch.ones(1, 1, 2, 1)
    >>> value = torch.tensor([[[[0.0], [1.0]]]])
    >>> attend(x, x, value, None, Scores(1.0)).flatten().tolist()
    [0.0, 0.5]
    >>> sink = torch.ones(1)  # as heavy as a token
    >>> [round(out, 3) for out in attend(x, x, value, None, Scores(1.0, s_aux=sink)).flatten().tolist()]
    [0.0, 0.333]
    """
    key, value = (repeat_kv(part, query.shape[1] // part.shape[1]) for part in (key, value))
    if scores.are_plain:
        return torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=sees, is_causal=sees is None, scale=scores.scaling, dropout_p=scores.dropout
        )
    scale = query.shape[-1] ** -0.5 if scores.scaling is None else scores.scaling
    scores_BHTS = (query @ key.transpose(-1, -2) * scale).float()
    if scores.softcap is not None:
        scores_BHTS = scores.softcap * torch.tanh(scores_BHTS / scores.softcap)
    if sees is None:
        n_queries, n_keys = scores_BHTS.shape[-2:]
        sees = torch.ones(n_queries, n_keys, dtype=torch.bool, device=query.device).tril(n_keys - n_queries)
    scores_BHTS = scores_BHTS.masked_fill(~sees, torch.finfo(scores_BHTS.dtype).min)
    if scores.s_aux is not None:
        sinks = scores.s_aux.float().reshape(1, -1, 1, 1).expand(*scores_BHTS.shape[:-1], 1)
        weights = torch.cat([scores_BHTS, sinks], dim=-1).softmax(dim=-1)[..., :-1]
    else:
        weights = scores_BHTS.softmax(dim=-1)
    weights = torch.nn.functional.dropout(weights.to(value.dtype), p=scores.dropout, training=scores.dropout > 0)
    return weights @ value


def _padded(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sees: Tensor | None,
    scores: Scores,
    position_bias: Tensor | None,
    is_causal: bool | None,
) -> Tensor:
    if scores.are_plain:
        options: dict[str, Any] = {"dropout": scores.dropout, "scaling": scores.scaling, "is_causal": is_causal}
        return sdpa_attention_forward(module, query, key, value, sees, position_bias=position_bias, **options)[0]
    if position_bias is not None or is_causal is False:
        raise AttentionRefused(f"{type(module).__name__} asks for soft caps or sinks beside a bias of positions")
    return attend(query, key, value, sees, scores).transpose(1, 2).contiguous()


AttentionInterface.register(PACKED, packed_attention)
AttentionMaskInterface.register(PACKED, mask_of_call)


@dataclass
class _Running:
    """The calls of a model that are running now, all with one attention implementation."""

    implementation: str
    own: str  # the model's
    renamed: list[tuple[PreTrainedConfig, str | None]]  # configurations and what they named before
    n_calls: int = 0


_running: dict[int, _Running] = {}  # by the identity of the model's configuration, while calls run
_turn = threading.Condition()


def own_attention(language_model: PreTrainedModel) -> str:
    """Return the model's own attention implementation, even while calls of other threads use another one."""
    with _turn:
        running = _running.get(id(language_model.config))
        return running.own if running else language_model.config._attn_implementation or "eager"


@contextmanager
def attention_of_call(language_model: PreTrainedModel, implementation: str | None) -> Iterator[str]:
    """Within this block, compute attention by `implementation` (None: the model's own); yields its name.

    transformers reads the implementation from the configuration, which all calls share. It is set there while calls
    that want it run, and reset to the model's own when the last of them ends or raises; a thread that wants another one
    for the same model waits until then.

    >>> from transformers import Qwen2Config, Qwen2Model
    >>> shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    >>> model = Qwen2Model(Qwen2Config(vocab_size=4, num_key_value_heads=1, **shape))
    >>> with attention_of_call(model, "eager") as name:
    ...     name, model.config._attn_implementation
    ('eager', 'eager')
    >>> model.config._attn_implementation
    'sdpa'
    """
    key = id(language_model.config)
    with _turn:
        while True:
            running, own = _running.get(key), own_attention(language_model)
            wanted = implementation or own
            if running is None or running.implementation == wanted:
                break
            _turn.wait()
        if running is None:
            renamed = [] if wanted == own else _name(language_model, wanted)
            running = _running[key] = _Running(wanted, own, renamed)
        running.n_calls += 1
    try:
        yield wanted
    finally:
        with _turn:
            running.n_calls -= 1
            if not running.n_calls:
                for config, before in running.renamed:
                    config._attn_implementation_internal = before
                del _running[key]
                _turn.notify_all()


def _name(language_model: PreTrainedModel, implementation: str) -> list[tuple[PreTrainedConfig, str | None]]:
    """Set the implementation in all configurations that the model's parts read; return them with their former one."""
    parts = [part for part in language_model.modules() if isinstance(part, PreTrainedModel)]
    configs = {id(part.config): part.config for part in parts}.values()
    before = [(config, config._attn_implementation) for config in configs]
    for config in configs:
        # Not by the property, which would also set it in configurations within this one.
        config._attn_implementation_internal = implementation
    return before
