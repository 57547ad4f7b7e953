"""A VLM made ready for the machine it is trained on, and made whole again to be saved.

Several processes, and arithmetic in bfloat16, take FSDP2 (Zhao et al. 2023, arXiv 2304.11277; torch's fully_shard):
weights, gradients and AdamW's moments are kept in float32, each process holding a part, and a layer's weights are
gathered, in the arithmetic's precision, while it computes. In float32 on one process nothing is wrapped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from vlmlaw.attention import PACKED

if TYPE_CHECKING:
    from vlmlaw.experiment import ComputeSettings
    from vlmlaw.machine import Machine
    from vlmlaw.model import VlmForConditionalGeneration


def prepare(
    model: VlmForConditionalGeneration,
    *,
    machine: Machine,
    compute: ComputeSettings,
    dtype: torch.dtype = torch.float32,
    packed: bool = False,
) -> None:
    """Put the model on its device, its layers compiled, recomputed and sharded as is asked for.

    Do it before the optimizer is made, since sharding replaces the parameters.
    """
    nn.Module.to(model, machine.device)
    if packed:
        model.language_model.set_attn_implementation(PACKED)
    if compute.recompute:
        model.language_model.gradient_checkpointing_enable({"use_reentrant": False})
    layers = list(_layers(model.language_model))
    if compute.compile:
        for layer in layers:
            layer.compile(dynamic=True)
    if machine.n_processes > 1 or dtype != torch.float32:
        _shard(model, layers, dtype=dtype, n_processes=machine.n_processes)


def _layers(language_model: nn.Module) -> Iterator[nn.Module]:
    """The decoder's layers, by the name that transformers knows them by."""
    names: Any = getattr(language_model, "_no_split_modules", None) or ()
    return (module for module in language_model.modules() if type(module).__name__ in names)


def _shard(
    model: VlmForConditionalGeneration, layers: list[nn.Module], *, dtype: torch.dtype, n_processes: int
) -> None:
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    # The tower is frozen and small beside its activations: each process has it whole.
    model.vision_tower.to(dtype)
    # FSDP2 gathers weights of one type together: what is not of a layer goes with the connector, in float32.
    in_groups_of_their_own = {p for part in (*layers, model.vision_tower) for p in part.parameters()}
    for parameter in set(model.parameters()) - in_groups_of_their_own:
        parameter.data = parameter.data.float()
    options: dict[str, Any] = {
        "mp_policy": MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32),
        # Alone, gathering again in the backward pass would save no memory worth its time.
        "reshard_after_forward": n_processes > 1,
    }
    for layer in layers:
        fully_shard(layer, **options)
    fully_shard(model, **options, ignored_params=set(model.vision_tower.parameters()))


def gathered(tensors: Mapping[str, Tensor], machine: Machine, *, only_trained: bool = False) -> dict[str, Tensor]:
    """Whole tensors by name on the first process's CPU; every process must ask, and the others get none."""
    from torch.distributed.tensor import DTensor

    whole: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if only_trained and not tensor.requires_grad:
            continue
        full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if machine.is_first:
            whole[name] = full.detach().cpu()
    return whole


def save_whole(
    model: VlmForConditionalGeneration, whole: Mapping[str, Tensor], folder: Path, *, dtype: torch.dtype
) -> None:
    """Write the model, of which `whole` is the state, as transformers loads it, in the arithmetic's precision."""
    from vlmlaw.model import VlmForConditionalGeneration

    with torch.device("meta"):
        plain = VlmForConditionalGeneration(cast(Any, model.config))
    plain.load_state_dict({name: tensor.to(dtype) for name, tensor in whole.items()}, assign=True)
    plain.tie_weights()
    plain.generation_config = model.generation_config
    plain.save_pretrained(folder)
