"""Choose the size of a training's passes, and whether activations are recomputed, by the estimate of memory.

Smaller passes cost little while they fill the device, and recomputing costs a third more FLOPs. Passes therefore shrink
to LEAST_UNRECOMPUTED tokens first, then layers are recomputed, then passes shrink further.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmlaw.runtime.whole_files import whole_file
from vlmlaw.training.settings import AUTO
from vlmlaw.vlm.memory import CONTEXT, SHARE_TO_FILL, Adapter, Memory, MemoryLoad, adapter_of, training_memory

if TYPE_CHECKING:
    from vlmlaw.training.settings import CellSettings, ComputeSettings

LARGEST, LEAST_UNRECOMPUTED, LEAST = 16_384, 4096, 1024  # tokens of a pass
LIMIT = "tokens_per_pass.json"


@dataclass(frozen=True)
class Records:
    """Figures of a training's records for estimates: means of tokens, labels and images, and the longest record."""

    n_tokens: float  # V visual ones included
    n_targets: float
    n_images: float
    longest: int


@dataclass(frozen=True)
class PassPlan:
    """Tokens of a pass (None: the whole batch), whether layers are recomputed, and the memory that this takes."""

    tokens_per_pass: int | None
    recompute: bool
    memory: Memory
    fits: bool

    def of(self, compute: ComputeSettings) -> ComputeSettings:
        """Return the settings with the choice in place of `auto`."""
        return replace(compute, tokens_per_pass=self.tokens_per_pass, recompute=self.recompute)


def plan_passes(
    cell: CellSettings,
    records: Records,
    *,
    text: Any,
    vision: Any,
    compute: ComputeSettings,
    n_processes: int,
    memory_gb: float,
) -> PassPlan:
    """Take the first choice that fits a device of `memory_gb`, or the smallest. Without GPUs, `auto` means neither."""
    found = None
    for recompute, limit in _choices(compute):
        load = _load(cell, records, limit, text=text, vision=vision, n_processes=n_processes)
        load = replace(load, recompute=recompute, compile=compute.compile, on_gpu=compute.gpus > 0)
        memory = training_memory(load)
        fits = memory.all + CONTEXT <= SHARE_TO_FILL * memory_gb * 1e9 or not compute.gpus
        found = PassPlan(limit, recompute, memory, fits)
        if fits:
            break
    assert found is not None
    return found


def _choices(compute: ComputeSettings) -> Iterator[tuple[bool, int | None]]:
    if not compute.gpus:
        limit: Any = None if compute.tokens_per_pass == AUTO else compute.tokens_per_pass
        yield compute.recompute is True, limit
        return
    for recompute in (False, True) if compute.recompute == AUTO else (bool(compute.recompute),):
        if compute.tokens_per_pass != AUTO:
            yield recompute, compute.tokens_per_pass  # type: ignore[misc]
            continue
        least = LEAST_UNRECOMPUTED if compute.recompute == AUTO and not recompute else LEAST
        limit = LARGEST
        while limit >= least:
            yield recompute, limit
            limit //= 2


def _load(
    cell: CellSettings, records: Records, limit: int | None, *, text: Any, vision: Any, n_processes: int
) -> MemoryLoad:
    """Return the load of a process's pass: its part of the batch up to the limit, but at least the longest record."""
    n_tokens = max(1.0, cell.training.batch_size / n_processes) * records.n_tokens
    if limit is not None:
        n_tokens = min(n_tokens, limit)
    n_tokens = max(n_tokens, records.longest)
    n_records = n_tokens / records.n_tokens
    return MemoryLoad(
        text=text,
        vision=vision,
        dtype=cell.training.dtype,
        n_tokens=round(n_tokens),
        n_targets=round(n_records * records.n_targets),
        n_images=round(n_records * records.n_images),
        longest=records.longest,
        n_levels=len(cell.feature_layers),
        n_processes=n_processes,
        trains_language_model=cell.trains_language_model,
        trains_tower=cell.trains_tower,
        adapter=adapter_of_cell(cell, text),
    )


def adapter_of_cell(cell: CellSettings, text: Any) -> Adapter | None:
    """Return the shape of a cell's adapters (LoRA); None if it has none."""
    lora = cell.training.lora
    if lora is None:
        return None
    return adapter_of(text, rank=lora.rank, target_modules=lora.target_modules, drops=lora.dropout > 0)


def described(plan: PassPlan) -> str:
    """Describe the choice and the memory that it takes."""
    size = "the whole batch in one pass" if plan.tokens_per_pass is None else f"passes of {plan.tokens_per_pass} tokens"
    again = "activations computed again" if plan.recompute else "activations kept"
    fits = "" if plan.fits else ", which does not fit"
    return f"{size}, {again}: an estimated {plan.memory.all / 1e9:.0f} GB of each GPU{fits}"


class PassLimit:
    """The token limit of passes that a training reached after its device ran out of memory, kept in its workspace."""

    def __init__(self, workspace: Path, compute: ComputeSettings):
        self._path, self.compute = workspace / LIMIT, compute
        if self._path.exists():
            kept = json.loads(self._path.read_text())["tokens_per_pass"]
            first = compute.tokens_per_pass
            self.compute = replace(compute, tokens_per_pass=kept if first is None else min(kept, int(first)))

    @property
    def tokens_per_pass(self) -> int | None:
        """The present limit; None: the whole batch."""
        limit = self.compute.tokens_per_pass
        return None if limit is None else int(limit)

    def keep(self, tokens_per_pass: int) -> int:
        """Save the limit for the next attempt, and return it."""
        with whole_file(self._path) as partial:
            partial.write_text(json.dumps({"tokens_per_pass": tokens_per_pass}))
        return tokens_per_pass
