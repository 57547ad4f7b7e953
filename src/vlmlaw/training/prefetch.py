"""Make a training's inputs ahead in threads, and copy them to the device while it computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from vlmlaw.training.throughput import Pass
from vlmlaw.vlm.image_inputs import ImageInputs

Passes = Sequence[Pass]


def feed(
    passes_of: Callable[[int], Passes], steps: range, *, device: torch.device, ahead: int
) -> Generator[tuple[int, Passes], None, None]:
    """Yield each step's number and its passes, on the device.

    With `ahead`, that many threads make the passes of the next steps; without, each step's are made in turn. An error
    of a thread is raised here, at its step.
    """
    upload = _Upload(device) if device.type == "cuda" else None

    def make(step: int) -> Passes:
        passes = passes_of(step)
        return upload.start(passes) if upload else passes

    for step, passes in _made_ahead(make, steps, ahead=ahead) if ahead else ((step, make(step)) for step in steps):
        yield step, upload.finish(passes) if upload else passes


def _made_ahead(make: Callable[[int], Passes], steps: range, *, ahead: int) -> Iterator[tuple[int, Passes]]:
    pool = ThreadPoolExecutor(ahead, thread_name_prefix="input")
    waiting: deque[tuple[int, Future[Passes]]] = deque()
    try:
        for step in steps:
            waiting.append((step, pool.submit(make, step)))
            if len(waiting) > ahead:
                number, future = waiting.popleft()
                yield number, future.result()
        for number, future in waiting:
            yield number, future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class _Upload:
    """Copies from pinned memory to the GPU on a stream of their own, so that they run beside the computation."""

    def __init__(self, device: torch.device):
        self._device, self._stream = device, torch.cuda.Stream(device)

    def start(self, passes: Passes) -> Passes:
        torch.cuda.set_device(self._device)  # a thread starts with GPU 0, where pinning would create a context
        with torch.cuda.stream(self._stream):
            moved = [_changed(one, lambda t: t.pin_memory().to(self._device, non_blocking=True)) for one in passes]
            done = self._stream.record_event()
        return [replace(one, inputs={**one.inputs, "_copied": done}) for one in moved]

    def finish(self, passes: Passes) -> Passes:
        computing = torch.cuda.current_stream(self._device)
        finished = []
        for one in passes:
            computing.wait_event(one.inputs["_copied"])
            inputs = {name: value for name, value in one.inputs.items() if name != "_copied"}
            for value in inputs.values():
                for tensor in value.tensors().values() if isinstance(value, ImageInputs) else [value]:
                    if isinstance(tensor, Tensor):
                        tensor.record_stream(computing)
            finished.append(replace(one, inputs=inputs))
        return finished


def _changed(one: Pass, change: Callable[[Tensor], Tensor]) -> Pass:
    def changed(value: Any) -> Any:
        if isinstance(value, ImageInputs):
            return value.map(change)
        return change(value) if isinstance(value, Tensor) else value

    return replace(one, inputs={name: changed(value) for name, value in one.inputs.items()})
