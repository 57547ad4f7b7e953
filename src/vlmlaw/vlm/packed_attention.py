"""Attention of packed documents, and masks as each attention implementation takes them.

Documents that stand one behind the other in one row attend to themselves only: torch's variable-length attention (Flash
Attention, Dao 2023, arXiv 2307.08691) is told where each begins, so nothing is padded and no mask is made. Where that
kernel does not run (a CPU, float32) each document is a call of its own: the same result, exactly.
B sequences, H heads, T tokens, E head width.
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
from transformers.masking_utils import sdpa_mask

from vlmlaw.errors import UserError

PACKED = "vlmlaw_packed"
TAKE_TRUTH_VALUES = ("sdpa", PACKED)
ADD_MASKS = ("eager", "flex_attention")
CAUSAL = (-1, 0)  # all places before a token, none behind it
# Asked here, once, since the compiler cannot look into it. Since torch 2.12; the window and the scale since 2.11.
TAKES_GROUPS = "enable_gqa" in inspect.signature(varlen_attn).parameters


def packed_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int = 0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Outputs (B, T, H, E) of one packed row; without `cu_seq_lens_q` (where documents begin and end), plain SDPA.

    It is one of transformers' attention functions, and the arguments are named as its flash attention's are.
    """
    if cu_seq_lens_q is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    q, k, v = (part[0].transpose(0, 1) for part in (query, key, value))  # (T, H, E)
    if query.is_cuda and query.dtype in (torch.float16, torch.bfloat16):
        out_THE = _variable_length(q, k, v, cu_seq_lens_q, max_length_q, scaling)
    else:
        out_THE = _document_by_document(q, k, v, cu_seq_lens_q, scaling)
    return out_THE[None], None


def _variable_length(q: Tensor, k: Tensor, v: Tensor, starts: Tensor, longest: int, scaling: float | None) -> Tensor:
    options: dict[str, Any] = {"scale": scaling, "window_size": CAUSAL}
    if TAKES_GROUPS:
        options["enable_gqa"] = True
    elif q.shape[1] != k.shape[1]:
        k, v = (part.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for part in (k, v))
    out: Any = varlen_attn(q, k, v, starts, starts, longest, longest, **options)
    return out


def _document_by_document(q: Tensor, k: Tensor, v: Tensor, starts: Tensor, scaling: float | None) -> Tensor:
    lengths = starts.diff().tolist()
    outputs = []
    for own_q, own_k, own_v in zip(*(part.split(lengths) for part in (q, k, v)), strict=True):
        n_repeats = own_q.shape[1] // own_k.shape[1]
        query, key, value = (part.transpose(0, 1)[None] for part in (own_q, own_k, own_v))
        out_1HTE = torch.nn.functional.scaled_dot_product_attention(
            query, repeat_kv(key, n_repeats), repeat_kv(value, n_repeats), is_causal=True, scale=scaling
        )
        outputs.append(out_1HTE[0].transpose(0, 1))
    return torch.cat(outputs)


def _packed_mask(*, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor | None:
    """No mask for a packed row; the usual one for padded rows, such as questions that a compressor reads."""
    return None if attention_mask is None else sdpa_mask(attention_mask=attention_mask, **kwargs)


AttentionInterface.register(PACKED, packed_attention)
AttentionMaskInterface.register(PACKED, _packed_mask)


def fitting_mask(attention_mask: Any, implementation: str | None, dtype: torch.dtype) -> Any:
    """The mask as an attention implementation takes it; raises UserError where it takes none such.

    transformers hands one that says who sees whom (B, 1, T, T) on as it is. SDPA reads truth values; eager and flex
    attention add the mask to their scores, where True would count as 1; flash attention has no such masks.

    >>> sees = torch.ones(1, 1, 2, 2, dtype=torch.bool).tril()
    >>> fitting_mask(sees, "sdpa", torch.float32).dtype
    torch.bool
    >>> (fitting_mask(sees, "eager", torch.float32) < 0).tolist()
    [[[[False, True], [False, False]]]]
    """
    if not (isinstance(attention_mask, Tensor) and attention_mask.ndim == 4):
        return attention_mask
    if implementation not in (*TAKE_TRUTH_VALUES, *ADD_MASKS):
        raise UserError(
            f"the attention implementation {implementation!r} takes no mask of who sees whom, which questions that "
            f"share a prefix need; load the model with attn_implementation='sdpa' (or {', '.join(ADD_MASKS)})."
        )
    if attention_mask.dtype != torch.bool or implementation in TAKE_TRUTH_VALUES:
        return attention_mask
    return torch.zeros_like(attention_mask, dtype=dtype).masked_fill(~attention_mask, torch.finfo(dtype).min)


@dataclass
class _Running:
    """The calls of a model that run at this moment, all with one attention implementation."""

    implementation: str
    own: str  # the model's
    renamed: list[tuple[PreTrainedConfig, str | None]]  # configurations and what they named before
    n_calls: int = 0


_running: dict[int, _Running] = {}  # by the identity of the model's configuration, while calls run
_turn = threading.Condition()


@contextmanager
def attention_of_call(language_model: PreTrainedModel, implementation: str | None) -> Iterator[str]:
    """The calls inside compute attention by `implementation` (None: by the model's own); yields its name.

    transformers reads the implementation from the configuration, which all calls share. So it is named there for as
    long as calls run that want it, and the model's own is back when the last of them ends or raises; a thread that
    wants another one for the same model waits until then.

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
            running = _running.get(key)
            own = running.own if running else language_model.config._attn_implementation or "eager"
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
    """Name the implementation in every configuration that the model's parts read; returns what they named before."""
    parts = [part for part in language_model.modules() if isinstance(part, PreTrainedModel)]
    configs = {id(part.config): part.config for part in parts}.values()
    before = [(config, config._attn_implementation) for config in configs]
    for config in configs:
        config._attn_implementation_internal = implementation  # the property would name it in parts of parts, too
    return before
