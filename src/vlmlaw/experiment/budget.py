"""GPU-hours of an experiment, estimated from shapes before anything starts, with the assumptions made.

Forward FLOPs are those of `vlm/cost.py`; a backward pass costs twice its forward pass where weights are trained, once
where gradients only pass through (the LLM in stage 1), nothing where none do (a frozen tower).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from vlmlaw.experiment.memory import describe_memory, shapes
from vlmlaw.runtime.fingerprint import code_version
from vlmlaw.runtime.memo import recall, remember
from vlmlaw.settings import to_json

if TYPE_CHECKING:
    from vlmlaw.data.settings import LlavaData, LlavaFile
    from vlmlaw.experiment.experiment import Experiment
    from vlmlaw.training.settings import CellSettings

FROZEN, TRAINED = 2, 3  # forward and backward passes, in forward passes
UNCOUNTED = 665_298  # records of a file that nobody has counted: as many as LLaVA's mix has
UNCOUNTED_QUESTIONS = 10_000  # of a test file or benchmark
PUBLISHED = "published trainings had 27 % (LLaVA-1.5 7 B) and about 20 %"


@dataclass(frozen=True)
class Hours:
    """GPU-hours of one training."""

    cell: str
    size: str
    n_visual_tokens: int
    stage_1: float
    stage_2: float


def estimate(experiment: Experiment) -> list[Hours]:
    """GPU-hours of each training; one for every V counts at the largest V, a shared stage 1 with its first training."""
    flops_an_hour = experiment.compute.peak_tflops * 1e12 * utilisation_of(experiment) * 3600
    flops = training_flops(experiment)
    seen: set[str] = set()
    found = []
    for cell in experiment.trainings.values():
        stage_1 = experiment.stage_1_of(cell)
        shared = stage_1 is None or stage_1.name in seen
        first = 0.0 if stage_1 is None or shared else flops["align"][stage_1.name]
        seen.update([] if stage_1 is None else [stage_1.name])
        second = flops["train"][cell.name]
        n_visual = cell.n_visual_tokens or experiment.grid_side**2
        found.append(Hours(cell.name, cell.size, n_visual, first / flops_an_hour, second / flops_an_hour))
    return found


@dataclass(frozen=True)
class Learned:
    """What finished trainings did: how many, and the share of the peak that the estimate's FLOPs in their hours are."""

    n_trainings: int
    utilisation: float


def learned(experiment: Experiment) -> Learned | None:
    """From training.json of every finished training on GPUs; None without any.

    Measured in this estimate's FLOPs, so that it also makes good what the estimate takes wrongly.
    """
    flops = training_flops(experiment)
    n_trainings, done, gpu_seconds = 0, 0.0, 0.0
    for stage, folder in (("align", "stage_1"), ("train", ".")):
        for name, estimated in flops[stage].items():
            path = Path(experiment.results) / "cells" / name / folder / "training.json"
            try:
                hours = float(json.loads(path.read_text(encoding="utf-8"))["gpu_hours"])
            except (OSError, ValueError, KeyError, TypeError):
                continue
            if hours > 0:
                n_trainings, done, gpu_seconds = n_trainings + 1, done + estimated, gpu_seconds + 3600 * hours
    if not n_trainings:
        return None
    return Learned(n_trainings, done / gpu_seconds / (experiment.compute.peak_tflops * 1e12))


def utilisation_of(experiment: Experiment) -> float:
    """The share of the peak that trainings reach: learned from finished ones, else the file's assumption."""
    found = learned(experiment)
    return found.utilisation if found else experiment.compute.utilisation


def evaluation_hours(experiment: Experiment) -> float:
    """GPU-hours to read every question of the test split and of the benchmarks with its image, once a cell."""
    from vlmlaw.vlm import cost

    data = cast("LlavaData", experiment.data)
    n_questions = sum(file.records or UNCOUNTED_QUESTIONS for file in data.test.values())
    n_questions += UNCOUNTED_QUESTIONS * len(experiment.evaluation.benchmarks)
    flops = 0.0
    for cell in experiment.cells.values():
        llm, tower = shapes(experiment, cell.size)
        n_tokens = (cell.n_visual_tokens or experiment.grid_side**2) + data.whole("train").text_tokens
        flops += n_questions * (cost.llm_flops(llm, n_tokens=n_tokens, n_predicted=1) + cost.vision_flops(tower))
    return flops / (experiment.compute.peak_tflops * 1e12 * utilisation_of(experiment) * 3600)


def training_flops(experiment: Experiment) -> dict[str, dict[str, float]]:
    """FLOPs of every training by its cell's name: `align` has stage 1, `train` the rest.

    Remembered between processes, since the functions that count them come with torch.
    """
    asked = ("training FLOPs", code_version("vlmlaw.experiment.budget"), to_json(experiment))
    answer = recall(*asked)
    if answer is None:
        stages = {"align": experiment.alignments, "train": experiment.trainings}
        answer = {
            stage: {name: _training_flops(experiment, cell) for name, cell in cells.items()}
            for stage, cells in stages.items()
        }
        remember(answer, *asked)
    return answer


