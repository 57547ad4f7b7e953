"""Time to the first token of an answer by part: tower, pass over the question, compressor, LLM; beside it the FLOPs.

A pass over a short question takes few FLOPs and nearly as long as any: it reads every weight once.

It is measured on request and is not part of the results, which are the same on every machine.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Protocol

import torch

from vlmlaw.errors import UserError
from vlmlaw.vlm.cost import inference_flops
from vlmlaw.vlm.load import load_cell

if TYPE_CHECKING:
    from vlmlaw.vlm.cell_name import MeasuredCell
    from vlmlaw.vlm.model import VlmForConditionalGeneration

WARM_UP = 3  # passes that are not counted


@dataclass(frozen=True)
class Latency:
    """Milliseconds to read one image with one question, up to the logits of the answer's first token.

    >>> Latency(tower=5.0, question_pass=0.0, compressor=0.5, llm=12.0).all
    17.5
    """

    tower: float
    question_pass: float  # the LLM's or the embedding's, for a compressor that reads the question
    compressor: float  # with the projector
    llm: float

    @property
    def all(self) -> float:
        return sum(astuple(self))

    @classmethod
    def median_of(cls, passes: Sequence[Latency]) -> Latency:
        """The median of each part."""
        return cls(*(median(column) for column in zip(*map(astuple, passes), strict=True)))

    @classmethod
    def fastest_of(cls, passes: Sequence[Latency]) -> Latency:
        """The least of each part: what other programs disturbed least.

        What is above it says more of them than of the model, as Python's `timeit` has it
        (https://docs.python.org/3/library/timeit.html#timeit.Timer.repeat).

        >>> Latency.fastest_of([Latency(5.0, 0.0, 0.5, 40.0), Latency(9.0, 0.0, 0.5, 12.0)]).all
        17.5
        """
        return cls(*(min(column) for column in zip(*map(astuple, passes), strict=True)))


def measure(
    model: VlmForConditionalGeneration, *, n_text_tokens: int, n_repeats: int, question_tokens: int | None = None
) -> Latency:
    """The median of each part over `n_repeats` passes, as `measure_passes` has them."""
    return Latency.median_of(
        measure_passes(model, n_text_tokens=n_text_tokens, n_repeats=n_repeats, question_tokens=question_tokens)
    )


@torch.inference_mode()
def measure_passes(
    model: VlmForConditionalGeneration,
    *,
    n_text_tokens: int,
    n_repeats: int,
    question_tokens: int | None = None,
    n_warm_up: int = WARM_UP,
    seconds: float = math.inf,
) -> list[Latency]:
    """`n_repeats` passes, one image and Q = n_text_tokens at a time; fewer, at least one, in more than `seconds`.

    A compressor that reads the question gets `question_tokens` of them (None: Q).
    Nothing here depends on what image and question hold, so they are noise.
    """
    side, device = model.config.vision_config.image_size, model.device
    pixels = torch.randn(1, 3, side, side, device=device)
    asked = torch.randint(model.config.text_config.vocab_size, (1, n_text_tokens), device=device)
    asked = asked.masked_fill(asked == model.config.image_token_id, (model.config.image_token_id + 1) % 2)
    image = torch.full((1, model.compressor.n_input_tokens), model.config.image_token_id, device=device)
    given: dict[str, Any] = {"input_ids": torch.cat([image, asked], dim=1), "pixel_values": pixels}
    if model.compressor.needs_question:
        question = asked[:, :question_tokens]
        given |= {"question_ids": question, "question_mask": torch.ones_like(question)}
    found: list[Latency] = []
    for number in range(n_warm_up + n_repeats):
        with _timed(model, "encode_images", "read_question", "visual_tokens", "forward") as spent:
            model.forward(**given, logits_to_keep=1, use_cache=False)
        found += [_parts(spent)] if number >= n_warm_up else []
        if sum(one.all for one in found) > 1e3 * seconds:
            break
    return found


def _parts(spent: dict[str, float]) -> Latency:
    """Milliseconds of each part, from the seconds of methods that call one another."""
    question, visual, seen = spent["read_question"], spent["visual_tokens"], spent["encode_images"]
    return Latency(*(1e3 * part for part in (seen, question, visual - question, spent["forward"] - visual - seen)))


@contextmanager
def _timed(model: Any, *names: str) -> Iterator[dict[str, float]]:
    """Context manager that counts the seconds spent in the methods of these names; they are there when it ends."""
    spent, marks, clock = dict.fromkeys(names, 0.0), list[tuple[str, Any, Any]](), clock_of(model.device)

    def timed(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            began = clock.mark()
            made = method(*args, **options)
            marks.append((name, began, clock.mark()))
            return made

        return call

    for name in names:
        setattr(model, name, timed(name, getattr(model, name)))
    clock.wait()  # nothing queued before counts
    try:
        yield spent
    finally:
        for name in names:
            delattr(model, name)
    clock.wait()
    for name, began, ended in marks:
        spent[name] += clock.seconds(began, ended)


class Clock(Protocol):
    """What takes times on a device: marks between its work, and the seconds between two marks once it has been done."""

    def mark(self) -> Any: ...

    def wait(self) -> None: ...

    def seconds(self, began: Any, ended: Any) -> float: ...


class CpuClock:
    """The machine's own clock: a CPU has done its work when a call returns."""

    def mark(self) -> float:
        return time.perf_counter()

    def wait(self) -> None:
        pass

    def seconds(self, began: float, ended: float) -> float:
        return ended - began


class CudaClock:
    """Events in the GPU's queue, so that no part waits for the host to have seen the end of the one before.

    Source: https://docs.pytorch.org/docs/stable/notes/cuda.html#asynchronous-execution.
    """

    def mark(self) -> Any:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def wait(self) -> None:
        torch.cuda.synchronize()

    def seconds(self, began: Any, ended: Any) -> float:
        return float(began.elapsed_time(ended)) / 1e3


def clock_of(device: torch.device) -> Clock:
    """What takes times on this device."""
    return CudaClock() if device.type == "cuda" else CpuClock()


def latency_table(
    cells: Mapping[str, tuple[Path, MeasuredCell]],
    *,
    n_text_tokens: int,
    n_repeats: int,
    dtype: str,
    question_tokens: int | None = None,
) -> Iterator[str]:
    """Lines of a Markdown table, a row for each trained cell, of its milliseconds and of its FLOPs by part.

    `cells` has its name, its model's folder and what it is measured as.

    Raises UserError for a cell that has no model.
    """
    for name, (folder, _) in cells.items():  # all are looked for before the first is measured
        if not (folder / "config.json").is_file():
            target = folder / "model.safetensors"
            raise UserError(f"the cell {name} has no model in {folder}; train it: snakemake --cores all {target}")
    names = [field.name.replace("_", " ") for field in fields(Latency)]
    counted = [f"{name}, GFLOP" for name in names]
    yield "| cell, ms | " + " | ".join([*names, "first token", *counted, "all, GFLOP"]) + " |"
    yield "|---" + "|--:" * (2 * len(names) + 2) + "|"
    lengths: Any = {"n_text_tokens": n_text_tokens, "question_tokens": question_tokens}
    for name, (folder, cell) in cells.items():
        model, _ = load_cell(folder, dtype=dtype, cell=cell)
        found = measure(model, n_repeats=n_repeats, **lengths)
        flops = inference_flops(model, **lengths)
        parts = (flops.vision, flops.question_pass, flops.compressor + flops.projector, flops.llm, flops.all)
        figures = [*astuple(found), found.all, *(part / 1e9 for part in parts)]
        yield f"| `{name}` | " + " | ".join(f"{figure:.3g}" for figure in figures) + " |"
