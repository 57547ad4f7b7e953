"""Compare each layout of a language model's forward with the forward of its own class.

The reference is transformers' own class, eager, one document at a time, on the same embeddings. A packed row, padded
rows, questions that share a prefix and generation with a cache must give its logits.
T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from vlmlaw.errors import UserError
from vlmlaw.vlm.own_forward import head_logits, own_logits, read

N_PREFIX = 5  # tokens that the documents have in common, for the layout `shared`
# In standard deviations of the logits. Rounding stays far below; one token seen too many or too few moves a logit more.
TOLERANCE = {torch.float64: 1e-3, torch.float32: 1e-3, torch.bfloat16: 0.25, torch.float16: 0.05}


def require_layout(language_model: PreTrainedModel, *, preferred: Sequence[str]) -> tuple[str, str]:
    """Return the first of these layouts that gives the logits of the model's own forward, and why earlier ones do not.

    Raises UserError if none does, or if generation does not.
    """
    was_training = language_model.training
    found = differences(language_model.eval())
    language_model.train(was_training)
    wrong = {name: why for name, difference in found.items() if (why := _wrong(difference, language_model.dtype))}
    layout = next((name for name in preferred if name not in wrong), None)
    if layout is None or "generated" in wrong:
        told = "; ".join(f"{name}: {wrong[name]}" for name in (*preferred, "generated") if name in wrong)
        raise UserError(
            f"{type(language_model).__name__} cannot be trained and asked exactly: {told}. The reference is its own "
            "forward on one document at a time; take another language model (docs/architectures.md lists them)."
        )
    return layout, "; ".join(f"{name}: {wrong[name]}" for name in preferred[: preferred.index(layout)])


def _wrong(difference: float | str, dtype: torch.dtype) -> str:
    """Say what is wrong with a layout; "" if nothing is."""
    if isinstance(difference, str):
        return difference
    if difference < TOLERANCE[dtype]:
        return ""
    return f"a logit differs from its own forward by {difference:.3g} standard deviations, expected {TOLERANCE[dtype]}"


@torch.no_grad()
def differences(
    language_model: PreTrainedModel, *, lengths: Sequence[int] = (9, 12, 6), seed: int = 0
) -> dict[str, float | str]:
    """Return each layout's largest difference from the reference's logits, in their standard deviations.

    For a layout that the model refuses, the reason stands instead. The documents are random embeddings of these
    lengths, each above N_PREFIX. Raises what the model's own forward raises.

    >>> from transformers import Qwen2Config, Qwen2ForCausalLM
    >>> shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    >>> model = Qwen2ForCausalLM(Qwen2Config(vocab_size=10, num_key_value_heads=2, **shape)).eval()
    >>> {name: round(found, 3) for name, found in differences(model).items()}
    {'packed': 0.0, 'padded': 0.0, 'shared': 0.0, 'generated': 0.0}
    """
    generator = torch.Generator().manual_seed(seed)
    words: Any = language_model.get_input_embeddings().weight
    documents = [torch.randn(n, words.shape[1], generator=generator).to(words) * words.std() for n in lengths]
    for document in documents[1:]:
        document[:N_PREFIX] = documents[0][:N_PREFIX]
    expected = torch.cat([own_logits(language_model, document) for document in documents]).float()
    found: dict[str, float | str] = {}
    for name, layout in LAYOUTS.items():
        try:
            logits = torch.cat(layout(language_model, documents)).float()
        except Exception as error:  # whatever a model raises on arguments that its class has no place for
            found[name] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        else:
            found[name] = float((logits - expected).abs().max() / expected.std())
    return found


def packed(language_model: PreTrainedModel, documents: Sequence[Tensor]) -> list[Tensor]:
    """Return the logits of each document, read in one packed row."""
    lengths = [len(document) for document in documents]
    hidden_1TD = read(
        language_model,
        inputs_embeds=torch.cat(list(documents))[None],
        position_ids=torch.cat([torch.arange(n) for n in lengths])[None].to(documents[0].device),
        cu_seq_lens_q=torch.tensor([0, *lengths]).cumsum(0).int().to(documents[0].device),
        max_length_q=max(lengths),
        use_cache=False,
    ).last_hidden_state
    return [head_logits(language_model, part) for part in hidden_1TD[0].split(lengths)]


def padded(language_model: PreTrainedModel, documents: Sequence[Tensor]) -> list[Tensor]:
    """Return the logits of each document, read in a row of its own that is padded on the right."""
    lengths = [len(document) for document in documents]
    embeds_BTD = torch.nn.utils.rnn.pad_sequence(list(documents), batch_first=True)
    places_T = torch.arange(max(lengths), device=embeds_BTD.device)
    mask_BT = (places_T < torch.tensor(lengths, device=embeds_BTD.device)[:, None]).long()
    hidden_BTD = read(
        language_model,
        inputs_embeds=embeds_BTD,
        attention_mask=mask_BT,
        position_ids=places_T * mask_BT,
        use_cache=False,
    ).last_hidden_state
    return [head_logits(language_model, row[:n]) for row, n in zip(hidden_BTD, lengths, strict=True)]


def shared(language_model: PreTrainedModel, documents: Sequence[Tensor]) -> list[Tensor]:
    """Return the logits of each document, all read in one row behind the prefix that they share."""
    own = [document[N_PREFIX:] for document in documents]
    lengths = [N_PREFIX, *map(len, own)]
    segments_T = torch.cat([torch.full((n,), number) for number, n in enumerate(lengths)])
    starts = [torch.arange(N_PREFIX), *(torch.arange(N_PREFIX, N_PREFIX + len(part)) for part in own)]
    order_T = torch.arange(len(segments_T))
    sees_TT = (order_T[:, None] >= order_T) & ((segments_T == 0) | (segments_T == segments_T[:, None]))
    hidden_1TD = read(
        language_model,
        inputs_embeds=torch.cat([documents[0][:N_PREFIX], *own])[None],
        attention_mask=sees_TT[None, None].to(own[0].device),
        position_ids=torch.cat(starts)[None].to(own[0].device),
        use_cache=False,
    ).last_hidden_state
    prefix, *parts = hidden_1TD[0].split(lengths)
    return [head_logits(language_model, torch.cat([prefix, part])) for part in parts]


def generated(language_model: PreTrainedModel, documents: Sequence[Tensor]) -> list[Tensor]:
    """Return the logits of each document, read as replies are: padded on the left, the last tokens one by one."""
    lengths, n_steps = torch.tensor([len(document) for document in documents]), 3
    longest = int(lengths.max())
    embeds_BTD = torch.stack([torch.nn.functional.pad(part, (0, 0, longest - len(part), 0)) for part in documents])
    mask_BT = (torch.arange(longest) >= longest - lengths[:, None]).long()
    mask_BT = mask_BT.to(embeds_BTD.device)
    positions_BT = (mask_BT.cumsum(-1) - 1).clamp(min=0)
    states, cache, first = [], None, 0
    for end in range(longest - n_steps, longest + 1):
        outputs = read(
            language_model,
            inputs_embeds=embeds_BTD[:, first:end],
            attention_mask=mask_BT[:, :end],
            position_ids=positions_BT[:, first:end],
            use_cache=True,
            **({} if cache is None else {"past_key_values": cache}),
        )
        states.append(outputs.last_hidden_state)
        cache, first = outputs.past_key_values, end
    hidden_BTD = torch.cat(states, dim=1)
    return [head_logits(language_model, row[-n:]) for row, n in zip(hidden_BTD, lengths.tolist(), strict=True)]


LAYOUTS: dict[str, Callable[[PreTrainedModel, Sequence[Tensor]], list[Tensor]]] = {
    "packed": packed,
    "padded": padded,
    "shared": shared,
    "generated": generated,
}
