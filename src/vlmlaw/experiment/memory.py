"""GPU memory of an experiment's trainings and evaluations, estimated from shapes, and what `auto` chooses by it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from vlmlaw.evaluation.settings import ON_A_CPU
from vlmlaw.hub.shapes import config_of, shape_of, text_shape, vision_config
from vlmlaw.runtime.fingerprint import code_version
from vlmlaw.runtime.memo import recall, remember
from vlmlaw.settings import to_json

if TYPE_CHECKING:
    from vlmlaw.data.settings import LlavaData
    from vlmlaw.experiment.experiment import Experiment
    from vlmlaw.training.settings import CellSettings

MOST_GPUS = 64
NEW_TOKENS = 64  # of a reply, beside its prompt: for the evaluation's batch


@dataclass(frozen=True)
class Fit:
    """How a training fits its GPUs: GB of each, GPUs, whether layers are computed again, tokens of a pass."""

    gigabytes: float
    gpus: int
    recompute: bool
    tokens_per_pass: int | None
    fits: bool


def fits_of(experiment: Experiment) -> dict[str, dict[str, Fit]]:
    """Of every training by its cell's name: `align` has stage 1, `train` the rest. Remembered between processes."""
    asked = ("memory", code_version("vlmlaw.experiment.memory"), to_json(experiment))
    answer = recall(*asked)
    if answer is None:
        stages = {"align": experiment.alignments, "train": experiment.trainings}
        answer = {
            stage: {name: vars(_fit(experiment, cell)) for name, cell in cells.items()}
            for stage, cells in stages.items()
        }
        remember(answer, *asked)
    return {stage: {name: Fit(**fit) for name, fit in fits.items()} for stage, fits in answer.items()}


def _fit(experiment: Experiment, cell: CellSettings) -> Fit:
    """With the experiment's GPUs, or twice as many until it fits; each has a process and a part of the model."""
    from vlmlaw.training.passes import plan_passes

    compute, n_gpus = experiment.compute, experiment.compute.gpus
    text, vision = shapes(experiment, cell.size)
    while True:
        plan = plan_passes(
            cell,
            _records(experiment, cell),
            text=text,
            vision=None if experiment.caches_features else vision,
            compute=compute,
            n_processes=max(1, n_gpus),
            memory_gb=compute.gpu_memory_gb,
        )
        if plan.fits or n_gpus * 2 > min(MOST_GPUS, cell.training.batch_size):
            return Fit(plan.memory.all / 1e9, n_gpus, plan.recompute, plan.tokens_per_pass, plan.fits)
        n_gpus *= 2


def _records(experiment: Experiment, cell: CellSettings) -> Any:
    from vlmlaw.training.passes import Records

    data = cast("LlavaData", experiment.data)
    file = data.whole("train" if cell.trains_language_model else "align")
    n_visual = cell.n_visual_tokens or experiment.grid_side**2
    longest = n_visual + max(file.text_tokens, data.max_text_tokens if cell.trains_language_model else 0)
    longest = min(longest, cell.max_tokens or longest)
    return Records(n_visual + file.text_tokens, file.text_tokens, 1.0, longest)


def shapes(experiment: Experiment, size: str) -> tuple[Any, Any]:
    """The configurations of a size's language model and of the tower."""
    section: Any = experiment.sizes[size]
    tower: Any = experiment.vision
    text = text_shape(config_of(section.source, section.revision))
    seen_by = vision_config(config_of(tower.source, tower.revision), image_size=tower.image_size)
    return text, shape_of(seen_by)


def evaluation_batch(experiment: Experiment, cell: CellSettings) -> int:
    """Questions at once, where a cell is evaluated: the file's number, or what a GPU holds beside the model."""
    if experiment.evaluation.batch_size != "auto":
        return int(experiment.evaluation.batch_size)
    if not (experiment.pretrained and experiment.compute.gpus):
        return ON_A_CPU
    from vlmlaw.vlm.memory import BYTES, replies_at_once

    text, vision = shapes(experiment, cell.size)
    data = cast("LlavaData", experiment.data)
    n_prompt = (cell.n_visual_tokens or experiment.grid_side**2) + data.whole("train").text_tokens
    size = BYTES[experiment.evaluation.benchmark_dtype]
    free = experiment.compute.gpu_memory_gb * 1e9
    return replies_at_once(text, vision, size=size, n_prompt=n_prompt, n_new=NEW_TOKENS, memory=free)


def describe_memory(experiment: Experiment) -> list[str]:
    """A table of sizes by visual tokens: GB of each GPU in stage 2, and what was chosen."""
    fits = fits_of(experiment)["train"]
    trainings = experiment.trainings
    tokens = sorted({cell.n_visual_tokens or experiment.grid_side**2 for cell in trainings.values()})
    lines = [
        f"  Memory of each GPU in GB, of {experiment.compute.gpu_memory_gb:g} (compute.gpu_memory_gb), as estimated to "
        "some 20 %; * activations computed again:",
        "  size".ljust(10) + "GPUs".rjust(6) + "".join(f"V={n}".rjust(9) for n in tokens) + "  tokens of a pass",
    ]
    for size in experiment.sizes:
        own = [
            (cell.n_visual_tokens or experiment.grid_side**2, fits[name])
            for name, cell in trainings.items()
            if cell.size == size
        ]
        most = {
            n: max((fit for at, fit in own if at == n), key=lambda fit: fit.gigabytes, default=None) for n in tokens
        }
        row = "".join(
            (f"{fit.gigabytes:.0f}{'*' if fit.recompute else ' '}" if fit else "").rjust(9) for fit in most.values()
        )
        limits = sorted({fit.tokens_per_pass or 0 for _, fit in own}, reverse=True)
        told = ", ".join(f"{n:,}" if n else "the whole batch" for n in limits)
        lines.append(f"  {size}".ljust(10) + str(max(fit.gpus for _, fit in own)).rjust(6) + row + f"  {told}")
    too_large = [name for name, fit in fits.items() if not fit.fits]
    if too_large:
        lines.append(
            f"  {too_large[0]} and {len(too_large) - 1} more do not fit; give compute.gpus, or compute.recompute: auto "
            "with compute.tokens_per_pass: auto."
        )
    batches = [evaluation_batch(experiment, cell) for cell in experiment.cells.values()]
    least, largest = min(batches), max(batches)
    lines.append(f"  Questions at once: {largest}" + (f" down to {least}." if least < largest else "."))
    return lines