def _training_flops(experiment: Experiment, cell: CellSettings) -> float:
    """FLOPs of a stage: every record with an image, the output head at every text token."""
    from vlmlaw.compressors import compressor_class
    from vlmlaw.training.passes import adapter_of_cell
    from vlmlaw.vlm import cost

    data: Any = experiment.data
    file: LlavaFile = data.whole("train" if cell.trains_language_model else "align")
    llm, seen_by = shapes(experiment, cell.size)
    n_text, n_visual = file.text_tokens, cell.n_visual_tokens or experiment.grid_side**2
    text = cost.llm_flops(llm, n_tokens=n_text + n_visual, n_predicted=n_text)
    projector = (
        2
        * _n_projected(experiment, cell, n_visual)
        * (experiment.tower.hidden_size + llm.hidden_size)
        * llm.hidden_size
    )
    small = math.isqrt(n_visual) if compressor_class(cell.compressor).before_tower else None
    seeing = 0 if experiment.caches_features and not small else cost.vision_flops(seen_by, side=small)
    seeing *= TRAINED if cell.trains_tower else 1
    times = TRAINED if cell.trains_language_model and cell.training.lora is None else FROZEN
    adapter = adapter_of_cell(cell, llm)
    adapters = TRAINED * 2 * adapter.n_params * llm.num_hidden_layers * (n_text + n_visual) if adapter else 0
    n_seen = cell.training.steps_of(file.records or UNCOUNTED) * cell.training.batch_size
    asking = _question_pass(cell, llm, file.question_tokens)
    return n_seen * (times * text + adapters + TRAINED * projector + seeing + asking)


def _n_projected(experiment: Experiment, cell: CellSettings, n_visual: int) -> int:
    """Tokens that the projector reads: all patches where the compressor stands after it."""
    from vlmlaw.compressors import compressor_class
    from vlmlaw.compressors.base import AFTER

    after = compressor_class(cell.compressor).place_of(cell.compressor_options) == AFTER
    return experiment.grid_side**2 if after else n_visual


def _question_pass(cell: CellSettings, llm: Any, question_tokens: int) -> float:
    """FLOPs of the LLM's pass over a record's question, through which no gradient flows; 0 without such a pass."""
    from vlmlaw.compressors import compressor_class
    from vlmlaw.compressors.base import LLM
    from vlmlaw.vlm import cost

    kind = compressor_class(cell.compressor)
    if not kind.needs_question or cell.compressor_options.get("question_from", kind.question_from) != LLM:
        return 0.0
    return cost.llm_flops(llm, n_tokens=question_tokens, n_predicted=0)


def describe(experiment: Experiment) -> str:
    """The estimate as a table of sizes by visual tokens, in words what it rests on. Empty without a GPU."""
    if not experiment.pretrained or not experiment.compute.gpus:
        return ""
    data = cast("LlavaData", experiment.data)
    uncounted = [name for name in ("align", "train") if data.files(name) and not data.whole(name).records]
    if uncounted:
        return f"{experiment.name}: no estimate of GPU-hours; say how many `records` data.{uncounted[0]} has."
    hours = estimate(experiment)
    whole = sum(one.stage_1 + one.stage_2 for one in hours)
    tokens = sorted({one.n_visual_tokens for one in hours})
    lines = [
        f"{experiment.name}: {len(hours)} cells, about {whole:,.0f} GPU-hours, {sum(h.stage_1 for h in hours):,.0f} of "
        f"them in stage 1, and about {evaluation_hours(experiment):,.1f} of evaluation. Each cell:",
        "  size".ljust(10) + "".join(f"V={n}".rjust(9) for n in tokens),
    ]
    for size in experiment.sizes:
        cells = {n: [h.stage_1 + h.stage_2 for h in hours if h.size == size and h.n_visual_tokens == n] for n in tokens}
        row = "".join((f"{sum(own) / len(own):.2f}" if own else "").rjust(9) for own in cells.values())
        lines.append(f"  {size}".ljust(10) + row)
    return "\n".join([*lines, *_assumptions(experiment), *describe_memory(experiment)])


def _assumptions(experiment: Experiment) -> list[str]:
    compute, data = experiment.compute, cast("LlavaData", experiment.data)
    stages = {"stage 1": "align", "stage 2": "train"}
    files = {name: data.whole(split) for name, split in stages.items() if data.files(split)}
    read = ", ".join(
        f"{name} {file.records:,} records of {file.text_tokens} text tokens" for name, file in files.items()
    )
    tower = "its features cached" if experiment.caches_features else "the tower runs in each training"
    found = learned(experiment)
    if found:
        rate = f"{found.n_trainings} finished trainings did {found.utilisation:.0%} of {compute.peak_tflops:g} TFLOP/s"
    else:
        rate = (
            f"It assumes {compute.utilisation:.0%} of {compute.peak_tflops:g} TFLOP/s (compute.utilisation, "
            f"compute.peak_tflops), which is not measured: {PUBLISHED}, so hours may be twice as many"
        )
    return [
        f"  {rate}; {read};",
        f"  an image in each record, {tower}; FLOPs of matrix products. Preparation is extra, and so are replies of "
        "many tokens.",
    ]
