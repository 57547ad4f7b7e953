"""Prepare a VLM for the devices that train it, and gather it again for saving.

Several processes, and arithmetic in bfloat16, take FSDP2 (Zhao et al. 2023, arXiv 2304.11277; torch's fully_shard):
weights, gradients and AdamW's moments are kept in float32, each process holding a part, and a layer's weights are
gathered, in the arithmetic's precision, while it computes. In float32 on one process nothing is wrapped.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vlmlaw.vlm.packed_attention import attention_of_call, choose_kernel
from vlmlaw.vlm.towers.features import layer_stack

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from vlmlaw.training.adapter import Adapter
    from vlmlaw.training.distributed import Machine
    from vlmlaw.training.settings import ComputeSettings
    from vlmlaw.vlm.model import VlmForConditionalGeneration


def prepare(
    model: VlmForConditionalGeneration,
    *,
    machine: Machine,
    compute: ComputeSettings,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Move the model to its device; compile, recompute and shard its layers as `compute` requests.

    Call this before the optimizer is made, because sharding replaces the parameters.
    """
    choose_kernel(machine.device)
    layers = list(_layers(model.language_model))
    for layer in layers:
        if compute.recompute is True:
            _recompute(layer, model.language_model)
        if compute.compile:
            layer.compile(dynamic=True)
    if model.trains_tower:
        of_tower = list(layer_stack(model.vision_tower) or ())
        if compute.recompute is True:
            for layer in of_tower:
                _recompute_plainly(layer)
        layers = [*of_tower, *layers]
    if machine.n_processes > 1 or dtype != torch.float32:
        _shard(model, layers, dtype=dtype, machine=machine)
    else:
        nn.Module.to(model, machine.device)


def _layers(language_model: nn.Module) -> Iterator[nn.Module]:
    """The decoder layers, found by transformers' `_no_split_modules`."""
    names: Any = getattr(language_model, "_no_split_modules", None) or ()
    return (module for module in language_model.modules() if type(module).__name__ in names)


def _recompute(layer: nn.Module, language_model: PreTrainedModel) -> None:
    """Keep only the layer's inputs for the backward pass, and recompute the rest.

    This is done within the layer's forward, where torch.compile sees it; with transformers' own switch a compiled layer
    would run uncompiled. The backward pass runs when the call, and with it the choice of attention, is over, so that
    choice is made again. Compiled layers compute the same in both passes.
    """
    inner = layer.forward

    def forward(*args: Any, **kwargs: Any) -> Any:  # our own function, because torch.compile does not start at torch's
        if torch.compiler.is_compiling():
            return checkpoint(inner, *args, use_reentrant=False, **kwargs)
        chosen = language_model.config._attn_implementation

        def contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
            return nullcontext(), attention_of_call(language_model, chosen)

        return checkpoint(inner, *args, use_reentrant=False, context_fn=contexts, **kwargs)

    layer.forward = forward


def _recompute_plainly(layer: nn.Module) -> None:
    """Do the same for a layer of the tower, whose attention is the same in every call."""
    inner = layer.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        return checkpoint(inner, *args, use_reentrant=False, **kwargs)

    layer.forward = forward


def _shard(
    model: VlmForConditionalGeneration, layers: list[nn.Module], *, dtype: torch.dtype, machine: Machine
) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    # A frozen tower is small beside its activations, so each process has it whole in its own dtype. The rest moves to
    # the device layer by layer, and each process keeps its part, so that a model may be larger than a GPU's memory.
    whole = set() if model.trains_tower else set(model.vision_tower.parameters())
    if whole:
        nn.Module.to(model.vision_tower, device=machine.device)
    options: dict[str, Any] = {
        # Given explicitly, because torch would use a GPU if there is one, even for a training on the CPU.
        "mesh": init_device_mesh(machine.device.type, (machine.n_processes,)),
        "mp_policy": MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32),
        # For a single process, gathering again in the backward pass would not save enough memory for its time.
        "reshard_after_forward": machine.n_processes > 1,
    }
    for layer in layers:
        _hand_on(layer, machine, beside=set())
        fully_shard(layer, **options)
    _hand_on(model, machine, beside=whole)
    fully_shard(model, **options, ignored_params=whole)


