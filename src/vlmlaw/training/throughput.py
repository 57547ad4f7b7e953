"""Measure the work of training steps and its speed: tokens, FLOPs, the device's measured peak, time and memory.

FLOPs utilisation (MFU) is that of Chowdhery et al. 2022 (PaLM, arXiv 2204.02311, appendix B): the FLOPs that the model
needs, without those of recomputed activations and padding, over those that the device could do in the same time. The
peak is measured with a matrix product, because no device reaches that of its data sheet.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from vlmlaw.training.distributed import Machine
    from vlmlaw.vlm.cost import TrainingFlops

PEAK_SIDE = {"cpu": 512, "cuda": 8192}  # of the matrices: so large that overheads do not count
PEAK_TRIES = {"cpu": 5, "cuda": 20}


@dataclass(frozen=True)
class Work:
    """The work of a pass. `n_pairs` counts the tokens that each token sees, itself included, summed over tokens."""

    n_samples: int = 0
    n_tokens: int = 0
    n_places: int = 0  # tokens with padding
    n_pairs: int = 0
    n_targets: int = 0
    n_images: int = 0


@dataclass(frozen=True)
class Pass:
    """One forward and backward pass: the arguments of the loss, its share of the step's loss, and its work."""

    inputs: Mapping[str, Any]
    share: float = 1.0
    work: Work = field(default_factory=Work)


def whole_step(step: int) -> Sequence[Pass]:
    """Return the single pass of a training whose loss is a function of the step's number."""
    return [Pass({"step": step})]


def measured_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Measure the FLOPs per second of this process's fastest product of two square matrices; takes 0.1 s at most."""
    kind = device.type
    side = PEAK_SIDE[kind]
    draws = torch.Generator(device).manual_seed(0)  # a generator of its own, so that the training's draws do not change
    a, b = (torch.randn(side, side, generator=draws, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(PEAK_TRIES[kind]):
        _wait_for(device)
        began = time.perf_counter()
        torch.mm(a, b)
        _wait_for(device)
        best = min(best, time.perf_counter() - began)
    return 2 * side**3 / best


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Meter:
    """Adds up time, work and peak memory of a training over all its interruptions."""

    def __init__(
        self, spent: Mapping[str, float], machine: Machine, *, flops: TrainingFlops | None, dtype: torch.dtype
    ):
        self._spent, self._machine, self._flops = spent, machine, flops
        self._wall, self._cpu = time.monotonic(), time.process_time()
        self._work = dict.fromkeys((item.name for item in fields(Work)), 0)
        self._done, self._waited = 0.0, 0.0
        self._peak = measured_peak(machine.device, dtype) if flops else 0.0
        if machine.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(machine.device)

    def add(self, passes: Sequence[Pass], *, waited: float) -> None:
        """Count the passes of a step, and the seconds that it waited for its input."""
        for one in passes:
            for name in self._work:
                self._work[name] += getattr(one.work, name)
            self._done += self._flops.of(one.work) if self._flops else 0.0
        self._waited += waited

    def rates(self) -> dict[str, float]:
        """Return this process's speed so far: MFU and tokens per second without padding; {} if work is not counted."""
        if not self._flops:
            return {}
        seconds = max(time.monotonic() - self._wall, 1e-9)
        return {"mfu": self._done / seconds / self._peak, "tokens_per_second": self._work["n_tokens"] / seconds}

    def read(self) -> dict[str, Any]:
        """Return the figures of the whole training so far, over all processes. Every process must call this."""
        here = {
            "cpu_seconds": time.process_time() - self._cpu,
            "model_flops": self._done,
            "input_wait_seconds": self._waited / self._machine.n_processes,
            **self._work,
        }
        summed = dict(zip(here, self._machine.total(list(here.values())), strict=True))
        summed |= {name: int(summed[name]) for name in self._work}
        figures: dict[str, Any] = {name: self._spent.get(name, 0) + value for name, value in summed.items()}
        figures["wall_seconds"] = self._spent.get("wall_seconds", 0.0) + time.monotonic() - self._wall
        figures["peak_memory_mib"] = max(self._spent.get("peak_memory_mib", 0.0), _peak_memory_mib())
        if self._machine.device.type == "cuda":
            gpu_mib = torch.cuda.max_memory_allocated(self._machine.device) / 2**20
            figures["peak_gpu_memory_mib"] = max(self._spent.get("peak_gpu_memory_mib", 0.0), gpu_mib)
        return figures

    def summary(self) -> dict[str, Any]:
        """Return the figures of `read` and the rates that follow from them."""
        figures = self.read()
        seconds, n_processes = figures["wall_seconds"], self._machine.n_processes
        on_gpu = self._machine.device.type == "cuda"
        figures["gpu_hours"] = seconds * n_processes / 3600 if on_gpu else 0.0
        figures["n_processes"] = n_processes
        if not self._flops:
            return {name: value for name, value in figures.items() if name not in {"model_flops", *self._work}}
        return figures | {
            "samples_per_second": figures["n_samples"] / seconds,
            "tokens_per_second": figures["n_tokens"] / seconds,
            "fill": figures["n_tokens"] / max(figures["n_places"], 1),
            "measured_peak_flops": self._peak,
            "mfu": figures["model_flops"] / (seconds * n_processes * self._peak),
        }


def _peak_memory_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
