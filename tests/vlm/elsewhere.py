"""A device that is nowhere: its tensors lie on the CPU, say that they do not, and meet no tensor of the CPU.

So code that was never run on a GPU is told where it would have mixed devices: a tensor that it made without saying
where, an input that nobody moved. What a GPU computes otherwise (its kernels, streams, memory) this cannot tell.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("meta")  # which torch has on every machine
MAY_INDEX_FROM_CPU = ("aten.index.", "aten.index_put", "aten._unsafe_index")  # as a GPU's tensors may
MAY_CROSS = ("aten._to_copy", "aten.copy_", "aten.lift_fresh", "aten.detach", "aten.alias")


class Elsewhere(Tensor):
    """A tensor of that device; `here` is what it holds."""

    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor, requires_grad: bool = False):
        made = Tensor._make_wrapper_subclass(
            cls,
            here.shape,
            strides=here.stride(),
            storage_offset=here.storage_offset(),
            dtype=here.dtype,
            device=DEVICE,
            requires_grad=requires_grad,
        )
        made.here = here
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise AssertionError("a tensor from elsewhere was used outside of `elsewhere()`")


class _Mode(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, name = dict(kwargs or {}), str(func)
        if name.startswith("aten._fused_sdp_choice"):
            return 0  # the arithmetic that every device has; the CPU's own kernels would not be asked
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        away = [tensor for tensor in tensors if isinstance(tensor, Elsewhere)]
        assert all(isinstance(t, Elsewhere) for t in tensors if t.device == DEVICE), f"{name}: torch lost the numbers"
        here = [tensor for tensor in tensors if not isinstance(tensor, Elsewhere) and tensor.ndim]
        if away and here and not name.startswith((*MAY_INDEX_FROM_CPU, *MAY_CROSS)):
            raise AssertionError(f"{name} mixes a tensor of the device with one of the CPU: {[t.shape for t in here]}")
        target = kwargs.get("device")
        if target is not None and torch.device(target) == DEVICE:
            kwargs["device"] = torch.device("cpu")
        if name.startswith("aten.copy_"):
            goes_away = isinstance(args[0], Elsewhere)
        else:
            goes_away = bool(away) if target is None else torch.device(target) == DEVICE
        came = {id(tensor.here): tensor for tensor in away}
        plain_args, plain_kwargs = tree_map(lambda x: x.here if isinstance(x, Elsewhere) else x, (args, kwargs))
        result = func(*plain_args, **plain_kwargs)

        def wrapped(value: Any) -> Any:
            if not isinstance(value, Tensor) or isinstance(value, Elsewhere):
                return value
            if not goes_away:
                return value
            return came[id(value)] if id(value) in came else Elsewhere(value)

        return tree_map(wrapped, result)


class _Numbers(TorchFunctionMode):
    """Tensors from numbers, which torch fills before it asks a dispatch mode, and numbers from tensors."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and torch.device(kwargs.get("device") or "cpu") == DEVICE:
            return func(*args, **kwargs | {"device": "cpu"}).to(DEVICE)
        if func is Tensor.__getitem__ and isinstance(args[0], Elsewhere):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            args = args[0], tuple(torch.tensor(one) if isinstance(one, list) else one for one in index)
        if func is Tensor.tolist:  # which reads memory, and none of a subclass
            return func(args[0].cpu())
        return func(*args, **kwargs)


@contextmanager
def elsewhere() -> Iterator[torch.device]:
    """Inside, tensors may be moved to the device and used there."""
    with _Mode(), _Numbers():
        yield DEVICE


def move(module: nn.Module) -> nn.Module:
    """The module with its parameters and buffers on the device, in place; tied ones stay tied."""
    moved: dict[int, Any] = {}
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                made = nn.Parameter(Elsewhere(parameter.detach().clone()), requires_grad=parameter.requires_grad)
                part._parameters[name] = moved.setdefault(id(parameter), made)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = moved.setdefault(id(buffer), Elsewhere(buffer.clone()))
    return module