def _hand_on(part: nn.Module, machine: Machine, *, beside: Collection[nn.Parameter]) -> None:
    """Give every process the first one's weights and buffers of a part, on the device, except for those `beside`.

    Called layer by layer, so that only one process ever holds a whole language model. Sharded parts stay as they are.
    """
    if machine.n_processes == 1:
        return
    import torch.distributed as dist
    from torch.distributed.tensor import DTensor

    # By identity, so that tied weights stay tied; old tensors are kept, so that no new one gets their identity.
    given: dict[int, tuple[Tensor, Tensor]] = {id(parameter): (parameter, parameter) for parameter in beside}
    for module in part.modules():
        for table in (module._parameters, module._buffers):
            for name, own in table.items():
                if own is None or isinstance(own, DTensor):
                    continue
                if id(own) not in given:
                    whole = own.detach() if machine.is_first else torch.empty_like(own, device=machine.device)
                    whole = whole.to(machine.device).contiguous()
                    dist.broadcast(whole.reshape(-1).view(torch.uint8), src=0)  # as bytes, for all dtypes
                    is_weight = isinstance(own, nn.Parameter)
                    new = nn.Parameter(whole, requires_grad=own.requires_grad) if is_weight else whole
                    given[id(own)] = own, new
                table[name] = given[id(own)][1]  # type: ignore[assignment]


def reshard(model: nn.Module) -> None:
    """Return a sharded model to its own part of the parameters, after a forward pass without a backward pass.

    Layers that stay gathered after the forward pass hold temporary copies until the backward pass; an optimizer made
    with these would train nothing.
    """
    from torch.distributed.fsdp import FSDPModule

    for part in model.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


def save_whole(
    model: VlmForConditionalGeneration,
    folder: Path,
    *,
    machine: Machine,
    dtype: torch.dtype,
    adapter: Adapter | None = None,
) -> None:
    """Gather the model from all processes and save it in transformers' format. Every process must call this.

    Weights are saved in the arithmetic's dtype, with which the model was trained; a frozen tower keeps its own. An
    adapter is merged in float32 before the sum is rounded.
    """
    from vlmlaw.vlm.model import VlmForConditionalGeneration

    if not _is_sharded(model):
        if machine.is_first:
            if adapter is not None:
                adapter.finish()
            model.save_pretrained(folder)
        return
    whole = gathered(model, machine)
    if not machine.is_first:
        return
    with torch.device("meta"):
        plain = VlmForConditionalGeneration(cast(Any, model.config))
        adapter = None if adapter is None else adapter.in_copy(plain.language_model)
    kept = (*(() if model.trains_tower else ("vision_tower.",)), *(name for name in whole if ".lora_" in name))
    cast_weights = {name: w if name.startswith(kept) else w.to(dtype) for name, w in whole.items()}
    plain.load_state_dict(cast_weights, assign=True)
    plain.tie_weights()
    if adapter is not None:
        adapter.finish()
    # Chat models list more ends of text there than in their configuration.
    plain.generation_config = model.generation_config
    plain.save_pretrained(folder)


def gathered(model: nn.Module, machine: Machine, *, names: Collection[str] | None = None) -> dict[str, Tensor]:
    """Gather the named weights (None: all) on the first process's CPU. Every process must call this."""
    from torch.distributed.tensor import DTensor

    whole = {}
    for name, tensor in model.state_dict().items():
        if names is not None and name not in names:
            continue
        full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if machine.is_first:
            whole[name] = full.cpu()
    return whole


def _is_sharded(model: nn.Module) -> bool:
    from torch.distributed.tensor import DTensor

    return any(isinstance(tensor, DTensor) for tensor in model.parameters())
